"""What the steps of an ONNX graph tell of the network before they are compared with any: its numbers and its parts.

The kernels in order of execution give the architecture, the head's weight its classes. The stride of the first MaxPool
and what stands behind the head give what the contract adds to the operations. Nothing here says that the graph is such
a network: that is for the comparison with the graph that follows from these.
"""

from bisect import bisect_left
from collections.abc import Mapping
from itertools import pairwise

from densenet_port.errors import MisfitError, PortError, UsageError
from densenet_port.formats.onnx.chain import attribute
from densenet_port.formats.onnx.model import Constant
from densenet_port.formats.onnx.steps import Step
from densenet_port.network.architecture import Architecture, infer, name_in_order
from densenet_port.network.contract import Contract, Output, StemPool
from densenet_port.network.units import HEAD

MEANS = ("GlobalAveragePool", "ReduceMean")  # over height and width
FLAT = ("Flatten", "Reshape", "Squeeze")
HEADS = ("Gemm", "MatMul", "Conv")
ACTIVATIONS: dict[str, Output] = {
    "Softmax": "softmax",
    "Sigmoid": "sigmoid",
    "Relu": "relu",
    "Tanh": "tanh",
    "LogSoftmax": "log_softmax",
}
_KERNEL = "oihw"  # the axes of a Conv's weight

Sizes = Mapping[str, int]  # axis → length of a kernel


def contract_of(steps: list[Step]) -> Contract:
    """A contract with the stem's pool and the output that the steps have; the rest is the usual."""
    pool = next((step for step in steps if step.op == "MaxPool"), None)
    blurred = pool is not None and attribute(pool, "strides") == [1, 1]
    ends = [ACTIVATIONS[step.op] for step in steps[_head(steps) :] if step.op in ACTIVATIONS]
    stem_pool: StemPool = "none" if pool is None else "blur" if blurred else "max"
    return Contract(stem_pool=stem_pool, output=ends[0] if ends else "logits")


def architecture_of(steps: list[Step]) -> Architecture:
    """The architecture that the kernels have. Raises MisfitError where no DenseNet has them."""
    relus = sum(step.op == "Relu" for step in steps[: _head(steps)])  # one behind each norm, folded or not
    return _inferred(_kernels(steps), _classes(steps), relus)


def beginning_of(steps: list[Step]) -> Architecture:
    """A DenseNet that has the first kernels of another network, as many as one can have, and a 3×3 for the next.

    The 121 where not even the first is a DenseNet's.
    """
    sizes = _kernels(steps)
    count = bisect_left(range(1, len(sizes) + 1), True, key=lambda count: not _begins(sizes, count))
    return _inferred(_cut(sizes, count), None) if count else Architecture.named("121")


def _kernels(steps: list[Step]) -> list[Sizes]:
    """The sizes of the convolutions' kernels in front of the head, in order, without a blur's."""
    body = steps[: _head(steps)]
    blurs = {step.gives for pad, step in pairwise(body) if pad.op == "Pad" and attribute(pad, "mode") != "constant"}
    return [_sizes(step) for step in body if step.op == "Conv" and step.gives not in blurs]


def _head(steps: list[Step]) -> int:
    """The place of the head: the first matrix, or the first Conv behind the last mean; that of the end without one."""
    mean = max((place for place in range(len(steps)) if is_mean(steps, place)), default=len(steps))
    for place, step in enumerate(steps):
        if step.op in HEADS and (step.op != "Conv" or place > mean):
            return place
    return len(steps)


def is_mean(steps: list[Step], place: int) -> bool:
    """Whether a step is the mean over the picture; an AveragePool is, unless a norm follows, as behind a transition."""
    after = steps[place + 1].op if place + 1 < len(steps) else ""
    return steps[place].op in MEANS or (steps[place].op == "AveragePool" and after in ("", *FLAT, *HEADS))


def _classes(steps: list[Step]) -> int | None:
    """The head's outputs; None without a head."""
    place = _head(steps)
    if place == len(steps):
        return None
    step, shape = steps[place], _shape(steps[place])
    rows = step.op == "Conv" or attribute(step, "transB")
    return shape[0 if rows else -1] if shape else 1


def _sizes(step: Step) -> Sizes:
    """The sizes of a Conv's kernel by axis; all zero for what is no kernel, or has no elements."""
    shape = _shape(step)
    is_kernel = len(shape) == len(_KERNEL) and all(shape)
    return dict(zip(_KERNEL, shape if is_kernel else (0, 0, 0, 0), strict=True))


def _shape(step: Step) -> tuple[int, ...]:
    """The shape of a step's weight."""
    weight = step.others[0] if step.others else None
    return weight.tensor.shape if isinstance(weight, Constant) else ()


def _inferred(sizes: list[Sizes], classes: int | None, norms: int | None = None) -> Architecture:
    """The architecture of kernels in order. Raises MisfitError where no DenseNet has them."""
    head = {} if classes is None else {HEAD: {"o": classes}}
    try:
        return infer({**dict(zip(name_in_order(sizes), sizes, strict=True)), **head}, norms)
    except UsageError as error:  # numbers that no architecture may have
        raise MisfitError(error.message) from error


def _begins(sizes: list[Sizes], count: int) -> bool:
    """Whether a DenseNet may begin with so many of these kernels."""
    try:
        _inferred(_cut(sizes, count), None)
    except PortError:
        return False
    return True


def _cut(sizes: list[Sizes], count: int) -> list[Sizes]:
    """The first kernels, and one of 3×3, which ends a dense layer, in place of the next."""
    outputs = sizes[count]["o"] if count < len(sizes) else 0
    return [*sizes[:count], {"h": 3, "w": 3, "i": 1, "o": outputs or 1}]
