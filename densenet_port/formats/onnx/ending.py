"""What stands behind the last map of an ONNX graph: a head, in the words of `network.head`.

One vector is made of the map by means and maxima over height and width, joined where there are several, or by a Flatten
or Reshape, perhaps behind an AveragePool. What is left of it follows from how many numbers the first matrix or norm
behind it reads: as many as the map has channels, and a pool in front of it was over the whole map; or `side`² times as
many. Behind it stand norms, matrices and activations; what is none of these is passed over here, and refused where the
steps are compared with the graph that follows.
"""

import re
from math import isqrt, prod
from typing import NamedTuple, cast

from densenet_port.formats.onnx.chain import attribute
from densenet_port.formats.onnx.model import Constant
from densenet_port.formats.onnx.steps import Piece, Step
from densenet_port.network.contract import Output

MEANS = ("GlobalAveragePool", "ReduceMean")  # over height and width
MAXIMA = ("GlobalMaxPool", "ReduceMax")
WINDOWS = ("AveragePool", "MaxPool")
FLAT = ("Flatten", "Reshape", "Squeeze")
HEADS = ("Gemm", "MatMul", "Conv")
ACTIVATIONS: dict[str, Output] = {
    "Softmax": "softmax",
    "Sigmoid": "sigmoid",
    "Relu": "relu",
    "Tanh": "tanh",
    "LogSoftmax": "log_softmax",
}
_LETTERS = {"MatMul": "x", "Gemm": "d", "Conv": "d", "BatchNormalization": "b", "Sub": "s", "Mul": "m", "Add": "a"}
_LETTERS |= dict.fromkeys(ACTIVATIONS, "f")
_WORDS = re.compile("(?P<dense>xa?|d)|(?P<norm>[bs]m?a?|ma?|a)|(?P<function>f)")  # as `densenet` takes them


class Ending(NamedTuple):
    """A head and its outputs, None without one; the window of the pool in front of a flattened map; what comes out."""

    head: str
    classes: int | None
    pool: int
    output: Output


def end_of_body(steps: list[Step]) -> int:
    """The place of the first step behind the last map; that of the end where the map is all."""
    end = next((place for place in range(len(steps)) if _takes_places(steps, place)), len(steps))
    while 0 < end < len(steps) and _is_beside(steps[end - 1], steps[end]):
        end -= 1
    return end


def _takes_places(steps: list[Step], place: int) -> bool:
    """Whether a step makes a vector of a map, or reads one."""
    step = steps[place]
    if step.op in FLAT:
        return bool(set("hw") & set(step.reads.axes))
    return is_mean(steps, place) or step.op in (*MAXIMA, *HEADS[:2])


def is_mean(steps: list[Step], place: int) -> bool:
    """Whether a step is the mean over the picture; an AveragePool is, unless a norm follows, as behind a transition."""
    after = steps[place + 1].op if place + 1 < len(steps) else ""
    return steps[place].op in MEANS or (steps[place].op == "AveragePool" and after in ("", *FLAT, *HEADS))


def _is_beside(step: Step, other: Step) -> bool:
    """Whether a pool reads the same map as the step behind it, or is read by that."""
    return step.op in WINDOWS and (step.reads == other.reads or step.gives.pieces[0] in other.reads.pieces)


def in_order(steps: list[Step], end: int) -> list[Step]:
    """The steps with those of several means one mean after the other, as they are joined behind.

    A graph may work them out in any order.
    """
    branches, behind = _branches(steps, end)
    joined = steps[behind].reads.pieces if behind < len(steps) else ()
    lasts = [branch[-1].gives.pieces[0] for branch in branches]
    if len(branches) < 2 or sorted(map(str, lasts)) != sorted(map(str, joined)):
        return steps
    ordered = [step for piece in joined for step in branches[lasts.index(piece)]]
    return [*steps[:end], *ordered, *steps[behind:]]


