"""Planted sweeps: hundreds of small changes, of which each must be read rightly or refused.

The usual run takes every few of them, always the same; `make sweep` sets `DENSENET_PORT_SWEEP=whole` and takes all.
Strides are prime numbers, so that no kind of change falls into a gap where changes come in rows of one length.
"""

import os
from itertools import islice

WHOLE = os.environ.get("DENSENET_PORT_SWEEP") == "whole"


def swept(changes, stride):
    """Every change, or the first of each `stride` of them."""
    return islice(changes, 0, None, 1 if WHOLE else stride)


def at_least(number, stride):
    """How many of some kind there must be among those, of which the whole sweep has `number`: a fifth may be missed."""
    return number if WHOLE else number * 4 // (5 * stride)
