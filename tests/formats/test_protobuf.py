"""Protocol Buffers' wire format, against Google's own implementation of it."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_port.errors import CorruptError
from densenet_port.formats import protobuf as wire
from densenet_port.formats.source import Source
from tests.support.containers import peak

PATH = Path("some.bin")
KIND = descriptor_pb2.FieldDescriptorProto
FIELDS = (  # number, name, type, repeated, packed
    (1, "name", KIND.TYPE_STRING, False, False),
    (2, "signed", KIND.TYPE_INT64, False, False),
    (3, "packed_ints", KIND.TYPE_INT64, True, True),
    (4, "loose_ints", KIND.TYPE_INT32, True, False),
    (5, "packed_floats", KIND.TYPE_FLOAT, True, True),
    (6, "loose_floats", KIND.TYPE_FLOAT, True, False),
    (7, "inner", KIND.TYPE_MESSAGE, True, False),
    (8, "raw", KIND.TYPE_BYTES, False, False),
    (300, "loose_doubles", KIND.TYPE_DOUBLE, True, False),
    (301, "packed_doubles", KIND.TYPE_DOUBLE, True, True),
    (536870911, "last", KIND.TYPE_UINT64, False, False),
)


def _google():
    """Google's classes of a message with every kind of field that we read, and of one without fields."""
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto2")
    told = file.message_type.add(name="Thing")
    for number, name, kind, repeated, packed in FIELDS:
        label = KIND.LABEL_REPEATED if repeated else KIND.LABEL_OPTIONAL
        field = told.field.add(name=name, number=number, type=kind, label=label)
        if packed:
            field.options.packed = True
        if kind == KIND.TYPE_MESSAGE:
            field.type_name = ".t.Thing"
    file.message_type.add(name="Nothing")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}")) for name in ("Thing", "Nothing")]


Thing, Nothing = _google()
INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT = st.floats(width=32, allow_nan=False)
DOUBLE = st.floats(allow_nan=False)
PLAIN = {
    "name": st.text(max_size=20),
    "signed": INT64,
    "packed_ints": st.lists(INT64, max_size=5),
    "loose_ints": st.lists(INT32, max_size=5),
    "packed_floats": st.lists(FLOAT, max_size=5),
    "loose_floats": st.lists(FLOAT, max_size=5),
    "raw": st.binary(max_size=20),
    "loose_doubles": st.lists(DOUBLE, max_size=5),
    "packed_doubles": st.lists(DOUBLE, max_size=5),
    "last": st.integers(0, 2**64 - 1),
}
VALUES = st.recursive(
    st.fixed_dictionaries(PLAIN), lambda inner: st.fixed_dictionaries({**PLAIN, "inner": st.lists(inner, max_size=3)})
)


def _thing(values):
    """Google's message of these values."""
    inner = [_thing(value) for value in values.get("inner", [])]
    return Thing(**{**values, "inner": inner})


def message(data):
    return wire.Message.of(Source.of_bytes(PATH, data))


def _floats(fields, dtype):
    return [float(number) for field in fields for number in field.numbers(dtype)]


def _integers(fields):
    return [number for field in fields for number in field.integers()]


def _values(told):
    """What our reader finds, as the values that went in."""
    found = told.by_number()
    inner = [_values(field.message()) for field in found.get(7, [])]
    return {
        "name": found[1][-1].text(),
        "signed": found[2][-1].integer,
        "packed_ints": _integers(found.get(3, [])),
        "loose_ints": _integers(found.get(4, [])),
        "packed_floats": _floats(found.get(5, []), "<f4"),
        "loose_floats": _floats(found.get(6, []), "<f4"),
        "raw": found[8][-1].data(),
        "loose_doubles": _floats(found.get(300, []), "<f8"),
        "packed_doubles": _floats(found.get(301, []), "<f8"),
        "last": found[536870911][-1].value,
    } | ({"inner": inner} if inner else {})


