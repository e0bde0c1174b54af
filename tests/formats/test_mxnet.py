"""MXNet's `.params`, written after its source: every form is read to the bit, and no length is believed.

MXNet 1.9.1 itself wrote the lists of names (`tests/data/keys/gluon*.txt`), and ran the tables' files for the card.
"""

import struct

import numpy as np
import pytest

from densenet_port import formats
from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.errors import CorruptError, MisfitError
from tests.support.containers import content, true
from tests.support.mxnet_files import DENSE, FIRST, NUMPY, array, listed, written

RNG = np.random.default_rng(6)
ARRAYS = {
    "features.0.weight": RNG.standard_normal((4, 3, 7, 7)).astype("f4"),
    "half": RNG.standard_normal(6).astype("f2"),
    "double": RNG.standard_normal((2, 3)),
    "count": np.arange(3, dtype="i8"),
}


@pytest.mark.parametrize("form", [DENSE, NUMPY, FIRST, 0])
def test_every_form_is_read_to_the_bit(form, tmp_path):
    """Of today, with NumPy's shapes, of the first version that had a number, and of those before it."""
    (tmp_path / "x.params").write_bytes(written(ARRAYS, form))

    checkpoint = formats.read(tmp_path / "x.params")

    assert (checkpoint.container, content(checkpoint.tensors)) == ("mxnet", true(ARRAYS))


def test_what_mxnet_itself_wrote(tmp_path):
    """The bytes of `mx.nd.save(file, {"a": mx.nd.array([[1, 2, 3]]), "b": mx.nd.array([4], dtype="float16")})`."""
    data = (
        "1201000000000000 0000000000000000 0200000000000000"
        "c9fa93f9 00000000 02000000 0100000000000000 0300000000000000 01000000 00000000 00000000"
        "0000803f 00000040 00004040"
        "c9fa93f9 00000000 01000000 0100000000000000 01000000 00000000 02000000 0044"
        "0200000000000000 0100000000000000 61 0100000000000000 62"
    )
    (tmp_path / "x.params").write_bytes(bytes.fromhex(data))

    arrays = {"a": np.array([[1, 2, 3]], "f4"), "b": np.array([4], "f2")}
    assert content(formats.read(tmp_path / "x.params").tensors) == true(arrays)


@pytest.fixture(scope="module")
def parts(files):
    """The small network under Gluon's names."""
    planned = convert(files["zip"], out=None, dst="gluon")
    return {name: tensor.load() for name, tensor in planned.tensors.items()}


@pytest.mark.parametrize("form", [DENSE, 0])
def test_gluon_s_parameters_are_the_network(form, parts, files, tmp_path):
    """As `save_parameters` writes them, slot by slot."""
    (tmp_path / "x.params").write_bytes(written(parts, form))

    ported, source = read(tmp_path / "x.params"), read(files["zip"])

    assert (ported.layout, ported.contract) == ("gluon", source.contract)
    assert {slot: array.tobytes() for slot, array in ported.weights.items()} == {
        slot: array.tobytes() for slot, array in source.weights.items()
    }


def test_names_of_blocks_lose_what_stands_before_all_of_them(tmp_path):
    """`export` says what a tensor is for, and each network has a name of its own."""
    names = {"arg:densenet3_conv0_weight": 1, "aux:densenet3_stage1_batchnorm0_running_var": 2}
    state = {name: np.full(2, value, "f4") for name, value in names.items()}
    (tmp_path / "x.params").write_bytes(written(state))
    (tmp_path / "two.params").write_bytes(written({**state, "arg:dense7_bias": np.ones(2, "f4")}))

    assert [*formats.read(tmp_path / "x.params").tensors] == ["conv0_weight", "stage1_batchnorm0_running_var"]
    assert next(iter(formats.read(tmp_path / "two.params").tensors)) == "densenet3_conv0_weight"


ONE = array(np.ones(2, "f4"))
HUGE = ONE[:12] + struct.pack("<q", 1 << 40) + ONE[20:]
NEGATIVE = ONE[:12] + struct.pack("<q", -2) + ONE[20:]
STRANGE = ONE[:28] + struct.pack("<i", 99) + ONE[32:]
START = listed([], [])[:16]
HOSTILE = {
    "more arrays than bytes": (
        listed([], [])[:16] + struct.pack("<2Q", 1 << 40, 0),
        "1099511627776 arrays cannot be in",
    ),
    "a shape of terabytes": (listed([HUGE], ["a"]), "4398046511104 bytes at 56 reach beyond the file's"),
    "a negative axis": (
        listed([ONE[:12] + struct.pack("<q", -2) + ONE[20:]], ["a"]),
        "has the shape (-2,) and the type 0",
    ),
    "another type": (
        listed([ONE[:28] + struct.pack("<i", 99) + ONE[32:]], ["a"]),
        "has the shape (2,) and the type 99",
    ),
    "many axes": (listed([struct.pack("<2Ii", DENSE, 0, 999) + ONE], ["a"]), "its array 0 has 999 axes"),
    "two of a name": (listed([ONE, ONE], ["a", "a"]), "2 names, 1 of them different, for 2 arrays"),
    "a name too few": (listed([ONE, ONE], ["a"]), "1 names, 1 of them different, for 2 arrays"),
    "a long name": (listed([ONE], ["a" * 5000]), "a name of 5000 bytes, at most 4096 are expected"),
    "more behind it": (listed([ONE], ["a"]) + b"x", "1 names, 1 of them different, for 1 arrays"),
    "cut": (listed([ONE], ["a"])[:-20], "reach beyond the file's"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_forged_file_is_refused(case, tmp_path):
    """Before any memory is taken."""
    data, expected = HOSTILE[case]
    (tmp_path / "x.params").write_bytes(data)

    with pytest.raises(CorruptError) as caught:
        formats.read(tmp_path / "x.params")

    assert expected in caught.value.message


def test_sparse_arrays_and_lists_without_names(tmp_path):
    """Both are told as what they are."""
    path = tmp_path / "x.params"
    path.write_bytes(listed([struct.pack("<Ii", DENSE, 2) + ONE], ["a"]))
    with pytest.raises(MisfitError) as sparse:
        formats.read(path)
    path.write_bytes(listed([ONE], []))
    with pytest.raises(MisfitError) as unnamed:
        formats.read(path)

    assert str(sparse.value) == f"{path}: its array 0 is sparse, which no layer of a DenseNet's is"
    assert str(unnamed.value) == (
        f"{path}: 1 arrays of MXNet without names\n  in MXNet, `net.save_parameters(file)`, and convert that"
    )
