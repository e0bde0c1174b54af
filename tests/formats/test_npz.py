"""NumPy's archives: what NumPy writes is read to the bit, and no header can make us take memory, or run anything."""

import io
import struct
import warnings
import zipfile

import numpy as np
import pytest

from densenet_port import formats
from densenet_port.errors import CorruptError, MisfitError
from tests.support.containers import content, true

RNG = np.random.default_rng(3)
ARRAYS = {
    "features.conv0.weight": RNG.standard_normal((4, 3, 7, 7)).astype("f4"),
    "turned": np.asfortranarray(RNG.standard_normal((3, 5))),
    "half": RNG.standard_normal(6).astype("f2"),
    "count": np.array(7, "i8"),
    "none": np.zeros((0, 3), "f4"),
    "mask": np.array([True, False]),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_saves_is_read_to_the_bit(save, tmp_path):
    """Every order, every type of numbers, no axis and no element."""
    save(tmp_path / "x.npz", **ARRAYS)

    checkpoint = formats.read(tmp_path / "x.npz")

    assert (checkpoint.container, checkpoint.metadata) == ("npz", {})
    assert content(checkpoint.tensors) == true(ARRAYS)


def test_big_endian_numbers_become_the_machine_s(tmp_path):
    """The values are the same, and the name of the type."""
    np.savez(tmp_path / "x.npz", a=ARRAYS["turned"].astype(">f8"))

    assert content(formats.read(tmp_path / "x.npz").tensors) == true({"a": ARRAYS["turned"]})


def test_texts_and_other_types_are_left_out_and_noted(tmp_path):
    """They are no tensors; objects are pickles, which nothing looks into."""
    np.savez(
        tmp_path / "x.npz",
        weight=np.ones(2, "f4"),
        name=np.array("densenet"),
        pair=np.zeros(1, [("a", "f4")]),
        phase=np.zeros(1, "c8"),
        state=np.array({"a": 1}, dtype=object),
    )

    checkpoint = formats.read(tmp_path / "x.npz")

    assert [*checkpoint.tensors] == ["weight"]
    assert checkpoint.metadata["opaque"] == {"name": "<U8", "pair": "structured", "phase": "<c8", "state": "|O"}


def test_an_archive_without_numbers(tmp_path):
    """It says what it has not."""
    np.savez(tmp_path / "x.npz", name=np.array("densenet"))

    with pytest.raises(MisfitError, match="x.npz: a NumPy archive of no arrays of numbers"):
        formats.read(tmp_path / "x.npz")


def npy(header, data=b"", version=1, length=None):
    """A member of any header."""
    text = header.encode()
    size = len(text) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", size) + text + data


def archive(path, *members):
    """An archive of members of any content, called a, b, …; of one name twice where a name is given twice."""
    with zipfile.ZipFile(path, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, member in zip("abc", members, strict=False):
            file.writestr(f"{name}.npy", member)
    return path


PLAIN = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"
HOSTILE = {
    "no array": (b"hello", "a.npy does not begin as an array of NumPy does"),
    "cut header": (npy(PLAIN, length=900), "900 bytes at 10 reach beyond the file's 67"),
    "long header": (
        npy(PLAIN, bytes(99_999), 2, 99_999),
        "a.npy has a header of 99999 bytes, at most 10000 are expected",
    ),
    "a program": (npy("__import__('os')"), "a.npy has the header \"__import__('os')\""),
    "no shape": (npy(PLAIN.replace("shape", "shop")), "a.npy has the header \"{'descr': '<f4', "),
    "a shape of more": (npy(PLAIN, bytes(4)), "a.npy of the shape (2,) has 4 bytes, expected 8"),
    "a shape of less": (npy(PLAIN, bytes(12)), "a.npy of the shape (2,) has 12 bytes, expected 8"),
    "a shape of terabytes": (npy(PLAIN.replace("2,", "9" * 13)), f"of the shape ({'9' * 13},) has 0 bytes"),
    "negative": (npy(PLAIN.replace("2,", "-2,"), bytes(8)), "a.npy has the header"),
    "many axes": (npy(PLAIN.replace("2,", "1," * 33), bytes(4)), f"of the shape {(1,) * 33} has 4 bytes"),
    "a long number": (npy(PLAIN.replace("2,", "9" * 5000 + ",")), "broken NumPy archive: ValueError"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_refused(case, tmp_path):
    """Nothing of it is evaluated, and its lengths are compared with the member's."""
    member, message = HOSTILE[case]

    with pytest.raises(CorruptError) as caught:
        formats.read(archive(tmp_path / "x.npz", member))

    assert message in caught.value.message


def test_versions_2_and_3(tmp_path):
    """Their headers have four bytes of length."""
    members = [npy(PLAIN, np.ones(2, "f4").tobytes(), version) for version in (2, 3)]

    tensors = formats.read(archive(tmp_path / "x.npz", *members)).tensors

    assert content(tensors) == true({"a": np.ones(2, "f4"), "b": np.ones(2, "f4")})


def test_a_member_that_is_no_array(tmp_path):
    """An archive of arrays has nothing else."""
    np.savez(tmp_path / "x.npz", a=np.ones(2))
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as file:
        file.writestr("readme.txt", "hello")

    with pytest.raises(CorruptError, match="readme.txt does not begin as an array of NumPy does"):
        formats.read(tmp_path / "x.npz")


def test_python_2_wrote_long_numbers(tmp_path):
    """`(2L,)` is a shape."""
    member = npy(PLAIN.replace("2,", "2L,"), np.ones(2, "f4").tobytes())

    assert content(formats.read(archive(tmp_path / "x.npz", member)).tensors) == true({"a": np.ones(2, "f4")})


def test_numpy_reads_what_we_take_for_an_array():
    """The members made here are NumPy's own form."""
    assert np.load(io.BytesIO(npy(PLAIN, np.ones(2, "f4").tobytes()))).tolist() == [1, 1]
