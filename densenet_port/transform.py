"""Axis moves and the absorbed epsilon, each with its inverse; numpy only.

A move is told by two orders of named axes (`o i h w` → `h w i o`) and never written as a transpose. The axis `1` has no
name of ours: it must have length one, and is dropped or put in.
"""

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from densenet_port.checkpoint import Array

Absorber = Literal["variance", "scale"]

TIE = 1e-6  # a change too small for either tensor costs both the same, but for float64's own rounding


class Move(NamedTuple):
    """A compiled axis move: drop `dropped`, permute by `order`, put axes of length one in at `added`."""

    dropped: tuple[int, ...]
    order: tuple[int, ...]
    added: tuple[int, ...]


@lru_cache(maxsize=256)
def compile_move(source: str, target: str) -> Move:
    """The move from one order of axes to another, for example `o i 1 1` to `i o`.

    Raises ValueError when the two do not name the same axes, each once.
    """
    old, new = source.split(), target.split()
    named = [axis for axis in old if axis != "1"]
    wanted = [axis for axis in new if axis != "1"]
    if sorted(named) != sorted(wanted) or len(set(named)) != len(named):
        raise ValueError(f"axes {source!r} and {target!r} do not name the same axes, each once")
    return Move(
        dropped=tuple(place for place, axis in enumerate(old) if axis == "1"),
        order=tuple(named.index(axis) for axis in wanted),
        added=tuple(place for place, axis in enumerate(new) if axis == "1"),
    )


def move(array: Array, source: str, target: str) -> Array:
    """A view of `array`, whose axes are in the order `source`, with its axes in the order `target`.

    No value is computed or copied, so the way back gives the same bits.
    """
    steps = compile_move(source, target)
    return np.expand_dims(array.squeeze(axis=steps.dropped).transpose(steps.order), steps.added)


def absorb(scale: Array, variance: Array, source: float, target: float) -> tuple[Absorber, Array, Array]:
    """Scale and variance (both `c`, float) for a norm whose epsilon must change from `source` to `target`.

    The function stays the same: scale / sqrt(variance + epsilon) is kept, either by the variance (variance + source −
    target) or by the scale (scale · sqrt((variance + target) / (variance + source))). Both are computed in float64 and
    rounded once to the arrays' type. The more accurate one is taken: the one whose rounding moves the norm's slope
    less, relative to itself. A variance that would turn negative, or that could not be given back within one ULP, rules
    the first out. Gives the tensor that absorbed, then scale and variance, of which one is as it was.
    """
    shifted = absorb_in_variance(variance, source, target)
    stretched = absorb_in_scale(scale, variance, source, target)
    if not _gives_back(variance, shifted, source - target):
        return "scale", stretched, variance
    of_variance = _slope_error_of_variance(variance, shifted, source, target)
    of_scale = _slope_error_of_scale(scale, stretched, variance, source, target)
    if of_variance <= of_scale * (1 + TIE):
        return "variance", scale, shifted
    return "scale", stretched, variance


def absorb_in_variance(variance: Array, source: float, target: float) -> Array:
    """The variance (`c`) that keeps variance + epsilon, computed in float64, rounded once to its type."""
    return (variance.astype(np.float64) + (source - target)).astype(variance.dtype)


def absorb_in_scale(scale: Array, variance: Array, source: float, target: float) -> Array:
    """The scale (`c`) that keeps scale / sqrt(variance + epsilon), computed in float64, rounded once to its type."""
    return (scale.astype(np.float64) * _stretch(variance, source, target)).astype(scale.dtype)


def _stretch(variance: Array, source: float, target: float) -> Array:
    """The exact factor on the scale, in float64."""
    wide = variance.astype(np.float64)
    return np.sqrt((wide + target) / (wide + source))


def _gives_back(variance: Array, shifted: Array, change: float) -> bool:
    """Whether subtracting `change` again gives every variance within one ULP, with none negative on the way."""
    back = (shifted.astype(np.float64) - change).astype(variance.dtype)
    near = np.abs(back.astype(np.float64) - variance.astype(np.float64)) <= np.spacing(np.abs(variance))
    return bool(np.all(shifted >= 0) and np.all(near))


def _slope_error_of_variance(variance: Array, shifted: Array, source: float, target: float) -> float:
    """Largest relative error of 1 / sqrt(variance + epsilon) that rounding the variance causes: half the variance's."""
    exact = variance.astype(np.float64) + source
    return float(np.max(np.abs(shifted.astype(np.float64) + target - exact) / exact, initial=0.0)) / 2


def _slope_error_of_scale(scale: Array, stretched: Array, variance: Array, source: float, target: float) -> float:
    """Largest relative error that rounding the scale causes; a scale of zero has none."""
    exact = scale.astype(np.float64) * _stretch(variance, source, target)
    wrong = np.abs(stretched.astype(np.float64) - exact)
    return float(np.max(np.divide(wrong, np.abs(exact), out=np.zeros_like(wrong), where=exact != 0), initial=0.0))
