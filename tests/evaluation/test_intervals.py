"""Intervals and the test, against published examples, SciPy, and what they promise of many draws."""

import numpy as np
import pytest
from scipy.stats import binomtest

from densenet_port.evaluation.intervals import difference, mcnemar, wilson


@pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 1), (81, 263), (15, 148), (0, 20), (1, 29), (29, 29)])
def test_wilson_s_is_scipy_s(count, total):
    """The score interval without a correction for continuity."""
    theirs = binomtest(count, total).proportion_ci(0.95, method="wilson")

    assert wilson(count, total) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_of_nothing_nothing_is_known():
    assert (wilson(0, 0), difference(0, 0, 0, 0), mcnemar(0, 0)) == ((0, 1), (-1, 1), 1)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (3, 9), (9, 3), (12, 12), (0, 40), (400, 500)])
def test_mcnemar_s_is_the_binomial_test(first, second):
    expected = binomtest(first, first + second).pvalue if first + second else 1.0

    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_s_takes_what_a_whole_data_set_has():
    """Tens of thousands of pictures that one side alone is right about."""
    assert mcnemar(10_000, 10_000) == 1.0
    assert 0 < mcnemar(9_000, 10_000) < 1e-12


def test_an_interval_of_a_difference_holds_it_nineteen_times_of_twenty():
    """Of pairs that hang together, as two sides' answers do; seeded."""
    shares = np.array([0.7, 0.05, 0.02, 0.23])
    truth = shares[1] - shares[2]
    draws = np.random.default_rng(0).multinomial(200, shares, size=4000)

    held = [low <= truth <= high for low, high in (difference(*map(int, draw)) for draw in draws)]

    assert 0.94 < np.mean(held) < 0.98


def test_sides_that_change_places_have_the_same_interval_turned_round():
    """And of the same answers it is around zero."""
    low, high = difference(50, 9, 3, 38)

    assert difference(50, 3, 9, 38) == pytest.approx((-high, -low), abs=1e-12)
    assert low < 0.06 < high
    same = difference(449, 0, 0, 1)
    assert same.low == pytest.approx(-same.high)
    assert 0 < same.high < 0.01


def test_one_share_s_interval_is_that_of_the_difference_where_the_other_is_zero():
    """Without any answer of the second side the lower end lies above zero."""
    assert difference(0, 40, 0, 60).low > 0.2
