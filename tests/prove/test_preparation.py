"""Mistakes in the preparation of pictures are told: no logits show them, the two contracts do."""

from dataclasses import replace

import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import densenet_port as dp
from densenet_port.cli.prove import _diagnosis_text
from densenet_port.network.contract import Input, Resize
from densenet_port.prove import images
from densenet_port.prove.images import make_probes
from densenet_port.prove.parity import judge
from densenet_port.prove.recording import Settings, run_port, run_reference
from tests.support.networks import checkpoint_file

SPEC = "layers=2-2,growth_rate=8,init_channels=16,classes={}"
RIGHT = Input()
SQUARES = tuple(number**2 for number in RIGHT.std)
USUAL = "rgb, scale 255, mean 0.485/0.456/0.406, std 0.229/0.224/0.225"
ENDING = "mean 0.485/0.456/0.406, std 0.229/0.224/0.225 (record) in the port"
FAULTS = {
    "channel-order": (
        {"input": Input(order="bgr")},
        f"colours come bgr for rgb: {USUAL} (software) in the original, bgr, scale 255, {ENDING}",
    ),
    "scale left out": (
        {"input": Input(scale=1.0)},
        f"pixels are not divided by 255: {USUAL} (software) in the original, rgb, scale 1, {ENDING}",
    ),
    "scale twice": (
        {"input": Input(scale=255.0**2)},
        f"pixels are divided by 255 twice: {USUAL} (software) in the original, rgb, scale 65025, {ENDING}",
    ),
    "variance": (
        {"input": Input(std=SQUARES)},
        (
            f"variances stand for deviations: {USUAL} (software) in the original, rgb, scale 255, "
            "mean 0.485/0.456/0.406, std 0.05244/0.05018/0.05063 (record) in the port"
        ),
    ),
    "no-normalization": (
        {"input": Input(mean=(0.0,) * 3, std=(1.0,) * 3)},
        (
            f"neither mean nor deviation is taken: {USUAL} (software) in the original, rgb, scale 255, "
            "mean 0/0/0, std 1/1/1 (record) in the port"
        ),
    ),
    "input": (
        {"input": Input(mean=(0.5, 0.5, 0.5))},
        (
            f"pictures are prepared by other numbers: {USUAL} (software) in the original, rgb, scale 255, "
            "mean 0.5/0.5/0.5, std 0.229/0.224/0.225 (record) in the port"
        ),
    ),
    "crop": (
        {"resize": Resize(crop=1.0)},
        (
            "pictures are resized otherwise: 224 of 256 pixels, bilinear (software) in the original, "
            "224 of 224 pixels, bilinear (record) in the port"
        ),
    ),
    "interpolation": (
        {"resize": Resize(interpolation="nearest")},
        (
            "pictures are resized otherwise: 224 of 256 pixels, bilinear (software) in the original, "
            "224 of 256 pixels, nearest (record) in the port"
        ),
    ),
}
MISTAKES = {"scale left out": "scale", "scale twice": "scale", "crop": "resize", "interpolation": "resize"}


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """A small network of a thousand classes and its port, with what both answer."""
    folder = tmp_path_factory.mktemp("preparation")
    source = checkpoint_file(folder, SPEC.format(1000), "zip")
    original, port = dp.read(source), dp.read(dp.convert(source, out=folder / "port.weights.h5").out)
    reference = run_reference(original, make_probes(original, (), 2, None, 0))
    return port, original, reference, run_port(port, reference.probes, Settings(backend="numpy"))


def saying(answers, changed, origin="record"):
    """A port's answers, as if its file said something else of its pictures, known from somewhere."""
    origins = {**answers.metadata["origins"], **dict.fromkeys(changed, origin)}
    return replace(
        answers, contract=replace(answers.contract, **changed), metadata={**answers.metadata, "origins": origins}
    )


def test_a_port_that_says_the_same_is_proven(sides):
    """In other words, too: the same means and deviations of pixels that nobody divided."""
    port, original, reference, answers = sides
    words = Input(scale=1.0, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))

    assert judge(port, original, reference, answers).proven
    assert judge(port, original, reference, saying(answers, {"input": words})).proven


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_mistake_is_told_by_the_records(fault, sides):
    """By its name, with both sides' words; the logits agree, and the verdict does not."""
    port, original, reference, answers = sides
    changed, says = FAULTS[fault]

    result = judge(port, original, reference, saying(answers, changed))

    failed = [check for check in result.checks if not check.passed]
    (entry,) = changed
    assert [(check.kind, check.name, check.says) for check in failed] == [
        ("preparation", f"{entry} of pictures, as in the original", says)
    ]
    assert (result.grade, result.where, result.off) == ("differs", None, None)
    assert [(one["mistake"], one["says"]) for one in result.diagnosis] == [(MISTAKES.get(fault, fault), says)]


def test_what_one_side_assumes_is_a_note(sides):
    """Nobody knows who is right; of a resizing that one side does not know there is nothing to say."""
    port, original, reference, answers = sides
    guessed = saying(answers, {"input": Input(order="bgr")}, "assumed")
    unknown = replace(answers, contract=replace(answers.contract, resize=None))

    result = judge(port, original, reference, guessed)

    assert (result.grade, [note for note in result.notes if note.startswith("not judged")]) == (
        "proven",
        [
            (
                f"not judged, input: colours come bgr for rgb: {USUAL} (software) in the original, bgr, scale 255, "
                "mean 0.485/0.456/0.406, std 0.229/0.224/0.225 (assumed) in the port"
            )
        ],
    )
    assert judge(port, original, reference, unknown).proven


def test_a_whole_check_with_pictures(tmp_path):
    """Pictures are prepared as the original's contract says, and a port of another crop is told."""
    source, port, pictures = checkpoint_file(tmp_path, SPEC.format(1000), "zip"), tmp_path / "x.weights.h5", []
    (tmp_path / "pictures").mkdir()
    for number, pixels in enumerate(load_sample_images().images):
        pictures.append(tmp_path / "pictures" / f"{number}.png")
        Image.fromarray(pixels).save(pictures[-1])
    dp.convert(source, out=port, contract={"resize": Resize(crop=1.0)})
    known = {"resize": Resize(interpolation="bicubic", crop=0.95)}

    result = dp.check(port, against=source, backend="numpy", sizes=(64,), images=tmp_path / "pictures", contract=known)

    expected = dp.preprocess(pictures, replace(dp.read(source).contract, **known), size=64)
    assert result.probes[-1].images.tobytes() == expected.tobytes()
    assert [check.says for check in result.checks if not check.passed] == [
        (
            "pictures are resized otherwise: 224 of 235 pixels, bicubic (user) in the original, "
            "224 of 224 pixels, bilinear (user) in the port"
        )
    ]
    assert _diagnosis_text(result).splitlines()[0] == (
        "not the same network; its logits agree, of pictures that are prepared alike"
    )


def test_the_photographs_are_scikit_learn_s():
    """They are read where they lie, without importing it."""
    photographs = images._sample_pictures()

    assert [pixels.tobytes() for pixels in photographs.values()] == [
        one.tobytes() for one in load_sample_images().images
    ]
