"""safetensors files are read as the `safetensors` library reads them, ours are read by it, broken ones are refused."""

import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from densenet_port.errors import CorruptError, MisfitError, UsageError
from densenet_port.formats import safetensors as ours
from tests.support.containers import content, telling, tensor, true, weights

X = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(1))
KINDS = {
    "float64": X.double(),
    "float32": X,
    "float16": X.half(),
    "bfloat16": X.bfloat16(),
    "int64": (X * 1e9).long(),
    "int32": (X * 1e9).int(),
    "int16": (X * 1e4).short(),
    "int8": (X * 40).char(),
    "uint8": (X.abs() * 40).byte(),
    "bool": X > 0,
}


def file_of(header, data=b"", length=None):
    """A file by its parts; the header may be anything."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(begin=0, end=8, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize("dtype", KINDS)
def test_every_type_that_torch_saves_is_read(dtype, tmp_path):
    """bfloat16 comes widened to float32."""
    safetensors.torch.save_file({"x": KINDS[dtype], "scalar": KINDS[dtype][0, 0, 0].clone()}, tmp_path / "x")

    wide = (KINDS[dtype].float() if dtype == "bfloat16" else KINDS[dtype]).numpy()
    assert sorted(content(ours.read(tmp_path / "x").tensors)) == sorted(
        true({"x": wide, "scalar": wide[0, 0, 0]}, dtype)
    )


@pytest.mark.parametrize("dtype", KINDS)
def test_every_type_that_we_write_is_read_by_torch(dtype, tmp_path):
    """bfloat16 is given as float32 and written as the half that it is."""
    given_to_us = (KINDS[dtype].float() if dtype == "bfloat16" else KINDS[dtype]).numpy()
    ours.write(tmp_path / "x", {"x": tensor(given_to_us, dtype)}, telling())

    found = safetensors.torch.load_file(tmp_path / "x")["x"]
    assert (found.dtype, found.tolist()) == (KINDS[dtype].dtype, KINDS[dtype].tolist())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    named=st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda name: name != "__metadata__"),
        arrays.arrays(st.sampled_from(["f4", "i8", "u1"]), arrays.array_shapes(min_dims=0, min_side=0)),
        max_size=5,
    )
)
def test_what_we_write_is_read_by_the_library_and_by_us(named, tmp_path):
    """Whatever the names and shapes; the order is the writer's."""
    ours.write(tmp_path / "x", {name: tensor(array) for name, array in named.items()}, telling())

    library = safetensors.numpy.load_file(tmp_path / "x")
    expected = true(named)
    assert (content(ours.read(tmp_path / "x").tensors), sorted(true(library))) == (expected, sorted(expected))


def test_order_is_that_of_the_data(tmp_path):
    """The library sorts by size of type and by name, whatever it was given."""
    given_to_it = {"b": np.zeros(2, "f4"), "a": np.zeros(2, "f4"), "c": np.zeros(2, "f8")}
    safetensors.numpy.save_file(given_to_it, tmp_path / "x")

    assert list(ours.read(tmp_path / "x").tensors) == ["c", "a", "b"]


def test_the_file_s_own_words_are_metadata(tmp_path):
    """Without our entry, of which there is none in another's file."""
    safetensors.torch.save_file({"x": X}, tmp_path / "x", {"format": "pt", "note": "Grüße"})

    found = ours.read(tmp_path / "x")
    assert (found.container, found.metadata, found.record) == ("safetensors", {"format": "pt", "note": "Grüße"}, None)


def test_the_record_stands_in_the_header_for_the_library_too(tmp_path):
    """A text among the metadata, and nothing else there."""
    ours.write(tmp_path / "x", weights(), telling())

    with safetensors.safe_open(tmp_path / "x", "np") as file:
        found = file.metadata()
    read = ours.read(tmp_path / "x")
    assert ({"densenet_port": json.dumps(read.record)}.keys(), json.loads(found["densenet_port"]), read.metadata) == (
        found.keys(),
        read.record,
        {},
    )


def test_data_begin_at_a_multiple_of_eight(tmp_path):
    """As the library writes it, so that they can be mapped."""
    ours.write(tmp_path / "x", {"x": tensor(X.numpy())}, telling())

    assert int.from_bytes((tmp_path / "x").read_bytes()[:8], "little") % 8 == 0


