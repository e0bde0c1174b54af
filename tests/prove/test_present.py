"""A check takes objects: a model answers in this process, a state dict by the class that owns its layout."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ["KERAS_BACKEND"] = "torch"  # TensorFlow and torch do not share a process well
import torch
from keras.src.applications.densenet import DenseNet as KerasDenseNet
from torch import nn

import densenet_port as dp
from densenet_port.network.architecture import Architecture
from densenet_port.prove import present
from densenet_port.prove.live import OURS
from densenet_port.prove.recording import Recording
from tests.support.networks import torchvision_network

SMALL = Architecture.named("layers=2-1,growth_rate=4,init_channels=8,classes=3")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def original():
    """A network of torchvision's."""
    return torchvision_network(SMALL, 0)


@pytest.fixture(scope="module")
def port(original):
    """Its port, as a torch module."""
    return dp.read(original).torch()


class Around(nn.Module):
    """Somebody's own class around a network, with an activation behind it."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        """The sigmoid of its logits."""
        return torch.sigmoid(self.inner(x))


def hooked(module):
    """A module that somebody looks at."""
    module.features.norm0.register_forward_hook(lambda *_: None)
    return module


ORIGINALS = {
    "in training, with a hook that looks on": lambda module: hooked(module.train()),
    "in parallel, with a sigmoid behind it": lambda module: nn.DataParallel(nn.Sequential(module, nn.Sigmoid())),
    "compiled, within a class of one's own": lambda module: torch.compile(Around(module)),
}


@pytest.mark.parametrize("form", ORIGINALS)
def test_a_torch_original_proves_its_port(original, port, form):
    """It ran its own code in this process; what it is stays as it was, in its mode and its type."""
    thing = ORIGINALS[form](copy.deepcopy(original))
    before = [part.training for part in thing.modules()], next(thing.parameters()).dtype

    parity = dp.diagnose(port, thing)

    assert (parity.grade, parity.sides["reference"]["read_by"]) == ("proven", "model")
    assert parity.sides["reference"]["name"].endswith(f"(torch {torch.__version__})")
    assert ([part.training for part in thing.modules()], next(thing.parameters()).dtype) == before


def test_a_half_precise_original_proves_its_port(original):
    """Its numbers are what float16 left of them, and each side computes with these."""
    halved = copy.deepcopy(original).half()

    assert dp.diagnose(dp.read(halved).torch(), halved).grade == "proven"


def channel(module):
    """One channel of one kernel, changed a little."""
    with torch.no_grad():
        module.features.denseblock1.denselayer2.conv1.weight[5] *= 1.01


def epsilon(module):
    """Every norm with another epsilon."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 1e-3


@pytest.mark.parametrize(
    ("change", "where", "mistake"),
    [
        (channel, "block1.layer2.conv1", "channel-wrong"),
        (epsilon, "stem.norm", "epsilon"),
    ],
)
def test_what_was_changed_in_a_live_port_is_named(original, change, where, mistake):
    """Where it is, and what it is."""
    changed = copy.deepcopy(original)
    change(changed)

    parity = dp.diagnose(changed, original)

    assert (parity.grade, parity.where, [finding["mistake"] for finding in parity.diagnosis]) == (
        "differs",
        where,
        [mistake],
    )


def test_our_own_network_is_no_evidence(original, port):
    """What this project built of the original agrees with it, and proves nothing."""
    parity = dp.diagnose(original, port)

    assert (parity.grade, OURS in parity.dependence) == ("agrees", True)


def test_a_state_dict_runs_by_the_class_that_owns_it(original, port):
    """In a process of its own, filled by that class's own loader."""
    parity = dp.diagnose(port, original.state_dict())

    assert (parity.grade, parity.sides["reference"]["name"], parity.sides["reference"]["read_by"]) == (
        *("proven", "torchvision"),
        "class",
    )
    assert (parity.source["path"], parity.source["sha256"]) == ("a state dict", None)


def test_arrays_by_keras_names_are_read_by_our_table(original):
    """Keras loads files of its own: numpy stands in, and the verdict says so."""
    state = dp.read(original).state("keras")

    parity = dp.diagnose(original, state)

    because = "keras loads its own files, and not arrays in memory: give the model itself, or its file"
    assert (parity.grade, because in parity.dependence) == ("agrees", True)


def test_a_keras_port_on_torch_has_numpys_float64(original):
    """Keras computes float32 there, and nothing of it is passed off as more."""
    parity = dp.diagnose(dp.read(original).keras(), original)

    side = parity.sides["port"]
    assert (parity.grade, side["name"].partition(" (")[0], side["float64"]) == (
        *("proven", "keras.Functional densenet"),
        "numpy",
    )


def test_a_keras_original_on_torch_is_run_by_its_file(monkeypatch):
    """Keras saves it, and the file goes where Keras on TensorFlow runs it, in float64."""
    model, stored = KerasDenseNet([1, 1, 1, 1], weights=None, input_shape=(64, 64, 3), classes=3), []

    def run(network, *_settings):
        path = network.checkpoint.path
        stored.append((network.checkpoint.container, path.suffix, dp.diff(path, model).same))
        return Recording.load(Path("nothing"))

    monkeypatch.setattr(present, "run_reference", run)
    with pytest.raises(dp.DiskError, match="nothing: cannot be read"):
        dp.diagnose(dp.read(model, ignore_inheritance=True).torch(), model, ignore_inheritance=True)

    assert stored == [("keras", ".keras", True)]


def test_networks_of_other_numbers_are_not_compared(original):
    """In words of both objects."""
    other = torchvision_network(Architecture.named("layers=1-1,growth_rate=4,init_channels=8,classes=3"), 0)

    with pytest.raises(dp.MisfitError) as caught:
        dp.check(other, original)

    name = "torchvision.models.densenet.DenseNet"
    assert str(caught.value) == (
        f"{name} and {name} are networks of different numbers: expected and found layers [2, 1] and [1, 1]\n"
        "  compare a port with the very checkpoint it was made from"
    )


def test_keras_on_tensorflow_answers_in_its_own_process():
    """Port and original: the logits behind whatever activation, at sizes that the model was not built for."""
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "tests.support.live_script"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr

    torchvision, densenet = "torchvision.models.densenet.DenseNet", "keras.Functional densenet"
    module = "torch.fx.graph_module.GraphModule.__new__.<locals>.GraphModuleImpl"
    sides = {"reference": [torchvision, "model"], "port": [densenet, "model"]}
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "a torch original": ["proven", sides, [], None],
        "an original of keras.applications": [
            *("proven", {"reference": [densenet, "model"], "port": [module, "model"]}),
            *([], None),
        ],
        "a channel that was changed": ["differs", sides, ["channel-wrong"], "block1.layer2.conv1"],
        "settings stay": True,
        "its softmax stays": "softmax",
    }
