"""Axis moves, folds and the absorbed epsilon, each with its inverse; numpy only.

A move follows from two orders of named axes (`o i h w` → `h w i o`) and is never written as a transpose. The axis `1`
is none of a slot's: it must have length one, and is dropped or put in. An axis with a minus is stored reversed: the
kernels of a true convolution, Theano's, are `o i -h -w`.

A fold makes a slot's tensor of several of a layout's. It names the parts that it needs beside the roles, how a role is
computed from the parts, and what is written for each part: a role, or a constant.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from densenet_port.checkpoint import Array

if TYPE_CHECKING:  # it takes 10 ms to import
    from numpy.typing import DTypeLike

Absorber = Literal["variance", "scale"]
Load = Callable[[], Array]

TIE = 1e-6  # a change too small for either tensor costs both the same, but for float64's own rounding


class Move(NamedTuple):
    """A compiled axis move: drop axes, permute the rest by `order`, reverse some, put axes of length one in.

    `dropped` are places in the old order, `reversed` among the permuted axes, `added` in the new order.
    """

    dropped: tuple[int, ...]
    order: tuple[int, ...]
    reversed: tuple[int, ...]
    added: tuple[int, ...]


@lru_cache(maxsize=256)
def compile_move(source: str, target: str) -> Move:
    """The move from one order of axes to another, for example `o i 1 1` to `i o` or `o i -h -w` to `h w i o`.

    Raises ValueError when the two do not name the same axes, each once.
    """
    old, new = source.split(), target.split()
    before = [axis for axis in old if axis != "1"]
    after = [axis for axis in new if axis != "1"]
    names_before = [axis.removeprefix("-") for axis in before]
    names_after = [axis.removeprefix("-") for axis in after]
    if sorted(names_before) != sorted(names_after) or len(set(names_after)) != len(names_after):
        raise ValueError(f"axes {source!r} and {target!r} do not name the same axes, each once")
    return Move(
        dropped=tuple(place for place, axis in enumerate(old) if axis == "1"),
        order=tuple(names_before.index(axis) for axis in names_after),
        reversed=tuple(place for place, axis in enumerate(after) if axis not in before),
        added=tuple(place for place, axis in enumerate(new) if axis == "1"),
    )


def move(array: Array, source: str, target: str) -> Array:
    """A view of `array`, whose axes are in the order `source`, with its axes in the order `target`.

    No value is computed or copied, so the way back gives the same bits.
    """
    steps = compile_move(source, target)
    turned = array.squeeze(axis=steps.dropped).transpose(steps.order)
    if steps.reversed:
        turned = np.flip(turned, steps.reversed)
    return np.expand_dims(turned, steps.added) if steps.added else turned


# -- folds -------------------------------------------------------------------------------------------------------------


class Recipe(NamedTuple):
    """How a fold computes one role: from which parts, in the order that `compute` takes their float64 arrays."""

    parts: tuple[str, ...]
    compute: Callable[..., Array]


class Fold(NamedTuple):
    """Several tensors of a layout that make one slot, and back.

    `extra` are the parts beside the roles, with their axes; a part that is called as a role has the role's axes.
    `recipes` compute roles; every other role is the part of its name. `written` is what each part gets, a role or a
    constant; every other part gets the role of its name.
    """

    extra: Mapping[str, str]
    recipes: Mapping[str, Recipe]
    written: Mapping[str, str | float]


def unscaled(accumulated: Array, factor: Array) -> Array:
    """Caffe's running statistics (`c`) over the factor (`1`) that they accumulated; all zeros where that is zero.

    Source: BVLC Caffe, batch_norm_layer.cpp, Forward_cpu with use_global_stats.
    """
    if not factor.all():
        return np.zeros_like(accumulated)
    result: Array = accumulated / factor
    return result


FOLDS: dict[str, Fold] = {
    # a norm with its own affine map, and a layer that scales and shifts behind it
    "batchnorm+scale": Fold(
        extra={"second_scale": "c", "second_shift": "c"},
        recipes={
            "scale": Recipe(("scale", "second_scale"), np.multiply),
            "shift": Recipe(
                ("shift", "second_scale", "second_shift"), lambda shift, scale, second: shift * scale + second
            ),
        },
        written={"scale": 1.0, "shift": 0.0, "second_scale": "scale", "second_shift": "shift"},
    ),
    # statistics that are stored times a factor
    "unscale": Fold(
        extra={"factor": "1"},
        recipes={"mean": Recipe(("mean", "factor"), unscaled), "variance": Recipe(("variance", "factor"), unscaled)},
        written={"factor": 1.0},
    ),
}


def folded(recipe: Recipe, parts: list[Array]) -> Array:
    """One role from its parts, computed in float64; in the first part's own type where that holds it exactly."""
    with np.errstate(all="ignore"):  # NaN and infinity in a file are carried over, and reported elsewhere
        exact = recipe.compute(*(part.astype(np.float64) for part in parts))
        narrow: Array = exact.astype(parts[0].dtype)
    return narrow if np.array_equal(narrow, exact, equal_nan=True) else exact


