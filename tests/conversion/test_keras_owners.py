"""KerasHub and kimm themselves: what they write is read, and their own loaders take what is written for them.

Full-size networks are measured by `tests/record/cards.py`; here are the forms in which their files come, at an even
and an odd size, since KerasHub pads its stem "same".
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.network.contract import Input, Resize
from densenet_port.network.numpy import forward
from densenet_port.prove.checks import BOUND64
from densenet_port.prove.job import Job
from densenet_port.prove.parity import check
from densenet_port.prove.worker import run
from tests.support.networks import images

pytestmark = pytest.mark.owners
FORMS = {
    "classifier.weights.h5": "keras-hub",
    "classifier.keras": "keras-hub",
    "classifier.h5": "keras-hub",
    "backbone.weights.h5": "keras-hub",
    "backbone.keras": "keras-hub",
    "preset/model.weights.h5": "keras-hub",
    "preset": "keras-hub",
    "kimm.keras": "kimm",
    "kimm.weights.h5": "kimm",
}


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of files that KerasHub and kimm wrote."""
    folder = tmp_path_factory.mktemp("owners")
    run_script("owners_script", folder)
    return folder


def run_script(name, *arguments):
    """What a script prints, with Keras on TensorFlow in a process of its own."""
    command = [sys.executable, "-m", f"tests.support.{name}", *map(str, arguments)]
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kerashub_makes_the_same_network_of_a_preset_that_is_written_for_it(saved, tmp_path):
    """Classifier, backbone and what prepares pictures; each answers as that of KerasHub's own preset."""
    done = convert(saved / "preset", dst="keras-hub", out=f"{tmp_path}/preset/")

    run_script("owners_script", saved, tmp_path / "preset")

    picture = Input(scale=1.0, mean=(64.0, 64.0, 48.0), std=(64.0, 32.0, 16.0))
    assert (done.contract.input, done.source.origins["input"]) == (picture, "record")
    assert done.contract.resize == Resize(size=(64, 64), crop=1.0, interpolation="bilinear")


@pytest.mark.parametrize("form", FORMS)
def test_the_port_of_what_they_write_is_their_network(saved, tmp_path, form):
    """They load their own file and run it; the port agrees in float64, and the way back gives the same bits."""
    done = convert(saved / form, out=tmp_path / "port.safetensors")
    back = convert(tmp_path / "port.safetensors", dst=FORMS[form], out=tmp_path / "back.weights.h5")

    found = check(tmp_path / "port.safetensors", against=saved / form, backend="numpy", sizes=(64, 65))

    assert (done.source.layout, found.passed) == (FORMS[form], True), found.checks
    first, last = done.source.weights, read(back.out).weights
    assert {slot: array.tobytes() for slot, array in last.items()} == {
        slot: array.tobytes() for slot, array in first.items()
    }


@pytest.mark.parametrize("form", ["classifier.weights.h5", "backbone.weights.h5", "kimm.weights.h5"])
def test_their_own_loaders_take_what_is_written_for_them(saved, tmp_path, form):
    """A classifier of KerasHub with its backbone inside, a backbone alone, kimm's network."""
    convert(saved / form, out=tmp_path / "port.safetensors")
    convert(tmp_path / "port.safetensors", dst=FORMS[form], out=tmp_path / "theirs.weights.h5")
    told, pictures = read(saved / form), images(2, 64)

    found = run(
        Job(
            network=FORMS[form],
            images=pictures,
            path=tmp_path / "theirs.weights.h5",
            architecture=told.architecture,
            dtype="float64",
        )
    )

    weights = dict(told.weights)
    truth = forward(told.architecture, told.contract, weights, pictures)
    assert found.computed_in == "float64"
    assert np.abs(found.logits - truth).max() <= BOUND64 * truth.std()


def test_kimms_own_preparation_divides_by_the_root_of_the_deviation(saved):
    """Its layer takes 0.229, 0.224, 0.225 for variances; the weights' own networks divided by them."""
    told = read(saved / "kimm.keras")
    weights, theirs = dict(told.weights), np.load(saved / "kimm.npy")
    pixels = np.random.default_rng(3).integers(0, 256, (2, 64, 64, 3)).astype(np.float64)
    picture = told.contract.input

    def apart(divisor):
        prepared = (pixels / picture.scale - np.array(picture.mean)) / divisor
        logits = forward(told.architecture, told.contract, weights, prepared)
        return float(np.abs(logits - theirs).max() / logits.std())

    usual, root = apart(np.array(picture.std)), apart(np.sqrt(picture.std))

    assert root < 1e-4 < usual  # float32


def test_their_live_models_are_read_filled_and_checked():
    """By their own live graph, though their classes list no layers; another padding of the stem is refused."""
    classifier = "keras_hub.src.models.densenet.densenet_image_classifier.DenseNetImageClassifier"

    assert json.loads(run_script("owners_live").splitlines()[-1]) == {
        "hub": ["keras-hub", "same", "graph", True],
        "hub filled": ["keras-hub", True],
        "its backbone": True,
        "its padding": f"its network pads the stem symmetric, {classifier} only same: "
        "the same weights would be another function",
        "hub checked": "proven",
        "kimm filled": ["kimm", True],
        "kimm's pixels": "graph",
    }
