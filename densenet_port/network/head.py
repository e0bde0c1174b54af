"""Heads: what stands behind the last map, told in a few words.

A head is written as its steps in order, with a slash between them:

    mean/dense                                  the paper's: the mean over the picture, one dense layer
    max+mean/norm/dense:512/relu/norm/dense     two means side by side, norms, a dense layer of 512 before the last
    flatten:3/dense                             every place of a map of 3 × 3, row by row, each with all its channels
    no-relu/mean/dense                          the paper's, of a last map whose norm has no ReLU behind it

The first step makes one vector of the map: `mean` or `max` over height and width, several of them joined by `+`, or
`flatten:<side>`; `no-relu` before it leaves out the ReLU behind the final norm. Behind it stand norms, activations, and
dense layers with their outputs; the last step is `dense`, whose outputs are the classes. Dropout does nothing when a
network is evaluated, and is left out.
"""

import re
from functools import lru_cache
from typing import Literal, NamedTuple, cast, get_args

from densenet_port.errors import UsageError
from densenet_port.network.contract import Activation

USUAL = "mean/dense"
BARE = "no-relu"
Pool = Literal["mean", "max"]
_FORM = re.compile(r"(dense):([1-9]\d{0,8})|(norm|dense|" + "|".join(get_args(Activation)) + ")")


class HeadStep(NamedTuple):
    """A step behind the vector: `norm`, `dense` or an activation; `outputs` of a dense layer that is not the last."""

    kind: str
    outputs: int = 0


class Head(NamedTuple):
    """A head: the means that are joined, or the `side` of the map that is flattened; and the steps behind.

    `bare` says that it reads the final norm itself, without a ReLU.
    """

    pools: tuple[Pool, ...]
    side: int
    steps: tuple[HeadStep, ...]
    bare: bool = False


@lru_cache(maxsize=1 << 8)
def head_of(text: str) -> Head:
    """The head that a text says. Raises UsageError for a text that says none."""
    bare = text.startswith(f"{BARE}/")
    first, *rest = text.removeprefix(f"{BARE}/").split("/")
    steps = []
    for word in rest:
        match = _FORM.fullmatch(word)
        if match is None:
            raise _none(text, word)
        steps.append(HeadStep(match[1] or match[3], int(match[2] or 0)))
    wide = [step for step in steps if step.kind == "dense" and not step.outputs]
    if not steps or wide != steps[-1:]:
        raise _none(text, "the end" if not steps else rest[-1])
    if flat := re.fullmatch(r"flatten:([1-9]\d{0,3})", first):
        return Head((), int(flat[1]), tuple(steps), bare)
    pools = first.split("+")
    if not set(pools) <= set(get_args(Pool)) or len(set(pools)) != len(pools):
        raise _none(text, first)
    return Head(cast("tuple[Pool, ...]", tuple(pools)), 1, tuple(steps), bare)


def _none(text: str, word: str) -> UsageError:
    return UsageError(
        f"no head is {text!r}: not understood at {word!r}",
        hint="for example mean/dense, max+mean/norm/dense:512/relu/norm/dense or flatten:3/dense",
    )
