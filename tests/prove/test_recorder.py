"""A model's own answers prove a right port and tell a wrong one, and nothing of this project's gets into them."""

import copy
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import densenet_port as dp
from densenet_port.errors import MisfitError, PortError, UsageError
from densenet_port.files import resource
from densenet_port.network.units import Slot
from densenet_port.prove.factory import Words, record_factory
from densenet_port.prove.parity import check
from densenet_port.prove.recorder import record
from densenet_port.prove.recording import Recording
from tests.conftest import SMALL
from tests.support.networks import torchvision_network
from tests.support.ports import weights_of, written

PAGE = (Path(__file__).parents[2] / "docs" / "record.md").read_text(encoding="utf-8")
CLASS = re.search(r"```python\n(from collections.*?)```", PAGE, re.DOTALL)[1]
SESSIONS = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
SAMPLE = resource("weights") / "sample" / "digits.pth"


def cifar_network():
    """The page's network with random weights and statistics, as its author has it."""
    space = {"__name__": "cifar"}
    exec(compile(CLASS, "cifar.py", "exec"), space)  # noqa: S102 (the page's own example)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = space["Net"]().eval()
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.2)
                norm.running_mean.normal_(0, 0.2)
                norm.running_var.uniform_(0.5, 1.5)
    return network


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """The page's folder: its class, and the weights of a training checkpoint of it; the port, and the recording."""
    place = tmp_path_factory.mktemp("desk")
    network = cifar_network()
    (place / "cifar.py").write_text(CLASS, encoding="utf-8")
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, place / "net.pth")
    dp.convert(place / "net.pth", out=place / "port.weights.h5")
    record(network, place / "reference.npz", source=place / "net.pth")
    return place


def judged(port, reference):
    """The verdict by numpy, on a recording."""
    return check(port, reference=reference, backend="numpy")


# -- what a recording proves -----------------------------------------------------------------------------------------


def test_a_port_of_a_class_that_no_library_builds_is_proven(desk):
    """By what the class itself says, along all of its units."""
    result = judged(desk / "port.weights.h5", desk / "reference.npz")

    recording = Recording.load(desk / "reference.npz")
    assert (result.grade, result.dependence) == ("proven", None)
    assert [probe.name for probe in recording.probes] == ["noise 32", "photographs 32"]
    assert recording.metadata["name"] == f"cifar.Net (torch {torch.__version__})"
    assert (recording.read_by, recording.computed) == ("model", {"float64": "float64", "float32": "float32"})
    assert set(recording.taps["float64"]) == set(recording.architecture.units)
    assert f"the reference was recorded from {recording.metadata['name']}" in result.notes


def test_a_planted_fault_differs_and_is_named(desk, tmp_path):
    """The unit and the mistake, by a class of the user's own."""
    port = dp.read(desk / "port.weights.h5")
    slot = Slot("block2.layer2.conv2", "kernel")
    weights = weights_of(port)
    weights[slot] = weights[slot][::-1, ::-1]
    wrong = written(port, weights, port.contract, tmp_path / "wrong.weights.h5").checkpoint.path

    result = judged(wrong, desk / "reference.npz")

    assert (result.grade, result.where) == ("differs", "block2.layer2.conv2")
    assert [(f["mistake"], f["units"]) for f in result.diagnosis] == [("kernel-flipped", ["block2.layer2.conv2"])]


def test_a_class_that_computes_otherwise_than_its_names_say_differs(tmp_path):
    """The tensors are those of torchvision's class, the function is not: what that class cannot tell, this one does."""
    network = torchvision_network(SMALL, 0)
    network.features.pool0 = nn.Identity()
    torch.save(network.state_dict(), tmp_path / "net.pth")
    dp.convert(tmp_path / "net.pth", out=tmp_path / "port.weights.h5")
    dp.convert(tmp_path / "net.pth", out=tmp_path / "told.weights.h5", contract={"stem_pool": "none"})
    record(network, tmp_path / "reference.npz", source=tmp_path / "net.pth", sizes=(64,))

    grades = [judged(tmp_path / f"{port}.weights.h5", tmp_path / "reference.npz").grade for port in ("port", "told")]

    assert grades == ["differs", "proven"]


def test_the_sample_s_own_class_proves_its_port(tmp_path):
    """Without a source, too: a module's own tensors are recognised; a file is in the recording where it is named."""
    dp.convert(SAMPLE, out=tmp_path / "port.weights.h5")
    network = torchvision_network(dp.read(SAMPLE).architecture, 0)
    network.load_state_dict(torch.load(SAMPLE))

    named = dp.record(network, tmp_path / "named.npz", source=SAMPLE, sizes=(32,))
    bare = dp.record(network, tmp_path / "bare.npz", sizes=(32,))

    grades = [judged(tmp_path / "port.weights.h5", tmp_path / f"{name}.npz").grade for name in ("named", "bare")]
    assert grades == ["proven", "proven"]
    assert [one.metadata["sha256"] is None for one in (named, bare)] == [False, True]


# -- what answers ----------------------------------------------------------------------------------------------------


