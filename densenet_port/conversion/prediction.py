"""What a network sees in pictures: the classes that it finds most likely, by numpy, and what was assumed on the way.

Nothing here is needed to move weights; it shows at once that a file is what it is taken for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.conversion.load import Network, read
from densenet_port.conversion.opening import Opens
from densenet_port.errors import CorruptError, DiskError, UsageError
from densenet_port.files import resource
from densenet_port.network.contract import Activation, Output, Resize
from densenet_port.network.numpy import activated, forward
from densenet_port.network.pictures import Pictures, Size, decoded, prepared, resize_of, resized

IMAGENET = 1000  # classes, whose names come along
CIFAR = 32  # pixels of the pictures that a stem for CIFAR is made for


class Answer(NamedTuple):
    """One class: its number, its name where there is one, and its probability, or what the output is else."""

    number: int
    label: str | None
    value: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answers to each picture, the best first, and how they came about.

    `pictures` are pairs of a picture's name and its answers. `resize` is how they were brought to a size, and `origins`
    says where that (`resize`), their preparation (`input`) and the names of classes (`labels`) are known from: as a
    contract's entries, "none" for classes without names. `values` says what the numbers of the answers are.
    """

    network: Network
    pictures: tuple[tuple[str, tuple[Answer, ...]], ...]
    resize: Resize
    values: str
    origins: Mapping[str, str]

    @property
    def assumed(self) -> tuple[str, ...]:
        """What of it nothing tells: `resize`, `input`, `labels`."""
        return tuple(key for key, origin in self.origins.items() if origin == "assumed")


def predict(
    source: Network | Opens,
    images: Pictures,
    *,
    top: int = 5,
    size: Size | None = None,
    labels: str | PathLike[str] | None = None,
) -> Prediction:
    """The `top` classes that a network finds in each picture, computed by numpy in float32.

    `source` is a network, or what `read` takes; `images` and `size` are as in `preprocess`, but that where nothing says
    a size the usual one is assumed: 224 of 256 pixels, or 32 for a network for CIFAR. `labels` is a file of names, one
    a line; else the file's own are taken, or ImageNet's for 1000 classes. Raises UsageError for a network without
    classes, MisfitError and the rest as `read` and `preprocess` do.
    """
    network = source if isinstance(source, Network) else read(source)
    classes, picture = network.architecture.classes, network.contract.input
    if classes is None:
        raise UsageError(f"{network.checkpoint.path}: has no head, and puts out no classes")
    names = _labels(network, classes, None if labels is None else Path(labels))
    resize = resize_of(network.contract, size, usual_resize(network)) or Resize()
    function, values = _function(network.contract.output, classes)
    weights = dict(network.weights)  # read once, for all pictures
    pictures: list[tuple[str, tuple[Answer, ...]]] = []
    for title, pixels in _titled(images, network.architecture.channels):
        image = prepared(resized(pixels, resize, picture)[None], picture)
        logits = forward(network.architecture, network.contract, weights, image, dtype=np.float32)
        pictures.append((title, _best(activated(logits, function)[0], names.words, top)))
    resized_by: str = network.origins.get("resize", "assumed")  # as the rest is, where a size alone was given
    if isinstance(size, Resize) or (size is not None and resized_by != "assumed"):
        resized_by = "user"
    return Prediction(
        network=network,
        pictures=tuple(pictures),
        resize=resize,
        values=values,
        origins={"resize": resized_by, "input": network.origins["input"], "labels": names.origin},
    )


def _titled(images: Pictures, channels: int) -> Iterator[tuple[str, Array]]:
    """Each picture's name, or its number, and its pixels."""
    is_one = isinstance(images, str | PathLike) or hasattr(images, "convert") or hasattr(images, "shape")
    count = 0
    for image in [images] if is_one else images:
        for pixels in decoded(image, channels):
            count += 1
            yield (str(image) if isinstance(image, str | PathLike) else f"picture {count}"), pixels


def usual_resize(network: Network) -> Resize:
    """How pictures of a network are usually resized, where nothing says it."""
    side = network.graph.fixed_side
    if network.architecture.stem == "cifar":  # whose pictures are taken whole
        return Resize(size=(side or CIFAR, side or CIFAR), crop=1.0)
    return Resize(size=(side, side)) if side else Resize()


# -- what is said of a picture -----------------------------------------------------------------------------------------


def _function(output: Output, classes: int) -> tuple[Activation, str]:
    """What makes numbers to be shown of the logits, and what these are."""
    if output in ("tanh", "relu"):
        return output, f"{output} of the logits"
    if output == "sigmoid" or classes == 1:
        return "sigmoid", "probabilities by sigmoid, each for itself"
    return "softmax", "probabilities by softmax"


def _best(values: Array, names: Sequence[str] | None, top: int) -> tuple[Answer, ...]:
    """The classes with the largest numbers; of equal ones the first."""
    order = np.argsort(-values, kind="stable")[:top]
    return tuple(Answer(int(one), names[one] if names else None, float(values[one])) for one in order)


# -- names of classes --------------------------------------------------------------------------------------------------


class Labels(NamedTuple):
    """The names of a network's classes, None where nobody has any, and where they are known from."""

    words: Sequence[str] | None
    origin: str


def _labels(network: Network, classes: int, path: Path | None) -> Labels:
    """The names in the user's file, the file's own, or ImageNet's. Raises UsageError for another number of them."""
    words: Sequence[str]
    if path is not None:
        words, origin, where = _lines(path), "user", str(path)
    elif own := _own_labels(network):
        words, origin, where = own, "record", str(network.checkpoint.path)
    elif classes == IMAGENET:
        words, origin, where = _lines(resource("weights") / "labels" / "imagenet.txt"), "assumed", "ImageNet"
    else:
        return Labels(None, "none")
    if len(words) != classes:
        message = f"{where}: expected names of {classes} classes, found {len(words)}"
        raise UsageError(message, hint="--labels takes a file with one name a line, in the order of the classes")
    return Labels(words, origin)


def _own_labels(network: Network) -> Sequence[str] | None:
    """The names that the file, or what lies beside it, records (`labels`)."""
    record: Mapping[str, Any] = network.checkpoint.record or {}
    labels: Sequence[str] | None = network.checkpoint.metadata.get("labels") or record.get("labels")
    return labels


def _lines(path: Path) -> list[str]:
    """The lines of a text file. Raises DiskError and CorruptError."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CorruptError(f"{path}: not a text in UTF-8: {error}") from error
