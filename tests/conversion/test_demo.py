"""The embedded sample: what is recorded of it holds, and the demonstration shows it."""

import json
import runpy
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.densenet import DenseNet

from densenet_port.conversion.demo import demo, prepare, read_held_out
from densenet_port.errors import CorruptError, DiskError
from densenet_port.files import file_digest

SAMPLE = Path(__file__).resolve().parents[2] / "weights" / "sample"
FACTS = json.loads((SAMPLE / "digits.json").read_text())


@pytest.fixture(scope="module")
def held_out():
    return read_held_out(SAMPLE / "digits-heldout.npz")


@pytest.fixture(scope="module")
def training():
    return runpy.run_path(str(SAMPLE / "train.py"))


@pytest.fixture(scope="module")
def network():
    network = DenseNet(**FACTS["network"])
    network.load_state_dict(torch.load(SAMPLE / "digits.pth"))
    return network.eval()


@pytest.fixture
def broken(tmp_path):
    """A copy of the held-out digits to spoil."""
    path = tmp_path / "digits-heldout.npz"
    path.write_bytes((SAMPLE / "digits-heldout.npz").read_bytes())
    return path


@pytest.mark.parametrize("logits", ["logits32", "logits64"])
def test_the_recorded_logits_give_the_recorded_accuracy(held_out, logits):
    """Accuracy is counted again from what torch put out, in either precision, and is at least 97 %."""
    correct = int(np.sum(getattr(held_out, logits).argmax(1) == held_out.labels))

    assert (correct, correct / 450) == (FACTS["correct"], FACTS["accuracy"])
    assert correct / 450 >= 0.97


def test_the_held_out_digits_have_the_shapes_they_are_documented_with(held_out):
    shapes = {
        entry.name: (getattr(held_out, entry.name).shape, getattr(held_out, entry.name).dtype.name)
        for entry in fields(held_out)
    }

    assert shapes == {
        "images": ((450, 8, 8), "uint8"),
        "labels": ((450,), "uint8"),
        "logits32": ((450, 10), "float32"),
        "logits64": ((450, 10), "float64"),
        "index": ((450,), "int64"),
    }


def test_the_weights_are_small_enough_to_travel_with_the_package():
    assert (SAMPLE / "digits.pth").stat().st_size < 1_000_000


def test_the_files_are_the_ones_that_were_recorded():
    digests = {name: file_digest(SAMPLE / name) for name in FACTS["sha256"]}

    assert digests == FACTS["sha256"]


def test_the_network_has_the_recorded_number_of_parameters(network):
    assert sum(parameter.numel() for parameter in network.parameters()) == FACTS["parameters"]


def test_the_held_out_digits_are_those_of_the_split(held_out, training):
    """The split made again holds out the recorded digits, so the training saw none of them."""
    digits = training["load_digits"]()
    split = FACTS["split"]
    _, expected = training["train_test_split"](
        np.arange(1797), test_size=split["held_out"], random_state=split["seed"], stratify=digits.target
    )

    np.testing.assert_array_equal(held_out.index, expected)
    np.testing.assert_array_equal(held_out.images, digits.images[expected])
    np.testing.assert_array_equal(held_out.labels, digits.target[expected])


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_torch_puts_out_the_recorded_logits(held_out, network, dtype, bound):
    """Float32 depends on the machine's order of sums; float64 must agree to rounding."""
    recorded = held_out.logits32 if dtype == torch.float32 else held_out.logits64
    images = torch.from_numpy(prepare(held_out.images)).permute(0, 3, 1, 2)

    with torch.inference_mode():
        logits = network.to(dtype)(images.to(dtype)).numpy()

    assert np.abs(logits - recorded).max() <= bound * recorded.std()


def test_the_training_prepares_digits_as_the_demonstration_does(held_out, training):
    """One definition: the tensor that torch was trained on is `prepare`'s, channels first."""
    assert training["prepare"] is prepare
    np.testing.assert_array_equal(
        training["as_tensor"](held_out.images).numpy(), prepare(held_out.images).transpose(0, 3, 1, 2)
    )


def test_prepare_enlarges_as_torch_does(held_out):
    """Bilinear with pixel centres at halves, then torchvision's normalisation, to the last bit of float32."""
    ink = torch.from_numpy(held_out.images).double()[:, None] / 16
    large = torch.nn.functional.interpolate(ink, scale_factor=4, mode="bilinear", align_corners=False)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).double(), torch.tensor([0.229, 0.224, 0.225]).double()

    expected = (large.permute(0, 2, 3, 1) - mean) / std

    np.testing.assert_allclose(prepare(held_out.images), expected.numpy(), rtol=2e-7, atol=2e-7)


def test_the_demonstration_moves_the_network_unchanged():
    """Converted, verified and asked again without a framework, the network is the same function."""
    result = demo()

    assert (result.tensors, result.parameters, result.images, result.agreeing) == (176, FACTS["parameters"], 450, 450)
    assert result.accuracy_before == result.accuracy_after == FACTS["accuracy"]
    assert result.relative32 <= 1e-4
    assert result.relative64 <= 1e-10


def test_held_out_digits_that_are_gone_are_a_disk_error(tmp_path):
    with pytest.raises(DiskError, match=r"gone\.npz: cannot be read: No such file or directory\n  reinstall"):
        read_held_out(tmp_path / "gone.npz")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:0],
        lambda data: data[::-1],
        lambda data: data[:-1000],
        lambda data: data[:40000] + bytes(100) + data[40100:],
    ],
    ids=["empty", "reversed", "cut", "overwritten"],
)
def test_held_out_digits_that_are_spoilt_are_corrupt(broken, spoil):
    broken.write_bytes(spoil(broken.read_bytes()))

    with pytest.raises(CorruptError, match="not the held-out digits"):
        read_held_out(broken)


def test_held_out_digits_without_labels_are_corrupt(broken):
    with np.load(broken) as file:
        rest = {name: file[name] for name in file.files if name != "labels"}
    np.savez_compressed(broken, **rest)

    with pytest.raises(CorruptError, match="labels"):
        read_held_out(broken)
