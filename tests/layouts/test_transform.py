"""Axis moves and the absorbed epsilon: exact, and with an inverse."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from densenet_port.layouts.transform import FOLDS, Recipe, absorb, absorb_in_scale, absorb_in_variance, folded, move

ORDERS = [" ".join(order) for order in permutations("ohwi")]
SMALL = hnp.arrays(np.float32, (3, 4, 5, 2), elements=st.floats(-1, 1, width=32), unique=True)
POSITIVE = st.floats(2.0**-149, 100, width=32, allow_subnormal=True)


@given(SMALL, st.sampled_from(ORDERS), st.sampled_from(ORDERS))
def test_a_move_and_its_inverse_give_the_same_bits(array, source, target):
    """There and back is the identity, for every pair of orders."""
    assert np.array_equal(move(move(array, source, target), target, source), array)


@given(SMALL, st.sampled_from(ORDERS))
def test_a_move_takes_every_value_to_its_named_place(array, target):
    """An element is found at the same named indices before and after."""
    moved = move(array, "o i h w", target)

    names = target.split()
    for place in [(0, 0, 0, 0), (2, 3, 4, 1), (1, 2, 3, 0)]:
        at = dict(zip("oihw", place, strict=True))
        assert moved[tuple(at[name] for name in names)] == array[place]


@given(hnp.arrays(np.float32, (4, 3), elements=st.floats(-1, 1, width=32)))
def test_an_axis_of_length_one_is_dropped_and_put_in(array):
    """A 1×1 convolution and a matrix are the same numbers."""
    kernel = move(array, "i o", "o i 1 1")

    assert (kernel.shape, np.array_equal(move(kernel, "o i 1 1", "i o"), array)) == ((3, 4, 1, 1), True)


@pytest.mark.parametrize(("source", "target"), [("o i", "i p"), ("o i h w", "h w i"), ("o o", "o o")])
def test_orders_that_do_not_name_the_same_axes_are_refused(source, target):
    """A missing, unknown or repeated axis has no move."""
    with pytest.raises(ValueError, match="do not name the same axes"):
        move(np.zeros((1, 1, 1, 1)[: len(source.split())]), source, target)


def half_ulp(rounded, exact):
    """Whether each float32 is within half an ULP of the exact value, itself known to a float64's rounding."""
    return bool(np.all(np.abs(rounded.astype(np.float64) - exact) <= np.spacing(np.abs(rounded)) * (0.5 + 1e-6)))


@given(
    hnp.arrays(np.float32, 8, elements=POSITIVE), st.sampled_from([(1e-5, 1.001e-5), (1.001e-5, 1e-5), (1e-5, 1e-3)])
)
def test_absorbing_an_epsilon_rounds_once(variance, change):
    """What is written is within half an ULP of the exact value, whichever tensor absorbed."""
    source, target = change
    scale = np.linspace(-2, 2, 8, dtype=np.float32)

    chosen, new_scale, new_variance = absorb(scale, variance, source, target)

    wide = variance.astype(np.float64)
    if chosen == "variance":
        assert half_ulp(new_variance, wide + (source - target))
        assert new_scale is scale
    else:
        assert half_ulp(new_scale, scale * np.sqrt((wide + target) / (wide + source)))
        assert new_variance is variance


@given(
    hnp.arrays(np.float32, 8, elements=POSITIVE),
    hnp.arrays(np.float32, 8, elements=st.floats(-4, 4, width=32, allow_subnormal=False)),
    st.sampled_from([(1e-5, 1.001e-5), (1.001e-5, 1e-5), (1e-5, 1.1e-5), (1e-5, 1e-3)]),
)
def test_absorbing_back_is_within_one_ulp(variance, scale, change):
    """The tensor that absorbed gives its own numbers back, to one ULP; the other one never moved."""
    source, target = change
    chosen, new_scale, new_variance = absorb(scale, variance, source, target)

    if chosen == "variance":
        old, back = variance, absorb_in_variance(new_variance, target, source)
    else:
        old, back = scale, absorb_in_scale(new_scale, new_variance, target, source)

    assert np.all(np.abs(back.astype(np.float64) - old) <= np.spacing(np.abs(old)))