def _written(values):
    """The same values by our writer, packed throughout."""
    inner = [wire.message(7, _written(value)) for value in values.get("inner", [])]
    doubles = np.array([*values["loose_doubles"]], "<f8").tobytes()
    return [
        wire.text(1, values["name"]),
        wire.integer(2, values["signed"]),
        wire.integers(3, values["packed_ints"]),
        wire.integers(4, values["loose_ints"]),
        wire.data(5, np.array(values["packed_floats"], "<f4").tobytes()),
        *(wire.single(6, value) for value in values["loose_floats"]),
        *(part for parts in inner for part in parts),
        wire.data(8, values["raw"]),
        wire.head(300, len(doubles)),
        wire.Later(len(doubles), lambda file: file.write(doubles)),
        wire.data(301, np.array(values["packed_doubles"], "<f8").tobytes()),
        wire.integer(536870911, values["last"]),
    ]


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_what_google_writes_is_read(values):
    """Every field of every kind, at any depth, packed or not, comes back as it went in."""
    expected = {key: value for key, value in values.items() if key != "inner" or value}

    found = _values(message(_thing(values).SerializeToString()))

    assert repr(_pruned(found)) == repr(_pruned(expected))  # repr: 0.0 and -0.0 are two numbers


def _pruned(values):
    """Values in one order, without empty lists of inner messages."""
    inner = [_pruned(value) for value in values.get("inner", [])]
    return {**{key: values[key] for key in PLAIN}, **({"inner": inner} if inner else {})}


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_google_reads_what_is_written(values):
    """Google's parser finds the values that our writer was given, whether they were packed or not."""
    file = BytesIO()

    wire.write(file, _written(values))

    assert Thing.FromString(file.getvalue()) == _thing(values)


@given(st.integers(-(2**63), 2**64 - 1))
def test_a_varint_is_googles(value):
    """A number's bytes are those that Google's encoder gives it."""
    field = {"last": value} if value >= 0 else {"signed": value}

    written = wire.varint(value)

    assert Thing(**field).SerializeToString().endswith(written)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_fields_or_corrupt(data):
    """Of random bytes nothing is read that Google's parser refuses; it is laxer itself, and takes a field number 0."""
    try:
        fields = list(message(data))
    except CorruptError:
        fields = None

    assert fields is None or Nothing.FromString(data).ByteSize() > 0 or not data


def test_numbers_in_a_row_are_one_field():
    """Unpacked floats, however many, come as one field and keep their values."""
    values = np.arange(400_000, dtype="f4")
    fields = list(message(Thing(loose_floats=values.tolist(), name="end").SerializeToString()))

    found = [(field.number, field.number_count("<f4") if field.number == 6 else None) for field in fields]

    assert (found, np.array_equal(fields[-1].numbers("<f4"), values)) == ([(1, None), (6, len(values))], True)


def test_a_row_ends_where_another_field_begins():
    """Rows that are interrupted come as several fields, each with its own numbers."""
    one, two = (Thing(loose_floats=values).SerializeToString() for values in ([1.0, 2.0], [3.0]))

    fields = message(one + wire.text(1, "between") + two + wire.data(6, np.float32(4.0).tobytes()))

    assert [field.numbers("<f4").tolist() for field in fields if field.number == 6] == [[1.0, 2.0], [3.0], [4.0]]


def test_a_tag_longer_than_it_need_be_is_understood():
    """A tag of more bytes than it needs has the same meaning, and its numbers are not mixed up."""
    overlong = b"\xb5\x00" + np.float32(1.5).tobytes()

    found = [field.numbers("<f4").tolist() for field in message(overlong * 2)]

    assert found == [[1.5], [1.5]]


def test_groups_are_read_over():
    """What stands in an obsolete group, groups within it too, is passed over."""
    group = b"\x0b" + wire.text(2, "x") + b"\x13" + b"\x14" + b"\x0c"

    found = [(field.number, field.text()) for field in message(group + wire.text(9, "kept"))]

    assert found == [(9, "kept")]