@pytest.mark.parametrize(
    ("name", "array"), [("x", np.zeros(2, "c8")), ("__metadata__", np.zeros(2, "f4"))], ids=["a type", "a name"]
)
def test_what_the_format_has_not_is_refused(name, array, tmp_path):
    """Complex numbers; a tensor in the place of the metadata."""
    with pytest.raises(UsageError, match="cannot be written as safetensors"):
        ours.write(tmp_path / "x", {name: tensor(array)}, telling())


def test_a_record_that_grows_stops_the_writing(tmp_path):
    """It would run over the first tensor."""
    texts = iter([b"{}", b'{"text": "longer than before"}'])

    with pytest.raises(MisfitError, match="the header grew"):
        ours.write(tmp_path / "x", {"x": tensor(X.numpy())}, lambda: next(texts))


NINE = bytes(9)
HOSTILE = {
    "length beyond the file": (file_of({}, length=1000), "reach beyond"),
    "length beyond the format": (file_of({}, length=2**40), "a header of 1099511627776 bytes"),
    "no JSON": (file_of(b"{]"), "broken safetensors: JSONDecodeError"),
    "no UTF-8": (file_of(b'{"\xff": 1}'), "broken safetensors: UnicodeDecodeError"),
    "no object": (file_of([]), "broken safetensors"),
    "deep JSON": (file_of(b'{"a":' * 50_000), "broken safetensors: RecursionError"),
    "a name twice": (file_of(b'{"a": 1, "a": 2}'), "a name is given twice"),
    "no offsets": (file_of({"a": {"dtype": "F32", "shape": [2]}}), "broken safetensors: KeyError: 'data_offsets'"),
    "beyond the end": (file_of({"a": entry()}, bytes(4)), "bytes, expected"),
    "data left over": (file_of({"a": entry()}, NINE), "bytes, expected"),
    "a gap": (file_of({"a": entry(1, 9)}, NINE), "a stands at 1 to 9, expected 8 bytes from 0"),
    "an overlap": (
        file_of({"a": entry(), "b": entry(4, 12)}, bytes(12)),
        "b stands at 4 to 12, expected 8 bytes from 8",
    ),
    "another length": (file_of({"a": entry(shape=(3,))}, bytes(8)), "expected 12 bytes from 0"),
    "backwards": (file_of({"a": entry(8, 0)}, bytes(8)), "a stands at 8 to 0"),
    "a negative shape": (file_of({"a": entry(shape=(-1, -2))}, bytes(8)), "has the shape [-1, -2]"),
    "a shape of truth values": (file_of({"a": entry(shape=(True, 2))}, bytes(8)), "has the shape [True, 2]"),
    "a vast shape": (file_of({"a": entry(shape=(2**62, 2**62))}, bytes(8)), "a stands at 0 to 8"),
    "an unknown type": (file_of({"a": entry(dtype="F8_E4M3")}, bytes(8)), "a has the type F8_E4M3"),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}}), "__metadata__ holds more than texts"),
    "metadata of another kind": (file_of({"__metadata__": []}), "broken safetensors"),
    "a record of another kind": (
        file_of({"__metadata__": {"densenet_port": "[]"}}),
        "its record: expected an object, found []",
    ),
    "a record that is no JSON": (
        file_of({"__metadata__": {"densenet_port": "{"}}),
        "its record is unreadable: Expecting",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_by_name(case, tmp_path):
    """No length is believed."""
    data, message = HOSTILE[case]
    (tmp_path / "x").write_bytes(data)

    with pytest.raises(CorruptError) as caught:
        ours.read(tmp_path / "x")
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (file_of({"a": entry()}, bytes(8)), True),
        (file_of({"a": entry()}, length=10_000), False),
        (file_of(b"[]      "), False),
        (b"PK\x03\x04", False),
        (b"", False),
    ],
)
def test_a_file_is_known_by_its_length_and_brace(data, expected, tmp_path):
    """By content, never by name."""
    (tmp_path / "x").write_bytes(data)

    assert ours.sniff(tmp_path / "x", data) is expected