def test_a_callable_answers_in_what_it_computes_in(desk, tmp_path):
    """In both precisions a proof; in float32 alone no evidence either way, whatever its array says."""
    network = cifar_network()

    def ask(images, dtype=None):
        given = torch.from_numpy(images).permute(0, 3, 1, 2)
        module = copy.deepcopy(network).to(dtype or given.dtype)
        return module(given.to(dtype or given.dtype)).detach().numpy()

    askers = {
        "both": ask,
        "single": lambda images: ask(images, torch.float32),
        "widened": lambda images: ask(images, torch.float32).astype(np.float64),
    }
    results = {}
    for name, asker in askers.items():
        record(asker, tmp_path / f"{name}.npz", source=desk / "net.pth")
        results[name] = judged(desk / "port.weights.h5", tmp_path / f"{name}.npz")

    reason = "the reference computed in float32, which cannot tell a right port from a nearly right one"
    assert {name: (result.grade, result.undecided) for name, result in results.items()} == {
        "both": ("proven", None),
        "single": ("cannot be judged", reason),
        "widened": ("cannot be judged", reason),
    }


def test_the_module_stays_as_it_is(tmp_path):
    """In training, in float32, without a hook, and with the very tensors."""
    network = torchvision_network(SMALL, 0).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}

    record(network, tmp_path / "reference.npz", sizes=(64,))

    after = network.state_dict()
    assert (network.training, next(network.parameters()).dtype) == (True, torch.float32)
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []
    assert [part for part in network.modules() if part._forward_hooks] == []


def test_a_recording_is_the_model_s_own_word(desk, tmp_path, monkeypatch):
    """With this project's forward pass made useless, the numbers are the same."""
    monkeypatch.setattr("densenet_port.prove.recorder.forward", lambda *_: np.zeros((2, 10)))
    monkeypatch.setattr("densenet_port.prove.recorder.run", lambda *_: np.ones((2, 10)))

    again = record(cifar_network(), tmp_path / "again.npz", source=desk / "net.pth")

    first = Recording.load(desk / "reference.npz")
    assert [key for key in first.logits if not np.array_equal(first.logits[key], again.logits[key])] == []


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (lambda place: dp.read(place / "net.pth"), UsageError, "this is densenet-port's own network"),
        (lambda place: dp.read(place / "net.pth").torch(), UsageError, "this is densenet-port's own network"),
        (lambda _: "net", UsageError, "a str cannot be recorded"),
        (lambda _: nn.Sequential(cifar_network(), nn.Sigmoid()), MisfitError, "puts out the sigmoid of its logits"),
        (lambda _: nn.Sequential(cifar_network(), nn.LogSoftmax(1)), MisfitError, "puts out the log_softmax of its"),
        (lambda _: nn.Sequential(cifar_network(), nn.Softmax(1)), MisfitError, "these are probabilities, not logits"),
        (lambda _: torchvision_network(SMALL, 0), MisfitError, "features.conv0.weight differs"),
        (lambda _: lambda images: images[..., 0], MisfitError, "expected logits n 10"),
        (lambda _: lambda images: [images, images], UsageError, "put out a list, expected one array of logits"),
        (lambda _: lambda images: images @ "x", UsageError, "fails on images of shape"),
    ],
    ids=[
        "network",
        "its module",
        "no model",
        "sigmoid",
        "log softmax",
        "softmax",
        "another",
        "shape",
        "list",
        "raises",
    ],
)
def test_what_proves_nothing_is_refused(desk, tmp_path, model, error, message):
    """And nothing is written."""
    with pytest.raises(error, match=message):
        record(model(desk), tmp_path / "reference.npz", source=desk / "net.pth")

    assert [*tmp_path.iterdir()] == []


def test_weights_that_are_not_the_source_s_are_refused(desk, tmp_path):
    """The first tensor that differs is named."""
    network = cifar_network()
    with torch.no_grad():
        network.classifier.bias[0] += 1

    with pytest.raises(MisfitError, match=r"does not have the weights of .*net\.pth: classifier\.bias differs"):
        record(network, tmp_path / "reference.npz", source=desk / "net.pth")


def test_a_callable_says_nothing_of_itself(tmp_path):
    """Without a source there is no architecture."""
    with pytest.raises(UsageError, match="does not say what network it is"):
        record(lambda images: images, tmp_path / "reference.npz")


# -- from the shell --------------------------------------------------------------------------------------------------

FACTORIES = """
import sys
from collections import OrderedDict
import torch
import cifar

def fails():
    raise LookupError("no such depth")

def wide():
    return cifar.Net(growth=16)

def function():
    return lambda images: images

def exits():
    sys.exit(3)

class Forward(cifar.Net):
    def forward(self, x):
        return self.classifier(x)

dies = lambda: __import__("os")._exit(9)
"""


def run(desk, *words):
    """The command as a user types it."""
    command = [sys.executable, "-m", "densenet_port", *map(str, words)]
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=desk, check=False)


def plain(text):
    """The lines of a text without what differs from run to run: seconds, sizes, torch's version, blanks."""
    for changing in (r"\d+\.\d+(?= s\b)", r"[\d,]+(?= bytes\b)", r"(?<=torch )[\w.+]+"):
        text = re.sub(changing, "#", text)
    return [re.sub(r"\s+", " ", line.rstrip()) for line in text.strip().splitlines()]