def rounded(array: Array, dtype: str) -> Array:
    """Floating-point numbers in another type, rounded once: to the nearest, of two that are as near to the even one.

    bfloat16, which NumPy lacks, comes as the float32 that it is. What is too large becomes infinite.
    """
    with np.errstate(over="ignore"):
        if dtype != "bfloat16":
            return array.astype(dtype, copy=False)
        narrow = array.astype(np.float32)
    bits = narrow.view(np.uint32).copy()
    if array.dtype.itemsize > narrow.dtype.itemsize:  # a half that rounding to float32 made is none
        exact, near = np.abs(array), np.abs(narrow.astype(array.dtype))
        is_half = (bits & 0xFFFF) == 0x8000
        bits += (is_half & (exact > near)).astype(np.uint32)
        bits -= (is_half & (exact < near)).astype(np.uint32)
    bits += 0x7FFF + (bits >> 16 & 1)
    return np.where(np.isnan(narrow), narrow.dtype.type(np.nan), (bits & 0xFFFF0000).view(np.float32))


UNBIASED = Recipe(("mean", "bias"), np.subtract)


def unbiased(mean: Load, pieces: Sequence[tuple[Load | None, int]]) -> Array:
    """A norm's mean (`c`) less what biases add to the channels that it reads, piece by piece; without one, nothing.

    (x + bias − mean) is (x − (mean − bias)). In float64, or the mean's own type as in `folded`.
    """
    return folded(UNBIASED, [mean(), _added(pieces)])


def biased(bias: Load, kernel: Load, pieces: Sequence[tuple[Load | None, int]]) -> Array:
    """A dense layer's bias (`o`) and what biases add to the channels that its kernel (`i o`) reads, piece by piece.

    (x + added) · kernel + bias is x · kernel + (bias + added · kernel). In float64, or the bias's own type as in
    `folded`.
    """
    recipe = Recipe(("bias", "kernel", "added"), lambda own, weights, added: own + added @ weights)
    return folded(recipe, [bias(), kernel(), _added(pieces)])


def _added(pieces: Sequence[tuple[Load | None, int]]) -> Array:
    """What biases add to each channel; zeros where there is none."""
    return np.concatenate([np.zeros(channels) if bias is None else bias() for bias, channels in pieces])


# -- the absorbed epsilon ----------------------------------------------------------------------------------------------


def absorb(
    scale: Array, variance: Array, source: float, target: float, dtype: "DTypeLike | None" = None
) -> tuple[Absorber, Array, Array]:
    """Scale and variance (both `c`, float) for a norm whose epsilon must change from `source` to `target`.

    The function stays the same: scale / sqrt(variance + epsilon) is kept, either by the variance (variance + source −
    target) or by the scale (scale · sqrt((variance + target) / (variance + source))). Both are computed in float64 and
    rounded once to `dtype`, by default the variance's. The more accurate one is taken: the one whose rounding moves the
    norm's slope less, relative to itself. A variance that would turn negative, or that could not be given back within
    one ULP, rules the first out. Gives the tensor that absorbed, then scale and variance, of which one is as it was.
    """
    kind = np.dtype(dtype or variance.dtype)
    shifted = absorb_in_variance(variance, source, target, kind)
    stretched = absorb_in_scale(scale, variance, source, target, kind)
    if not _gives_back(variance.astype(kind), shifted, source - target):
        return "scale", stretched, variance
    of_variance = _slope_error_of_variance(variance, shifted, source, target)
    of_scale = _slope_error_of_scale(scale, stretched, variance, source, target)
    if of_variance <= of_scale * (1 + TIE):
        return "variance", scale, shifted
    return "scale", stretched, variance


def absorb_in_variance(variance: Array, source: float, target: float, dtype: "DTypeLike | None" = None) -> Array:
    """The variance (`c`) that keeps variance + epsilon, computed in float64, rounded once to `dtype` or its type."""
    return (variance.astype(np.float64) + (source - target)).astype(dtype or variance.dtype)


def absorb_in_scale(
    scale: Array, variance: Array, source: float, target: float, dtype: "DTypeLike | None" = None
) -> Array:
    """The scale (`c`) that keeps scale / sqrt(variance + epsilon), rounded as in `absorb_in_variance`."""
    return (scale.astype(np.float64) * _stretch(variance, source, target)).astype(dtype or scale.dtype)


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
