"""Strict reading: exact types, known keys, and errors that give place, expectation and value."""

from datetime import date, datetime

import pytest

from densenet_port.errors import CorruptError, UsageError
from densenet_port.strict import Fields

CONTENT = {
    "name": "densenet",
    "size": 3,
    "ratio": 0.5,
    "top": True,
    "nothing": None,
    "day": date(2026, 11, 24),
    "inner": {"key": "value", "deeper": {}},
    "versions": {"numpy": "2.4"},
    "files": [{"size": 1}, {"size": True}],
    "names": ["a", "b"],
    "mixed": ["a", 2],
}


def table(content=CONTENT, path=""):
    return Fields("a.toml", content, UsageError, path)


READ = {
    "a value": (lambda t: t.value("size", int), 3),
    "a value of several types": (lambda t: t.value("nothing", str, type(None)), None),
    "any value": (lambda t: t.raw("top"), True),
    "values": (lambda t: t.values("mixed", int, str), ("a", 2)),
    "a text": (lambda t: t.text("name"), "densenet"),
    "texts": (lambda t: t.texts("names"), ("a", "b")),
    "one text for several": (lambda t: t.texts("name"), ("densenet",)),
    "named texts": (lambda t: t.text_map("versions"), {"numpy": "2.4"}),
    "a whole number": (lambda t: t.number("size"), 3),
    "a number": (lambda t: t.number("ratio"), 0.5),
    "a date": (lambda t: t.value("day", date), date(2026, 11, 24)),
    "one of several": (lambda t: t.one_of("name", ("densenet", "resnet")), "densenet"),
    "an object": (lambda t: t.fields("inner").text("key"), "value"),
    "objects": (lambda t: t.entries("files")[0].value("size", int), 1),
}


@pytest.mark.parametrize(("read", "expected"), READ.values(), ids=READ)
def test_a_value_of_the_right_type_is_read(read, expected):
    value = read(table())

    assert (value, type(value)) == (expected, type(expected))


WRONG = {
    "another type": (lambda t: t.value("name", int), "name: expected an integer, found 'densenet'"),
    "none of the types": (lambda t: t.value("size", str, type(None)), "size: expected a string or null, found 3"),
    "true for an integer": (lambda t: t.value("top", int), "top: expected an integer, found True"),
    "true for a number": (lambda t: t.number("top"), "top: expected an integer or a float, found True"),
    "an integer for a float": (lambda t: t.value("size", float), "size: expected a float, found 3"),
    "a number for a text": (lambda t: t.text("size"), "size: expected a string, found 3"),
    "a number in a list of texts": (lambda t: t.texts("mixed"), "mixed[1]: expected a string, found 2"),
    "a number for texts": (lambda t: t.texts("size"), "size: expected a string or a list of strings, found 3"),
    "a text for a list": (lambda t: t.values("name", str), "name: expected a list, found 'densenet'"),
    "none of several": (lambda t: t.one_of("name", ("a", "b")), "name: expected one of a, b, found 'densenet'"),
    "a list for one of several": (
        lambda t: t.one_of("names", ("a", "b")),
        "names: expected one of a, b, found ['a', 'b']",
    ),
    "a text for an object": (lambda t: t.fields("name"), "name: expected an object, found 'densenet'"),
    "a text among objects": (lambda t: t.entries("names"), "names[0]: expected an object, found 'a'"),
    "an object among named texts": (lambda t: t.text_map("inner"), "inner.deeper: expected a string, found {}"),
    "deeper": (lambda t: t.fields("inner").value("key", int), "inner.key: expected an integer, found 'value'"),
    "deeper still": (lambda t: t.fields("inner").fields("deeper").raw("x"), "missing key 'inner.deeper.x'"),
    "in a list": (lambda t: t.entries("files")[1].value("size", int), "files[1].size: expected an integer, found True"),
    "a missing key": (lambda t: t.value("weight", int), "missing key 'weight'"),
    "a missing one of several": (lambda t: t.one_of("weight", ("a",)), "missing key 'weight'"),
    "missing texts": (lambda t: t.texts("weight"), "missing key 'weight'"),
    "a missing key to know": (lambda t: t.fields("inner").check_keys(["key", "deeper", "z"]), "missing key 'inner.z'"),
    "a key nobody reads": (
        lambda t: t.fields("inner").check_keys(["key", "a"], optional=["a"]),
        "unknown key 'inner.deeper' (known: a, key)",
    ),
}


@pytest.mark.parametrize(("read", "message"), WRONG.values(), ids=WRONG)
def test_anything_else_is_an_error_that_gives_the_place(read, message):
    with pytest.raises(UsageError) as error:
        read(table())

    assert str(error.value) == f"a.toml: {message}"


def test_known_and_optional_keys_pass():
    assert table({"a": 1}).check_keys(["b", "a"], optional=["b"]) is None


def test_a_time_is_no_date():
    with pytest.raises(UsageError, match="^a.toml: day: expected a date, found datetime.datetime"):
        table({"day": datetime(2026, 11, 24)}).value("day", date)  # noqa: DTZ001


@pytest.mark.parametrize(("path", "place"), [("", "m"), ("files[0]", "m: files[0]")])
def test_what_is_no_object_is_refused_whole(path, place):
    with pytest.raises(CorruptError) as error:
        Fields("m", ["x"], CorruptError, path)

    assert str(error.value) == f"{place}: expected an object, found ['x']"


def test_a_long_value_is_cut():
    with pytest.raises(UsageError) as error:
        table({"x": "y" * 1000}).value("x", int)

    assert len(str(error.value)) < 120


def test_an_error_may_have_a_hint():
    fields = Fields("a release", {}, lambda message: UsageError(message, hint="is the address right?"))

    with pytest.raises(UsageError) as error:
        fields.text("tag")

    assert str(error.value) == "a release: missing key 'tag'\n  is the address right?"


def test_a_rule_of_one_s_own_says_it_in_the_same_words():
    assert (
        str(table(path="files[2]").wrong("size", "at least 1", 0))
        == "a.toml: files[2].size: expected at least 1, found 0"
    )
