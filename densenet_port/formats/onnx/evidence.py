"""What the steps of an ONNX graph tell of the network before they are compared with any: its numbers and its parts.

The kernels in order of execution give the architecture, and what stands behind the last map its head (see `ending`).
The strides of the first Conv and of the first MaxPool, and what stands behind the head, give what the contract adds to
the operations. Nothing here says that the graph is such a network: that is for the comparison with the graph that
follows from these.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

from densenet_port.errors import MisfitError, PortError, UsageError
from densenet_port.formats.onnx.chain import attribute
from densenet_port.formats.onnx.ending import end_of_body, ending_of, shape_of
from densenet_port.formats.onnx.steps import Step
from densenet_port.network.architecture import Architecture, infer, name_in_order
from densenet_port.network.contract import Contract, StemPool
from densenet_port.network.graph import graph, stem_of
from densenet_port.network.head import BARE

_KERNEL = "oihw"  # the axes of a Conv's weight
_NORM = ("BatchNormalization", "Sub", "Mul", "Add", "Relu")  # what stands where a norm does, folded or not

Sizes = Mapping[str, int]  # axis → length of a kernel


def network_of(steps: list[Step], *, fixed: bool) -> tuple[Architecture, Contract]:
    """The architecture that the kernels have, and a contract with what the steps tell of it; the rest is the usual.

    `fixed` says that the picture's size is known. Raises MisfitError where no DenseNet has the kernels.
    """
    end = end_of_body(steps)
    body = steps[:end]
    last = max((place for place, step in enumerate(body) if step.op == "Conv"), default=0)
    final_norm = any(step.op in _NORM for step in body[last + 1 :])
    bare = final_norm and not any(step.op == "Relu" for step in body[last + 1 :])
    relus = sum(step.op == "Relu" for step in body) + bare  # one behind each norm, folded or not
    numbers = replace(_inferred(_kernels(steps), relus + (not final_norm)), final_norm=final_norm)
    ending = ending_of(steps, end, _channels(numbers), fixed=fixed)
    contract = replace(stem_of_steps(steps, numbers), head_pool=ending.pool, output=ending.output)
    try:
        head = f"{BARE}/{ending.head}" if bare and ending.classes is not None else ending.head
        return replace(numbers, classes=ending.classes, head=head), contract
    except UsageError as error:  # numbers that no architecture may have
        raise MisfitError(error.message) from error


def _channels(body: Architecture) -> int:
    """The channels of the last map."""
    return list(graph(body, Contract()).operations.values())[-1].channels


def stem_of_steps(steps: list[Step], architecture: Architecture) -> Contract:
    """A contract with the stride and the pool that the stem has; the rest is the usual."""
    pool = next((step for step in steps[: end_of_body(steps)] if step.op == "MaxPool"), None)
    blurred = pool is not None and attribute(pool, "strides") == [1, 1]
    stem_pool: StemPool = "none" if pool is None else "blur" if blurred else "max"
    return Contract(stem_stride=_stem_stride(steps, architecture), stem_pool=stem_pool)


def _stem_stride(steps: list[Step], architecture: Architecture) -> int | None:
    """The stride of a stem's only convolution; None for the usual one, and for what is none."""
    convs = stem_of(architecture.stem).convs
    first = next((step for step in steps if step.op == "Conv"), None)
    strides = attribute(first, "strides") if first else None
    stride = strides[0] if isinstance(strides, list) and strides else 0
    return stride if len(convs) == 1 and stride > 0 and stride != convs[0].stride else None


def beginning_of(steps: list[Step]) -> Architecture:
    """A DenseNet that has the first kernels of another network, as many as one can have, and a 3×3 for the next.

    The 121 where not even the first is a DenseNet's.
    """
    sizes = _kernels(steps)
    count = bisect_left(range(1, len(sizes) + 1), True, key=lambda count: not _begins(sizes, count))
    return _inferred(_cut(sizes, count)) if count else Architecture.named("121")


def _kernels(steps: list[Step]) -> list[Sizes]:
    """The sizes of the convolutions' kernels in front of the head, in order, without a blur's."""
    body = steps[: end_of_body(steps)]
    blurs = {step.gives for pad, step in pairwise(body) if pad.op == "Pad" and attribute(pad, "mode") != "constant"}
    return [_sizes(step) for step in body if step.op == "Conv" and step.gives not in blurs]


def _sizes(step: Step) -> Sizes:
    """The sizes of a Conv's kernel by axis; all zero for what is no kernel, or has no elements."""
    shape = shape_of(step)
    is_kernel = len(shape) == len(_KERNEL) and all(shape)
    return dict(zip(_KERNEL, shape if is_kernel else (0, 0, 0, 0), strict=True))


def _inferred(sizes: list[Sizes], norms: int | None = None) -> Architecture:
    """The architecture, without a head, of kernels in order. Raises MisfitError where no DenseNet has them."""
    try:
        return infer(dict(zip(name_in_order(sizes), sizes, strict=True)), norms)
    except UsageError as error:  # numbers that no architecture may have
        raise MisfitError(error.message) from error


def _begins(sizes: list[Sizes], count: int) -> bool:
    """Whether a DenseNet may begin with so many of these kernels."""
    try:
        _inferred(_cut(sizes, count))
    except PortError:
        return False
    return True


def _cut(sizes: list[Sizes], count: int) -> list[Sizes]:
    """The first kernels, and one of 3×3, which ends a dense layer, in place of the next."""
    outputs = sizes[count]["o"] if count < len(sizes) else 0
    return [*sizes[:count], {"h": 3, "w": 3, "i": 1, "o": outputs or 1}]
