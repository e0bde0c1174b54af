"""What is seen in pictures: torch's own answers, by the names that torchvision gives, and what was assumed."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.models import DenseNet121_Weights

import densenet_port as dp
from densenet_port.conversion.demo import read_held_out
from densenet_port.errors import PortError
from densenet_port.files import resource
from densenet_port.network.contract import Resize
from tests.cli.test_app import run
from tests.support.networks import checkpoint_file, torchvision_network

SAMPLE = resource("weights") / "sample"
MANY = "layers=2-2,growth_rate=8,init_channels=16,classes=1000"
FEW = "layers=2-2,growth_rate=8,init_channels=16,classes={}"
WHOLE = Resize(size=(32, 32), crop=1.0)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Scikit-learn's two, as files."""
    folder = tmp_path_factory.mktemp("photographs")
    for number, pixels in enumerate(load_sample_images().images):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def test_the_best_five_are_torch_s(photographs, tmp_path):
    """From a file of torchvision's to its names of classes, through its own preset on one side."""
    meta, preset = DenseNet121_Weights.DEFAULT.meta, DenseNet121_Weights.DEFAULT.transforms()
    with torch.inference_mode():
        pictures = torch.stack([preset(Image.open(path)) for path in photographs])
        values, best = torchvision_network(MANY, seed=0)(pictures).softmax(1).topk(5)

    prediction = dp.predict(checkpoint_file(tmp_path, MANY, "zip"), photographs)

    answers = [answer for _, answers in prediction.pictures for answer in answers]
    assert [answer.number for answer in answers] == best.flatten().tolist()
    assert [answer.label for answer in answers] == [meta["categories"][number] for number in best.flatten()]
    assert np.allclose([answer.value for answer in answers], values.flatten(), rtol=1e-4)
    assert (prediction.origins, prediction.assumed) == (
        {"resize": "software", "input": "software", "labels": "assumed"},
        ("labels",),
    )


def test_the_sample_reads_digits():
    """Those that its training never saw, from eight pixels enlarged by Pillow: nearly all are right, as recorded."""
    held_out = read_held_out(SAMPLE / "digits-heldout.npz")
    pixels = np.rint(held_out.images[:100, ..., None] * (255 / 16)).astype(np.uint8)

    prediction = dp.predict(SAMPLE / "digits.pth", pixels, top=1, size=WHOLE)

    seen = [answers[0].number for _, answers in prediction.pictures]
    assert np.mean(np.array(seen) == held_out.labels[:100]) >= 0.99
    assert prediction.pictures[99][0] == "picture 100"
    assert (prediction.origins["labels"], prediction.pictures[0][1][0].label) == ("none", None)


@pytest.mark.parametrize(
    ("output", "classes", "values", "total"),
    [
        ("logits", 1, "probabilities by sigmoid, each for itself", None),
        ("sigmoid", 7, "probabilities by sigmoid, each for itself", None),
        ("log_softmax", 7, "probabilities by softmax", 1.0),
        ("tanh", 7, "tanh of the logits", None),
    ],
)
def test_numbers_are_what_the_contract_puts_out(output, classes, values, total, tmp_path):
    """Shares of one, each for itself, or no probabilities at all."""
    network = dp.read(checkpoint_file(tmp_path, FEW.format(classes), "zip"), contract={"output": output})

    prediction = dp.predict(network, SAMPLE / "seven.png", top=10)

    answers = prediction.pictures[0][1]
    shares = [answer.value for answer in answers]
    assert (prediction.values, len(answers), shares) == (values, classes, sorted(shares, reverse=True))
    assert total is None or sum(shares) == pytest.approx(total)
    assert (prediction.resize, prediction.assumed) == (Resize(), ("resize", "input"))


def test_names_are_the_user_s_or_the_file_s(tmp_path):
    """One a line; another number of them is refused."""
    seven, names = SAMPLE / "seven.png", "zero one two three four five six seven eight nine"
    (tmp_path / "names.txt").write_text(names.replace(" ", "\n") + "\n")
    (tmp_path / "few.txt").write_text("zero\none\n")
    network = dp.read(SAMPLE / "digits.pth")
    network.checkpoint.metadata["labels"] = tuple(names.upper().split())

    own = dp.predict(network, seven, top=1, size=32)
    given = dp.predict(network, seven, top=1, size=32, labels=tmp_path / "names.txt")
    with pytest.raises(PortError) as failure:
        dp.predict(network, seven, labels=tmp_path / "few.txt")

    assert [(one.pictures[0][1][0].label, one.origins["labels"]) for one in (own, given)] == [
        ("SEVEN", "record"),
        ("seven", "user"),
    ]
    assert str(failure.value) == (
        f"{tmp_path / 'few.txt'}: expected names of 10 classes, found 2\n"
        "  --labels takes a file with one name a line, in the order of the classes"
    )


def test_a_body_sees_nothing(tmp_path):
    """Without a head there are no classes."""
    path = SAMPLE / "digits.pth"

    with pytest.raises(PortError) as failure:
        dp.predict(dp.read(path, no_top=True), SAMPLE / "seven.png")

    assert str(failure.value) == f"{path}: has no head, and puts out no classes"


def test_the_command_says_what_it_assumes():
    """For scripts, and for readers."""
    words = ["predict", SAMPLE / "digits.pth", SAMPLE / "seven.png", "--top", "2"]

    script = json.loads(run(*words, "--size", 32, "--json").stdout)
    lines = run(*words, "--size", 32, "--input", "scale=1").stdout.splitlines()
    wrong = run(*words, "--resize", "size=32,zoom=2")
    strange = run(*words, "--resize", "size=32,crop=2")

    assert (script["schema"], script["assumed"], script["pictures"][0]["classes"][0]["number"]) == (
        "densenet-port/predict/1",
        ["resize", "input"],
        7,
    )
    assert lines[1:5] == [
        "  resize: 32 of 36 pixels, bilinear (assumed, but for the size)",
        "  input: rgb, scale 1, mean 0.485/0.456/0.406, std 0.229/0.224/0.225 (by your word)",
        "  labels: classes have no names",
        "  values: probabilities by softmax",
    ]
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "error: --resize size=32,zoom=2: unknown 'zoom'\n  known: size, crop, interpolation, fit\n",
    )
    assert strange.stderr == (
        "error: --resize size=32,crop=2: contract: resize.crop: expected a share of the picture, found 2.0\n"
    )
