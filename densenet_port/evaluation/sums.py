"""Sums of floats without rounding, so that no order and no grouping of what is summed changes them.

A float64 is a whole number times a power of two, and so is the sum of any number of them.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from densenet_port.checkpoint import Array

_BITS = 53  # of a float64's significand
_HALF = 26  # bits of the lower half of one: halves of 2**36 numbers have room in 64 bits together


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum `significand · 2**exponent`, of which there is one spelling: an odd significand, or 0 and 0."""

    significand: int = 0
    exponent: int = 0

    @classmethod
    def of(cls, values: Array) -> "Sum":
        """The sum of an array of finite floats, of any shape. Raises ValueError for NaN and infinity."""
        if not np.isfinite(values).all():
            raise ValueError("NaN and infinity have no sum")
        fractions, exponents = np.frexp(np.asarray(values, np.float64).ravel())
        whole = np.ldexp(fractions, _BITS).astype(np.int64)
        total, least = 0, int(exponents.min(initial=0))
        order = np.argsort(exponents, kind="stable")
        kinds, starts = np.unique(exponents[order], return_index=True)
        if kinds.size:
            high = np.add.reduceat(whole[order] >> _HALF, starts)
            low = np.add.reduceat(whole[order] & ((1 << _HALF) - 1), starts)
            for kind, upper, lower in zip(kinds.tolist(), high.tolist(), low.tolist(), strict=True):
                total += ((upper << _HALF) + lower) << (kind - least)
        return cls._spelled(total, least - _BITS)

    @classmethod
    def _spelled(cls, significand: int, exponent: int) -> "Sum":
        """The one spelling of a number."""
        if significand == 0:
            return cls()
        zeros = (significand & -significand).bit_length() - 1
        return cls(significand >> zeros, exponent + zeros)

    def __add__(self, other: "Sum") -> "Sum":
        least = min(self.exponent, other.exponent)
        ours, others = self.significand << (self.exponent - least), other.significand << (other.exponent - least)
        return self._spelled(ours + others, least)

    def __float__(self) -> float:
        """The nearest float64. Raises OverflowError for a sum beyond all of them."""
        return float(self.fraction)

    @property
    def fraction(self) -> Fraction:
        """The sum as a fraction."""
        return Fraction(self.significand) * Fraction(2) ** self.exponent

    def to_json(self) -> list[int]:
        """Significand and exponent."""
        return [self.significand, self.exponent]

    @classmethod
    def from_json(cls, data: list[int]) -> "Sum":
        """The sum that `to_json` wrote."""
        return cls._spelled(*data)
