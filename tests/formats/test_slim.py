"""A checkpoint of TF-Slim's network, which TensorFlow wrote with what a training leaves beside it."""

import numpy as np
import pytest

from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from tests.support import warm

FULL = 1e-10  # of the logits' deviation: what two right float64 passes must agree to


@pytest.fixture(scope="module")
def folder(files, tmp_path_factory):
    """The checkpoint, what TensorFlow's operations make of it, and the network that it was made from."""
    folder = tmp_path_factory.mktemp("slim")
    contract = {"epsilon": 1.1e-5, "stem_padding": "same"}
    convert(files["zip"], out=folder / "weights.npz", dst="slim", contract=contract)
    warm.keras("tests.support.slim", folder)
    return folder


@pytest.mark.parametrize("names", ["slim", "structure"])
def test_it_is_the_network_that_tensorflow_runs(folder, names):
    """By its table; and by structure, whose epsilon nothing tells."""
    told = read(folder / "model.ckpt.index", src=names, contract={"epsilon": 1.1e-5, "stem_padding": "same"})

    with np.load(folder / "answer.npz") as answer:
        pictures, logits = answer["pictures"], answer["logits"]
    assert np.abs(told(pictures) - logits).max() <= FULL * logits.std()


def test_it_is_known_by_its_names(folder):
    told = read(folder / "model.ckpt.index")

    assert (told.layout, told.ledger.prefix, told.contract.epsilon) == ("slim", "densenet121/", 1.1e-5)
    assert told.ledger.ignored == {
        "optimizer/densenet121/conv1/weights/RMSProp": "optimizer/*",
        "global_step": "a single number",
    }


def test_structure_says_what_a_convolution_for_a_head_is_taken_for(folder):
    told = read(folder / "model.ckpt.index", src="structure")

    assert "the mean over the map in front of the head's 1×1 convolution, or behind it" in told.ledger.assumed


def test_structure_takes_the_body_of_a_convolution_for_a_head(folder):
    body = read(folder / "model.ckpt.index", src="structure", no_top=True)

    assert body.architecture == read(folder / "weights.npz").architecture.without_head()
