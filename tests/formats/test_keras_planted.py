"""Whole models of Keras whose configuration was changed, one thing at a time: each is read rightly, or refused.

Keras itself is asked what every changed model that is read answers, so that no reading of ours is its own judge.
"""

import json
import zipfile

import h5py
import numpy as np
import pytest

from densenet_port.conversion.load import read
from densenet_port.errors import PortError
from tests.support import warm
from tests.support.planted import FLAT, IDENTITIES, variants
from tests.support.sweep import at_least, swept

AGREE = 1e-4  # of the answers' deviation: Keras runs in float32
SHARE = 12  # of the kinds of layers that can be put in, one at each place, another at the next
STRIDE = 11  # in the sweep over the changes
SILENT = 0  # how many readings may be another function


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of what Keras saved."""
    folder = tmp_path_factory.mktemp("planted")
    script("save", folder)
    return folder


def script(action, folder):
    """Run the script that has Keras."""
    warm.keras("tests.support.planted_script", action, folder, backend="torch")


def pictures(name):
    """As the script's, which needs Keras."""
    random = np.random.default_rng(7)
    pixels = random.integers(0, 256, (2, 40, 40, 3))
    return (pixels if name == "nested" else random.standard_normal(pixels.shape)).astype(np.float32)


class Archive:
    """`flat.keras` with another configuration."""

    base = "flat"

    def __init__(self, folder):
        self.path = folder / "changed.keras"
        with zipfile.ZipFile(folder / "flat.keras") as archive:
            self.members = {name: archive.read(name) for name in archive.namelist()}

    def change(self, config):
        """Write it anew."""
        with zipfile.ZipFile(self.path, "w") as archive:
            for name, data in self.members.items():
                archive.writestr(name, json.dumps(config) if name == "config.json" else data)


class Legacy:
    """`nested.h5` with another configuration."""

    base = "nested"

    def __init__(self, folder):
        self.path = folder / "changed.h5"
        self.path.write_bytes((folder / "nested.h5").read_bytes())

    def change(self, config):
        """Change the configuration within."""
        with h5py.File(self.path, "r+") as file:
            file.attrs["model_config"] = json.dumps(config)


def answer(network, images):
    """What a network that was read answers to pictures."""
    images, prepared = images.astype(np.float64), network.contract.input
    if network.origins["input"] == "graph":
        images = (images[..., ::-1] if prepared.order == "bgr" else images) / prepared.scale
        images = (images - prepared.mean) / prepared.std
    logits = network(images)
    if network.evidence.notes and network.architecture.classes is None and "mean" in network.evidence.notes[0]:
        logits = logits.mean((1, 2))
    match network.contract.output:
        case "softmax" | "log_softmax" as kind:
            shifted = logits - logits.max(-1, keepdims=True)
            logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
            return np.exp(logs) if kind == "softmax" else logs
        case "sigmoid":
            return 1 / (1 + np.exp(-np.clip(logits, -100, 100)))
        case "relu":
            return np.maximum(logits, 0)
        case "tanh":
            return np.tanh(logits)
    return logits


@pytest.fixture(scope="module")
def all_readings(saved):
    """Of each file: what was changed → what the reading answers, and what Keras does, which is started once."""
    answers = {kind.base: read_again(kind(saved), saved) for kind in FILES.values()}
    changes = [(base, name, *change) for base, changed in answers.items() for name, change in changed.items()]
    asked = [(base, name) for base, name, mine, _ in changes if mine is not None]
    configs = [(base, answers[base][name][1]) for base, name in asked]
    (saved / "configs.json").write_text(json.dumps(configs))
    script("run", saved)
    truths = dict(zip(asked, np.load(saved / "answers.npz").values(), strict=True))
    return {
        base: {name: (mine, truths.get((base, name))) for name, (mine, _) in changed.items()}
        for base, changed in answers.items()
    }


def read_again(file, folder):
    """What was changed → what the reading answers, None where it refuses, and the changed configuration."""
    model, answers = json.loads((folder / f"{file.base}.json").read_text()), {}
    for name, config in swept(variants(model, SHARE), STRIDE):
        file.change(config)
        try:
            answers[name] = answer(read(file.path), pictures(file.base)), config
        except PortError:
            answers[name] = None, config
    return answers


FILES = {"flat .keras": Archive, "nested .h5": Legacy}


@pytest.fixture(params=FILES.values(), ids=FILES)
def readings(request, all_readings):
    """What was changed → what the reading answers, and what Keras does; None for what was refused, or no network."""
    return all_readings[request.param.base]


def test_no_changed_model_is_read_as_another_function(readings):
    """A hundred each, more than a thousand in all; what Keras makes no network of cannot be one."""
    different = [
        name
        for name, (mine, truth) in readings.items()
        if mine is not None and truth.dtype.kind == "f" and not agrees(mine, truth)
    ]

    assert len(readings) >= at_least(1000, STRIDE)
    assert (different, len(different)) == ([], SILENT)


def agrees(mine, truth):
    """Whether answers are the same numbers, whatever axes of one place there are."""
    return mine.size == truth.size and np.abs(mine.ravel() - truth.ravel()).max() <= AGREE * truth.std()


def test_what_lets_everything_pass_is_no_reason_to_refuse(readings):
    """Dropout, noise and augmentation behind every layer."""
    refused = [
        name
        for name, (mine, _) in readings.items()
        if mine is None and name.partition(" behind ")[0] in IDENTITIES and " behind " in name
    ]

    assert [name for name in refused if name.partition(" behind ")[0] in (*FLAT, *IDENTITIES)] == []


def test_what_is_read_is_what_keras_can_run(readings):
    """But for settings that contradict the tensors that are there: those are read as they are."""
    strange = [name for name, (mine, truth) in readings.items() if mine is not None and truth.dtype.kind != "f"]

    assert {name.partition(": ")[2] for name in strange} <= {
        "scale False",
        "center False",
        "use_bias True",
        "use_bias False",
    }
