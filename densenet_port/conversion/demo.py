"""The demonstration: the embedded sample, a network really trained, is converted, verified and asked again.

The sample is a DenseNet of torchvision's own class in torchvision's own format, trained on scikit-learn's handwritten
digits (`weights/sample/train.py`). Beside it lie digits that the training never saw, and torch's logits for them. The
demonstration converts the file to Keras 3, checks the digest of every tensor written, and runs the converted weights
over those digits in numpy, in both precisions. It needs no framework.
"""

import tempfile
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from densenet_port.conversion.convert import convert, verify
from densenet_port.conversion.load import read
from densenet_port.errors import CorruptError, DiskError
from densenet_port.files import resource
from densenet_port.network.contract import Input


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Digits that the training never saw, as `digits-heldout.npz` records them.

    For N digits: `images` (N, 8, 8) uint8, ink 0 … 16; `labels` (N,) uint8; `logits32` (N, 10) float32 and `logits64`
    (N, 10) float64, what torch put out for `prepare(images)` with the network in either precision; `index` (N,) int64,
    the digits' rows in scikit-learn's set.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    logits32: NDArray[np.float32]
    logits64: NDArray[np.float64]
    index: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demonstration measured.

    `tensors` and `parameters` (trained values) are those of the converted network, `images` the held-out digits.
    `accuracy_before` is torch's on them, `accuracy_after` that of the converted weights in numpy, both float32, 0 … 1;
    `agreeing` counts the digits for which the two name the same class. `difference32` and `difference64` are the
    largest difference of any logit from torch's in the same precision, `relative32` and `relative64` the same in
    standard deviations of torch's logits. `seconds` is the wall time of everything.
    """

    architecture: str
    tensors: int
    parameters: int
    images: int
    accuracy_before: float
    accuracy_after: float
    agreeing: int
    difference32: float
    relative32: float
    difference64: float
    relative64: float
    seconds: float


def demo() -> DemoResult:
    """Convert the sample to a temporary `.weights.h5`, verify its digests, and compare it with torch's record.

    Raises DiskError or CorruptError for an incomplete installation, and what `convert` and `verify` raise.
    """
    start = time.perf_counter()
    sample = resource("weights") / "sample"
    held_out = read_held_out(sample / "digits-heldout.npz")
    with tempfile.TemporaryDirectory(prefix="densenet-port-") as scratch:
        converted = Path(scratch) / "digits.weights.h5"
        convert(sample / "digits.pth", out=converted)
        verify(converted)
        network = read(converted)
        prepared = prepare(held_out.images)
        logits32, logits64 = network(prepared, dtype="float32"), network(prepared, dtype="float64")
    before, after = held_out.logits32.argmax(1), logits32.argmax(1)
    difference32 = float(np.abs(logits32 - held_out.logits32).max())
    difference64 = float(np.abs(logits64 - held_out.logits64).max())
    deviation = float(held_out.logits64.std())
    return DemoResult(
        architecture=network.architecture.name,
        tensors=len(network.architecture.slots),
        parameters=network.architecture.trainable,
        images=len(held_out.images),
        accuracy_before=float(np.mean(before == held_out.labels)),
        accuracy_after=float(np.mean(after == held_out.labels)),
        agreeing=int(np.sum(before == after)),
        difference32=difference32,
        relative32=difference32 / deviation,
        difference64=difference64,
        relative64=difference64 / deviation,
        seconds=time.perf_counter() - start,
    )


def prepare(digits: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Digits (N, 8, 8), ink 0 … 16, as the sample network takes them: (N, 32, 32, 3) float32, channels last.

    Enlarged four times, bilinearly (pixel centres at halves, edges repeated); ink 16 is a pixel of 255, the same in
    red, green and blue; then torchvision's (pixel / 255 − mean) / std. The same bits on every machine: the bilinear
    weights are eighths and the ink whole, so the sums are exact in any order, and the rest is rounded value by value.
    """
    places = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(8)))
    pixels: NDArray[np.float64] = weights @ (digits * (255 / 16)) @ weights.T
    rgb = Input()
    return ((pixels[..., None] / rgb.scale - rgb.mean) / rgb.std).astype(np.float32)


def read_held_out(path: Path) -> HeldOut:
    """Read `digits-heldout.npz`. Raises DiskError or CorruptError, with the way to mend an installation."""
    hint = "reinstall densenet-port: its installation is incomplete"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return HeldOut(**{name: archive[name] for name in HeldOut.__slots__})
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}", hint=hint) from error
    except (EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise CorruptError(f"{path}: not the held-out digits: {error}", hint=hint) from error
