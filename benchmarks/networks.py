"""The networks that are measured, and their files: torchvision checkpoints with random weights, written by torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import script


class Shape(NamedTuple):
    """The numbers of a DenseNet with ImageNet's stem and head, as torchvision's class takes them."""

    layers: str
    growth: int
    init: int


NAMED = {
    "121": Shape("6-12-24-16", 32, 64),
    "161": Shape("6-12-36-24", 48, 96),
    "169": Shape("6-12-32-32", 32, 64),
    "201": Shape("6-12-48-32", 32, 64),
}
TENFOLD = {"121 × 10": Shape("6-12-24-16", 107, 214)}  # ten times the bytes in as many tensors
SMALL = {"small": Shape("2-3-2", 8, 16)}  # for a try
SMALL_SPEC = "layers=2-3-2,growth_rate=8,init_channels=16,classes=7"
File = Mapping[str, Any]  # `path`, `parameters`, and the `largest` tensor in bytes


def checkpoints(folder: Path, shapes: Mapping[str, Shape], count: int = 1) -> dict[str, list[File]]:
    """As many files of each network, with random numbers; 8 to 300 million parameters take seconds."""
    written = script("checkpoints", folder, count, *("/".join(map(str, shape)) for shape in shapes.values()))
    return dict(zip(shapes, written, strict=True))


def samples(folder: Path, count: int = 1) -> dict[str, list[File]]:
    """Copies of the small network that comes along, for a try that needs no framework."""
    return {"sample": script("sample", folder, count)}


def calibrated(folder: Path, *names: str) -> dict[str, Path]:
    """Checkpoints of published networks by name, or of any by spec, whose logits answer to what they see."""
    return {name: Path(path) for name, path in script("calibrated", folder, *names).items()}