def _branches(steps: list[Step], end: int) -> tuple[list[list[Step]], int]:
    """The steps between the last map and the vector, by the mean that they belong to, and the place behind them."""
    branches: list[list[Step]] = []
    of: dict[Piece, list[Step]] = {}
    for place in range(end, len(steps)):
        step = steps[place]
        if step.op not in (*MEANS, *MAXIMA, *WINDOWS, *FLAT):
            return branches, place
        branch = of.get(step.reads.pieces[0], []) if len(step.reads.pieces) == 1 else []
        if not branch:
            if step.reads.pieces != steps[end].reads.pieces:
                return branches, place
            branches.append(branch)
        branch.append(step)
        of[step.gives.pieces[0]] = branch
    return branches, len(steps)


def ending_of(steps: list[Step], end: int, channels: int, *, fixed: bool) -> Ending:
    """The head of steps, whose body ends there in a map of so many channels; `fixed` says that its size is known."""
    branches, behind = _branches(steps, end)
    words, classes, output = _words(steps[behind:])
    if classes is None or not branches:
        return Ending("/".join(["mean", *words]), classes, 1, output)
    count = next((_reads(step) for step in steps[behind:] if step.op in _LETTERS), 0)
    first, *others = branches[0]
    kernel = attribute(first, "kernel_shape") if first.op == "AveragePool" else None
    is_whole = count == channels and (fixed or kernel is None) and first.op not in FLAT
    flattened = [step for step in others if step.op in FLAT] if first.op == "AveragePool" else [first]
    if len(branches) > 1 or is_whole or not flattened or flattened[0].op not in FLAT:
        pools = ["max" if branch[0].op in (*MAXIMA, WINDOWS[1]) else "mean" for branch in branches]
        return Ending("/".join(["+".join(pools), *words]), classes, 1, output)
    side = max(isqrt(count // max(channels, 1)), 1)
    window = kernel[0] if isinstance(kernel, list) and kernel and kernel[0] > 0 else 1
    return Ending("/".join([f"flatten:{side}", *words]), classes, window, output)


def _words(steps: list[Step]) -> tuple[list[str], int | None, Output]:
    """What stands behind the vector, up to the last dense layer; its outputs, and the function behind it."""
    known = [step for step in steps if step.op not in FLAT]
    words: list[str] = []
    classes: int | None = None
    last = 0
    for match in _WORDS.finditer("".join(_LETTERS.get(step.op, " ") for step in known)):
        step = known[match.start()]
        if match["dense"]:
            classes = _gives(step)
            words.append(f"dense:{classes}")
            last = len(words)
        else:
            words.append("norm" if match["norm"] else ACTIVATIONS[step.op])
    if classes is None:
        return ["dense"], None, "logits"
    return [*words[: last - 1], "dense"], classes, _output(words[last:])


def _output(words: list[str]) -> Output:
    """The function that stands first behind the last dense layer; logits where none does."""
    return cast("Output", words[0]) if words and words[0] in ACTIVATIONS.values() else "logits"


def shape_of(step: Step) -> tuple[int, ...]:
    """The shape of a step's weight; none where it has none."""
    weight = step.others[0] if step.others else None
    return weight.tensor.shape if isinstance(weight, Constant) else ()


def _gives(step: Step) -> int:
    """The outputs of a matrix; 1 for what has none."""
    shape = shape_of(step)
    return shape[0 if _is_by_rows(step) else -1] if shape else 1


def _reads(step: Step) -> int:
    """How many numbers a matrix or a norm reads; 0 where nothing tells."""
    shape = shape_of(step)
    if step.op in HEADS:
        return shape[1 if _is_by_rows(step) else 0] if len(shape) > 1 else 0
    return prod(shape) if shape else 0


def _is_by_rows(step: Step) -> bool:
    """Whether a matrix has its outputs first."""
    return step.op == "Conv" or bool(attribute(step, "transB"))
