"""Heads of several layers, found by the sizes of their tensors, whatever the layers are called.

Each layer reads what the one before puts out; the first reads the channels of the last map, twice as many where two
means are joined, or as many for each place of a flattened map. What stands between the layers weights do not tell.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import isqrt
from typing import NamedTuple

from densenet_port.layouts.layout import Layout, TensorKey
from densenet_port.network.head import head_of
from densenet_port.network.units import HEAD, Kind

BETWEEN = "ReLU between the dense layers of the head"
ALONE = "nothing but norms in front of the head's dense layer"
CONVOLVED = "the mean over the map in front of the head's 1×1 convolution, or behind it"
JOINED = "the maximum and then the mean in front of the head"
BARE = "no norm behind the last block"
OLD_FIRST = "old channels before new ones"  # of a file whose order of channels nothing tells
_MOST = 12  # layers of a head; the longest that people publish have six
_JOINED = 2  # means


class HeadLayer(NamedTuple):
    """A layer of the file: its name, its kind, the channels that it reads and puts out, and part → tensor's name."""

    name: str
    kind: Kind
    reads: int
    gives: int
    tensors: Mapping[str, str]


def head_layers(layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> list[HeadLayer]:
    """The dense layers and norms among tensors, in the file's order; what is neither is left out."""
    parts: dict[tuple[str, Kind], dict[str, str]] = {}
    for name in shapes:
        for unit, kind, part in _meanings(layout, name):
            parts.setdefault((unit, kind), {})[part] = name
    layers = (_layer(layout, unit, kind, tensors, shapes) for (unit, kind), tensors in parts.items())
    return [layer for layer in layers if layer]


def _meanings(layout: Layout, name: str) -> Iterator[tuple[str, Kind, str]]:
    """The units, kinds and parts that a tensor's name can be of."""
    kinds: tuple[Kind, ...] = ("dense", "norm")
    for kind in kinds:
        for part, pattern in layout.tensors[kind].items():
            for before, _, after in (form.partition("{unit}") for form in pattern.names):
                if name.startswith(before) and name.endswith(after) and len(name) > len(before + after):
                    yield name[len(before) : len(name) - len(after)], kind, part


def _layer(
    layout: Layout, unit: str, kind: Kind, tensors: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> HeadLayer | None:
    """A layer, if its tensors are all there and have as many axes as its kind's; a dense one need have no bias."""
    if kind == "norm":
        sizes = {shapes[name] for name in tensors.values()}
        if tensors.keys() != layout.tensors["norm"].keys() or len(sizes) != 1 or len(shape := sizes.pop()) != 1:
            return None
        return HeadLayer(unit, kind, shape[0], shape[0], tensors)
    axes = layout.tensors["dense"]["kernel"].axes[0].split()
    shape = shapes[tensors["kernel"]] if "kernel" in tensors else ()
    if len(axes) != len(shape):
        return None
    named = dict(zip(axes, shape, strict=True))
    is_whole = "bias" not in tensors or shapes[tensors["bias"]] == (named["o"],)
    return HeadLayer(unit, kind, named["i"], named["o"], tensors) if is_whole else None


def chained(layers: Sequence[HeadLayer], channels: int) -> list[HeadLayer] | None:
    """The layers in the order in which each reads what the one before puts out; None where they have none, or several.

    The file's own order is taken where it is one. The first reads the last map, which has `channels`.
    """
    if not layers or len(layers) > _MOST:
        return None
    if _is_chain(layers, channels):
        return [*layers]
    orders = _orders([], list(layers), channels)
    order = next(orders, None)
    return order if next(orders, None) is None else None


def _orders(chain: list[HeadLayer], rest: list[HeadLayer], channels: int) -> Iterator[list[HeadLayer]]:
    """Every order in which the rest goes on behind a chain."""
    if not rest:
        yield from [chain] if chain[-1].kind == "dense" else []
        return
    for place, layer in enumerate(rest):
        if layer.reads == chain[-1].gives if chain else _vector(layer.reads, channels):
            yield from _orders([*chain, layer], rest[:place] + rest[place + 1 :], channels)


def _is_chain(layers: Sequence[HeadLayer], channels: int) -> bool:
    """Whether layers in their order are a head."""
    joined = all(after.reads == before.gives for before, after in pairwise(layers))
    return joined and layers[-1].kind == "dense" and bool(_vector(layers[0].reads, channels))


def _vector(width: int, channels: int) -> str | None:
    """What makes a vector of so many numbers of a map of so many channels; None where nothing does."""
    if width in (channels, _JOINED * channels):
        return "mean" if width == channels else "max+mean"
    side = isqrt(width // channels)
    return f"flatten:{side}" if side > 1 and side**2 * channels == width else None


def head_text(layers: Sequence[HeadLayer], channels: int) -> str:
    """The head that layers in their order are taken for: with ReLU behind each dense layer but the last."""
    words = [_vector(layers[0].reads, channels) or ""]
    for layer in layers[:-1]:
        words += ["norm"] if layer.kind == "norm" else [f"dense:{layer.gives}", "relu"]
    return "/".join([*words, "dense"])


def assumed_of(text: str) -> tuple[str, ...]:
    """What is taken for granted of a head of which only weights are there, in words."""
    several = [BETWEEN] if "dense:" in text else [ALONE] if "norm" in text else []
    side = head_of(text).side
    flat = [] if head_of(text).pools else [f"a map of {side}×{side} places flattened in front of the head"]
    return (*several, *([JOINED] if "+" in text else []), *flat)


def keys_of(layers: Sequence[HeadLayer]) -> dict[TensorKey, tuple[str, str]]:
    """Tensor of a head → the file's name for it, and for its layer."""
    counts: dict[Kind, int] = {"dense": 0, "norm": 0}
    keys: dict[TensorKey, tuple[str, str]] = {}
    for layer in layers:
        counts[layer.kind] += 1
        unit = HEAD if layer is layers[-1] else f"head.{layer.kind}{counts[layer.kind]}"
        keys |= {TensorKey(unit, part): (name, layer.name) for part, name in layer.tensors.items()}
    return keys
