"""Sums without rounding: the true one, whatever the order and the grouping."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numbers

from densenet_port.evaluation.sums import Sum

finite = st.floats(allow_nan=False, allow_infinity=False)
arrays = numbers.arrays(np.float64, st.integers(0, 40), elements=finite)


@settings(deadline=None)
@given(arrays)
def test_a_sum_is_the_true_one(values):
    """As fractions have it."""
    assert Sum.of(values).fraction == sum(map(Fraction, values.tolist()), Fraction(0))


@settings(deadline=None)
@given(numbers.arrays(np.float64, st.integers(0, 40), elements=st.floats(-1e300, 1e300)))
def test_as_a_float_it_is_the_nearest(values):
    """As `math.fsum` has it."""
    assert float(Sum.of(values)) == math.fsum(values.tolist())


@settings(deadline=None)
@given(arrays, st.randoms(), st.integers(0, 40))
def test_no_split_and_no_order_changes_it(values, random, cut):
    """Parts of what was shuffled, added in either order, have the same spelling as the whole."""
    shuffled = values.copy()
    random.shuffle(shuffled)
    one, other = Sum.of(shuffled[:cut]), Sum.of(shuffled[cut:])

    assert one + other == other + one == Sum.of(values)
    assert json.dumps((one + other).to_json()) == json.dumps(Sum.of(values).to_json())


@settings(deadline=None)
@given(arrays, arrays, arrays)
def test_sums_are_grouped_as_one_likes(first, second, third):
    """Associative, and JSON keeps them."""
    one, two, three = map(Sum.of, (first, second, third))

    assert (one + two) + three == one + (two + three)
    assert Sum.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_millions_of_floats_do_not_overflow():
    """Significands of all ones, of one exponent."""
    values = np.full(2**21, np.nextafter(2.0, 1.0))

    assert Sum.of(values).fraction == Fraction(float(values[0])) * 2**21


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_has_no_sum(strange):
    with pytest.raises(ValueError, match="NaN and infinity have no sum"):
        Sum.of(np.array([1.0, strange]))
