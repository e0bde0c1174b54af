"""Files that Keras 1.2.2 and 2.3.1 really wrote of titu1994's networks and keras.applications', with their own logits.

`tests/record/old_family.py` made them. Logits are in float64 on Theano, in float32 on TensorFlow.
"""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.errors import MisfitError
from densenet_port.network.numpy import forward
from tests.record.old_family import HERE, ROWS
from tests.record.old_keras import pictures

TOLD = json.loads(Path(HERE, "family.json").read_text(encoding="utf-8"))
LAYOUTS = {"titu1994": "titu1994", "cifar": "titu1994-v2", "applications": "keras-applications"}
FULL = 1e-10  # of the logits' deviation: what two right float64 passes must agree to
SINGLE = 3e-6  # and where one was in float32: four times what was measured here; the faults below make 1e-2 and more


def old_file(row, folder):
    """A file as Keras saved it."""
    path = folder / f"{row}.h5"
    path.write_bytes(gzip.decompress(Path(HERE, f"{row}.h5.gz").read_bytes()))
    return path


def apart(told, row):
    """The largest difference of a file's logits from those that the old software gave, in their deviations."""
    truth, weights = np.array(TOLD[row]["logits"]), dict(told.weights)
    found = forward(told.architecture, told.contract, weights, pictures())
    return float(np.abs(found - truth).max() / truth.std())


def bound(row):
    return FULL if "theano" in row else SINGLE


@pytest.mark.parametrize("row", ROWS)
def test_what_old_keras_wrote_is_told_and_is_the_same_function(tmp_path, row):
    """No option is needed: not for the layout, nor for kernels of Theano, whatever number the session was at."""
    done = convert(old_file(row, tmp_path), out=tmp_path / "port.safetensors")

    assert done.source.layout == LAYOUTS[ROWS[row][0]]
    assert apart(read(tmp_path / "port.safetensors"), row) <= bound(row)


@pytest.mark.parametrize("row", [row for row in ROWS if row != "titu1994-keras2-theano"])
def test_the_way_back_gives_the_same_bits(tmp_path, row):
    """Written for the layout again, by today's names where it has older ones."""
    before, layout = read(old_file(row, tmp_path)), LAYOUTS[ROWS[row][0]]

    convert(before.checkpoint.path, out=tmp_path / "port.safetensors")
    convert(tmp_path / "port.safetensors", dst=layout, out=tmp_path / "again.h5")

    again = read(tmp_path / "again.h5")
    assert again.layout == layout
    assert {slot: array.tobytes() for slot, array in again.weights.items()} == {
        slot: array.tobytes() for slot, array in before.weights.items()
    }


def test_a_file_saved_by_theano_had_a_symmetric_stem(tmp_path):
    """Its layers say "same", which Theano pads alike on both sides: no file for TensorFlow can be that network."""
    row = "titu1994-keras2-theano"
    told = read(old_file(row, tmp_path))

    wrong = replace(told, contract=replace(told.contract, stem_padding="same"))

    assert (told.contract.stem_padding, apart(wrong, row) > 0.1) == ("symmetric", True)
    with pytest.raises(MisfitError, match="pads the stem symmetric, titu1994 only same"):
        convert(told.checkpoint.path, dst="titu1994", out=tmp_path / "again.h5")


def test_a_same_stem_is_not_written_for_theano(tmp_path):
    with pytest.raises(MisfitError) as error:
        convert(old_file("titu1994-keras2-tensorflow", tmp_path), dst="titu1994", dst_kernels="theano", out=None)

    assert error.value.message == (
        'titu1994 pads its stem "same", which Theano does alike on both sides: with kernels as Theano stores them the '
        "file would be another function"
    )


def test_kernels_are_written_for_theano_where_the_stem_has_no_padding_to_speak_of(tmp_path):
    """A CIFAR stem is the same on both; the file says what convolves, as Keras 2 wants to know."""
    import h5py

    source = old_file("titu1994-v2-keras2-tensorflow", tmp_path)
    convert(source, out=tmp_path / "port.safetensors")
    convert(tmp_path / "port.safetensors", dst="titu1994", dst_kernels="theano", out=tmp_path / "theano.h5")

    kernel = read(source).checkpoint.tensors["initial_conv2D/kernel"].load()
    with h5py.File(tmp_path / "theano.h5") as file:
        assert file.attrs["backend"] == b"theano"
        assert file["conv2d_1/conv2d_1/kernel"][()].tobytes() == kernel[::-1, ::-1].tobytes()


@pytest.mark.parametrize(
    ("row", "kernels"), [("titu1994-v2-keras1-theano-th", "tensorflow"), ("titu1994-v2-keras1-tensorflow-tf", "theano")]
)
def test_kernels_taken_the_wrong_way_round_are_another_function(tmp_path, row, kernels):
    """The user's word counts, right or wrong: no file of Keras 1 records what convolved."""
    told = read(old_file(row, tmp_path), kernels=kernels)

    assert apart(told, row) > 1e-2


def test_what_a_file_of_keras_1_does_not_record_is_told(tmp_path):
    """The version, what convolves, and the epsilon, which was 1e-5 before Keras 1.2."""
    done = convert(old_file("titu1994-v2-keras1-theano-th", tmp_path), out=None)

    said = " ".join(done.notes)
    assert "running_std is taken as the variance" in said
    assert "no record says how the kernels are stored: taken as theano has them" in said
    assert "taken by their order for titu1994-v2's (epsilon 0.001 and same stem padding)" in said


def test_the_first_code_for_keras_2_is_known_by_its_stem(tmp_path):
    """`initial_conv2D` is a name of its own, and goes with the older epsilon."""
    early, late = (read(old_file(f"{row}-keras2-tensorflow", tmp_path)) for row in ("titu1994-v2", "titu1994"))

    assert [(told.layout, told.contract.epsilon) for told in (early, late)] == [
        ("titu1994-v2", 1e-3),
        ("titu1994", 1.1e-5),
    ]