HOSTILE = {
    "length past the end": (
        b"\x0a\x05abc",
        "some.bin: 5 bytes at 2 reach beyond the file's 5\n  fetch or copy the file again",
    ),
    "huge length": (
        b"\x0a" + b"\xff" * 8 + b"\x7f",
        "some.bin: 9223372036854775807 bytes at 10 reach beyond the file's 10\n  fetch or copy the file again",
    ),
    "number without an end": (b"\x08" + b"\xff" * 11, "some.bin: a number has no end\n  fetch or copy the file again"),
    "tag without an end": (b"\xff", "some.bin: a number has no end\n  fetch or copy the file again"),
    "field number 0": (b"\x00\x01", "some.bin: a field of number 0 and wire type 0"),
    "unknown wire type": (b"\x0f", "some.bin: a field of number 1 and wire type 7"),
    "cut float": (b"\x0d\x00\x00", "some.bin: 4 bytes at 1 reach beyond the file's 3\n  fetch or copy the file again"),
    "group without an end": (b"\x0b", "some.bin: the group of field 1 has no end"),
    "group without a beginning": (b"\x0c", "some.bin: the group of field 1 ends without a beginning"),
    "groups too deep": (b"\x0b" * 65, "some.bin: groups nested more than 64 deep"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_broken_messages_are_refused(name):
    """A length, number or nesting that cannot be is said, before memory is taken for it."""
    data, says = HOSTILE[name]

    with pytest.raises(CorruptError) as caught:
        list(message(data))

    assert str(caught.value) == says


def test_messages_are_nested_only_so_deep():
    """Messages within messages, as deep as a file may claim, end in an error and not in the stack's."""
    data = b""
    for _ in range(100):
        data = wire.data(7, data)

    def descend(told):
        for field in told:
            descend(field.message())

    with pytest.raises(CorruptError) as caught:
        descend(message(data))

    assert str(caught.value) == "some.bin: messages nested more than 64 deep"


def test_fields_are_counted_over_the_whole_file(monkeypatch):
    """A file of very many tiny fields is refused, wherever in it they stand."""
    monkeypatch.setattr(wire, "MOST", 10)
    data = (wire.data(7, wire.integer(2, 1) * 4)) * 3

    with pytest.raises(CorruptError) as caught:
        [list(field.message()) for field in message(data)]

    assert str(caught.value) == "some.bin: more than 10 fields"


WRONG = {
    "integer": (wire.text(1, "x"), lambda field: field.integer, "field 1 has the wire type 2, expected 0"),
    "message": (wire.integer(1, 2), lambda field: field.message(), "field 1 has the wire type 0, expected 2"),
    "text": (wire.data(1, b"\xff"), lambda field: field.text(), "field 1 is no text: "),
    "too long": (wire.data(1, b"abc"), lambda field: field.data(2), "field 1 has 3 bytes, at most 2 are expected"),
    "floats": (
        wire.data(1, b"abc"),
        lambda field: field.numbers("<f4"),
        "field 1 has 3 bytes, expected a multiple of 4",
    ),
    "doubles": (wire.single(1, 1.0), lambda field: field.numbers("<f8"), "field 1 has the wire type 5, expected 2"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_field_of_another_type_is_refused(name):
    """A field that is not of the type it is read as says so."""
    data, use, says = WRONG[name]
    (field,) = message(data)

    with pytest.raises(CorruptError) as caught:
        use(field)

    assert str(caught.value).startswith(f"some.bin: {says}")


def test_looking_at_a_file_costs_its_structure(tmp_path):
    """Iterating over fields of many megabytes takes little memory, and a payload is read when asked for."""
    path = tmp_path / "large.bin"
    path.write_bytes(wire.data(1, bytes(8_000_000)) * 4 + wire.text(2, "end"))

    used = peak(lambda: list(wire.Message.of(Source.of_file(path))))

    assert used < 100_000
