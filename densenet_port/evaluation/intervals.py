"""What counts are worth: confidence intervals of a share and of the difference of two, and a test of that difference.

Shares and their differences are of 95 percent confidence, by the methods that R. G. Newcombe found to keep what they
say best of those in closed form (Statistics in Medicine 17, 1998, pages 857 and 2635): Wilson's score interval, and for
two shares of the same pictures method 10 of the second article, which joins two of Wilson's by the correlation. Whether
two sides of the same pictures are equally often right is asked by McNemar's test in its exact form: of the pictures
that one side alone has right, each side's would be half.
"""

from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


class Interval(NamedTuple):
    """A lower and an upper end."""

    low: float
    high: float


def wilson(count: int, total: int) -> Interval:
    """The score interval of a share `count / total`; all from 0 to 1 where nothing was counted."""
    if total == 0:
        return Interval(0.0, 1.0)
    share, square = count / total, _Z * _Z / total
    middle = share + square / 2
    around = _Z * sqrt(share * (1 - share) / total + square / (4 * total))
    low, high = (middle - around) / (1 + square), (middle + around) / (1 + square)
    return Interval(0.0 if count == 0 else low, 1.0 if count == total else high)


def difference(both: int, first: int, second: int, neither: int) -> Interval:
    """The interval of the difference of two shares of the same pictures: the first side's minus the second's.

    `both` pictures count for both sides, `first` and `second` for one alone.
    """
    total = both + first + second + neither
    if total == 0:
        return Interval(-1.0, 1.0)
    ones, others = both + first, both + second
    product = ones * (total - ones) * others * (total - others)
    surplus = both * neither - first * second
    correlation = (max(surplus - total / 2, 0) if surplus > 0 else surplus) / sqrt(product) if product else 0.0
    one, other = ones / total, others / total
    (low1, high1), (low2, high2) = wilson(ones, total), wilson(others, total)
    below = _joined(one - low1, high2 - other, correlation)
    above = _joined(high1 - one, other - low2, correlation)
    return Interval(max(one - other - below, -1.0), min(one - other + above, 1.0))


def _joined(one: float, other: float, correlation: float) -> float:
    """The distance that two distances make together."""
    return sqrt(max(one * one - 2 * correlation * one * other + other * other, 0.0))


def mcnemar(first: int, second: int) -> float:
    """The exact two-sided probability of a split at least as uneven, where each picture falls on either side alike."""
    total, least = first + second, min(first, second)
    ways, term = 0, 1
    for count in range(least + 1):
        ways += term
        term = term * (total - count) // (count + 1)
    return min(1.0, 2 * ways / (1 << total))
