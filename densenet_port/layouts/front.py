"""A normalisation of pictures in front of a network, whose numbers stand among a file's tensors.

Whoever has one in a model saves it with the weights: `normalize.mean` and `normalize.std` of three numbers each, `mu`
and `sigma` of 1 3 1 1, Keras's `normalization/mean` and `normalization/variance`. Where it stands no name tells; that
it stands in front of the network, red first, is an assumption.
"""

from collections.abc import Mapping
from math import prod
from string import ascii_lowercase
from typing import NamedTuple

import numpy as np

from densenet_port.checkpoint import Array, Checkpoint, Tensor
from densenet_port.errors import MisfitError
from densenet_port.formats.decimals import meant
from densenet_port.network.contract import Input, input_of

NORMALISES = "a normalisation of pictures in front of the network"  # the rule by which its numbers are no weights
_MOST = 16  # channels of pictures
_DEVIATIONS = {"mean": ("std", "stddev", "sigma", "variance", "var"), "means": ("stds",), "mu": ("sigma", "std")}
_SQUARED = ("variance", "var")
_OTHERS = ("running_", "moving_", "target_", "label_", "output_", "y_")  # of norms, and of what comes out


class Normaliser(NamedTuple):
    """The names of two tensors: means, and deviations or their squares."""

    means: str
    deviations: str

    @property
    def is_squared(self) -> bool:
        """Whether the deviations are variances."""
        return self.deviations.endswith(_SQUARED)


def normaliser(tensors: Mapping[str, Tensor]) -> Normaliser | None:
    """The one pair among tensors that can be a normalisation; None where there is none, or several."""
    pairs = [
        pair
        for name in tensors
        for pair in _pairs(name)
        if pair.deviations in tensors and _numbers(tensors[name]) == _numbers(tensors[pair.deviations]) > 0
    ]
    return pairs[0] if len(pairs) == 1 else None


def _pairs(name: str) -> list[Normaliser]:
    """What a tensor of means would be a pair with."""
    before = name.rstrip(ascii_lowercase)
    if before.endswith(_OTHERS):
        return []
    return [Normaliser(name, before + other) for other in _DEVIATIONS.get(name[len(before) :], ())]


def _numbers(tensor: Tensor) -> int:
    """How many numbers a tensor has, one for each channel of pictures; 0 where it is no such.

    A single number is one of pictures only in the shape of a picture.
    """
    count = prod(tensor.shape)
    is_single = count == 1 and len(tensor.shape) > 2
    return count if is_single or (1 < count <= _MOST and count in tensor.shape) else 0


def normalised(checkpoint: Checkpoint, ignored: Mapping[str, str], channels: int) -> Input | None:
    """The input that the numbers left out as a normalisation's say: (pixel − mean) / deviation; None without any.

    Raises MisfitError for numbers of other channels than the network has, and such as prepare nothing.
    """
    names = {name: checkpoint.tensors[name] for name, rule in ignored.items() if rule == NORMALISES}
    pair = normaliser(names)
    if pair is None:
        return None
    means, deviations = (_decimals(names[name].load()) for name in pair)
    deviations = [number**0.5 if number > 0 else 0.0 for number in deviations] if pair.is_squared else deviations
    if len(means) not in (1, channels):
        what = f"{len(means)} numbers in {pair.means} for a network of {channels} channels"
        raise MisfitError(f"{checkpoint.path}: {what}", hint="take it out of the file if it is no part of the network")
    if not all(number > 0 and np.isfinite(number) for number in deviations):
        raise MisfitError(f"{checkpoint.path}: {pair.deviations} holds no deviations: {deviations}")
    factors = [1 / number for number in deviations] * (channels // len(means))
    offsets = [-mean / number for mean, number in zip(means, deviations, strict=True)] * (channels // len(means))
    return input_of(factors, offsets, "grey" if channels == 1 else "rgb")


def _decimals(array: Array) -> list[float]:
    """Numbers as people write them: 0.485, where a float32 is next to it."""
    return [meant(number, factor=False) for number in array.reshape(-1)]