def test_the_page_s_commands_print_what_it_shows(desk, tmp_path):
    """From the class and its weights alone; and exit codes say what grades are."""
    for name in ("cifar.py", "net.pth"):
        (tmp_path / name).write_bytes((desk / name).read_bytes())

    codes = []
    for session in SESSIONS:
        for step in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]:
            command, _, shown = step.partition("\n")
            done = run(tmp_path, *shlex.split(command)[1:])
            found = "".join(f"{line}\n" for line in plain(done.stdout + done.stderr))
            lines = [r"(?:.*\n)*" if line == "…" else re.escape(line) + r"\n" for line in plain(shown)]
            assert re.fullmatch("".join(lines), found), found
            codes.append(done.returncode)
    assert codes == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("factory", "code", "message"),
    [
        ("cifar", 2, "'cifar' names no factory"),
        ("cifer:Net", 2, "cifer cannot be imported: ModuleNotFoundError: No module named 'cifer'"),
        ("cifar:Nett", 2, "cifar has no 'Nett'"),
        ("made:fails", 2, "made:fails fails: LookupError: no such depth\n  {desk}/made.py, line 8: raise LookupError("),
        ("made:exits", 2, "made:exits fails: SystemExit: 3"),
        ("made:function", 2, "takes no weights"),
        ("made:wide", 3, "does not take it\n  features.conv0.weight: expected (32, 3, 3, 3), found (24, 3, 3, 3)\n"),
        ("made:Forward", 2, "made.Forward fails on images of shape (2, 32, 32, 3) in float64: RuntimeError: mat1"),
        ("made:dies", 1, "made:dies ended with exit code 9"),
    ],
)
def test_a_factory_that_cannot_be_recorded_says_why(desk, factory, code, message, monkeypatch):
    """In its own words, and where; nothing is written."""
    (desk / "made.py").write_text(FACTORIES, encoding="utf-8")
    monkeypatch.chdir(desk)

    with pytest.raises(PortError) as error:
        record_factory(Words(factory=factory, weights="net.pth", out="none.npz"))

    assert (error.value.exit_code, message.format(desk=desk) in error.value.message) == (code, True), error.value
    assert not (desk / "none.npz").exists()


def test_a_factory_that_fails_is_an_error_of_the_command(desk):
    """One JSON object, and no traceback."""
    (desk / "made.py").write_text(FACTORIES, encoding="utf-8")

    done = run(desk, "record", "made:fails", "--weights", "net.pth", "--out", "none.npz", "--json")

    assert (done.returncode, json.loads(done.stdout)["error"]["kind"], done.stderr) == (2, "usage", "")


KERAS = """
import keras
import numpy as np
from keras import layers


def dense(x, count):
    for _ in range(count):
        y = layers.Activation("relu")(layers.BatchNormalization(epsilon=1.1e-5)(x))
        x = layers.Concatenate()([x, layers.Conv2D(6, 3, padding="same", use_bias=False)(y)])
    return layers.Activation("relu")(layers.BatchNormalization(epsilon=1.1e-5)(x))


def net():
    images = keras.Input((32, 32, 3))
    x = dense(layers.Conv2D(12, 3, padding="same", use_bias=False)(images), 2)
    x = layers.AveragePooling2D(2)(layers.Conv2D(24, 1, use_bias=False)(x))
    x = layers.GlobalAveragePooling2D()(dense(x, 2))
    return keras.Model(images, layers.Dense(5)(x))


if __name__ == "__main__":
    model = net()
    numbers = np.random.default_rng(0)
    for variable in model.variables:
        low = 0.5 if len(variable.shape) == 1 else -0.3
        variable.assign(numbers.uniform(low, low + 0.6, variable.shape))
    model.save_weights("net.weights.h5")
"""


def test_a_keras_model_of_one_size_proves_its_port(tmp_path):
    """On TensorFlow, in both precisions, with probes of its own size."""
    (tmp_path / "own.py").write_text(KERAS, encoding="utf-8")
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    subprocess.run([sys.executable, "own.py"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    dp.convert(tmp_path / "net.weights.h5", out=tmp_path / "port.safetensors", src="titu1994")

    done = run(tmp_path, "record", "own:net", "--weights", "net.weights.h5", "--src", "titu1994", "--json")

    data = json.loads(done.stdout)
    assert (data["computed"], [probe["name"] for probe in data["probes"]]) == (
        {"float64": "float64", "float32": "float32"},
        ["noise 32", "photographs 32"],
    )
    assert re.fullmatch(r"keras\.Functional functional(_\d+)? \(keras [\d.]+\)", data["name"])
    assert judged(tmp_path / "port.safetensors", tmp_path / "reference.npz").grade == "proven"


def test_a_file_that_cannot_be_read_is_said_before_anything_runs(desk):
    done = run(desk, "record", "made:dies", "--weights", "none.pth")

    assert (done.returncode, done.stderr) == (
        6,
        "error: none.pth: cannot be read: No such file or directory\n  is the path right?\n",
    )