def test_a_denormal_variance_leaves_the_scale_to_absorb():
    """Trained networks have channels with a variance of 6e-45, which would turn negative."""
    variance = np.array([6e-45, 7.6e-4], np.float32)

    chosen, _, kept = absorb(np.ones(2, np.float32), variance, 1e-5, 1.001e-5)

    assert (chosen, kept is variance) == ("scale", True)


def test_ordinary_variances_absorb_themselves():
    """Rounding the variance moves the slope half as much as rounding the scale."""
    rng = np.random.default_rng(0)

    chosen, _, _ = absorb(rng.normal(size=64).astype("f4"), rng.uniform(0.1, 2, 64).astype("f4"), 1e-5, 1.001e-5)

    assert chosen == "variance"


@given(SMALL, st.sampled_from(ORDERS), st.sampled_from([*ORDERS, "o i -h -w", "-h -w i o", "-w o -i h"]))
def test_a_reversed_axis_and_its_inverse_give_the_same_bits(array, source, target):
    """A true convolution's kernels come back as they were."""
    assert np.array_equal(move(move(array, source, target), target, source), array)


def test_a_minus_turns_the_axis_around():
    """Theano's kernel is the correlation's, turned by half a circle."""
    kernel = np.arange(2 * 3 * 3 * 4).reshape(2, 3, 3, 4)

    turned = move(kernel, "o -h -w i", "h w i o")

    assert np.array_equal(turned, kernel[:, ::-1, ::-1].transpose(1, 2, 3, 0))


NORMS = hnp.arrays(np.float32, 5, elements=st.floats(-100, 100, width=32))


@given(NORMS, NORMS, NORMS, NORMS, NORMS)
def test_two_affine_maps_fold_into_one(x, scale, shift, second_scale, second_shift):
    """Applied one after the other or folded: the same function, to float64's rounding."""
    parts = {"scale": scale, "shift": shift, "second_scale": second_scale, "second_shift": second_shift}

    a, b = (fold("batchnorm+scale", role, parts).astype(np.float64) for role in ("scale", "shift"))

    apart = (x.astype("f8") * scale + shift) * second_scale + second_shift - (x * a + b)
    size = (
        np.abs(x.astype("f8") * scale * second_scale) + np.abs(shift.astype("f8") * second_scale) + np.abs(second_shift)
    )
    assert np.all(np.abs(apart) <= 8 * np.spacing(size))


@given(NORMS, NORMS)
def test_an_identity_folds_to_the_stored_bits(second_scale, second_shift):
    """Ones and zeros in front change neither a value nor its type."""
    one, zero = np.ones(5, np.float32), np.zeros(5, np.float32)
    parts = {"scale": one, "shift": zero, "second_scale": second_scale, "second_shift": second_shift}

    folded_ = [fold("batchnorm+scale", role, parts) for role in ("scale", "shift")]

    assert [array.dtype for array in folded_] == [np.float32, np.float32]
    assert np.array_equal(folded_[0], second_scale)
    assert np.array_equal(folded_[1], second_shift)


@pytest.mark.parametrize(("factor", "mean"), [(1.0, [3.0, -6.0]), (4.0, [0.75, -1.5]), (0.0, [0.0, 0.0])])
def test_statistics_are_divided_by_their_factor(factor, mean):
    """A factor of zero means that nothing was accumulated, and zeros."""
    found = fold("unscale", "mean", {"mean": np.array([3, -6], "f4"), "factor": np.array([factor], "f4")})

    assert found.tolist() == mean


@pytest.mark.parametrize("name", FOLDS)
def test_what_is_written_folds_back_to_ours(name):
    """Every fold has an inverse: the parts that are written make the roles they came from, bit by bit."""
    random, kept = np.random.default_rng(0), FOLDS[name]
    roles = {role: random.standard_normal(6).astype("f4") for role in ("scale", "shift", "mean", "variance")}
    whats = {part: kept.written.get(part, part) for part in (*roles, *kept.extra)}
    parts = {
        part: roles[what] if isinstance(what, str) else np.full(1 if kept.extra.get(part) == "1" else 6, what, "f4")
        for part, what in whats.items()
    }

    back = {role: fold(name, role, parts) for role in roles}

    assert all(np.array_equal(back[role], roles[role]) for role in roles)


def fold(name, role, parts):
    """One role as a fold makes it."""
    recipe = FOLDS[name].recipes.get(role, Recipe((role,), lambda part: part))
    return folded(recipe, [parts[part] for part in recipe.parts])
