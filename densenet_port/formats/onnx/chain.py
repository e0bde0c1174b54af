"""The steps of an ONNX graph read one after the other, each compared with the operation that it is to be."""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from densenet_port.errors import MisfitError
from densenet_port.formats.onnx.constants import moved, numbers
from densenet_port.formats.onnx.model import Constant, Model
from densenet_port.formats.onnx.steps import Map, Step, steps, summary
from densenet_port.network.graph import Operation

_EITHER = ("Mul", "Add")  # the operators of two inputs that may read the map as the second
_DEFAULTS = {  # ONNX's own, for attributes that are not given
    "alpha": 1.0,
    "auto_pad": "NOTSET",
    "axis": 1,
    "beta": 1.0,
    "ceil_mode": 0,
    "dilations": [1, 1],
    "epsilon": 1e-5,
    "group": 1,
    "mode": "constant",
    "pads": [0, 0, 0, 0],
    "strides": [1, 1],
    "training_mode": 0,
    "transA": 0,
    "transB": 0,
}


class Chain:
    """The steps of a model; `x` is the map that the next one must read, `where` the operation that it is, for messages.

    `facts` gathers what steps have of the contract, every value; `training` says that a norm is one of training.
    """

    def __init__(self, model: Model) -> None:
        """Begin in front of the first step."""
        self.model = model
        self.x, self.steps, self.last = steps(model)
        self.at = 0
        self.where = ""
        self.facts: dict[str, set[Any]] = {}
        self.training = False

    def fail(self, expected: str, actual: object) -> NoReturn:
        """Raise MisfitError for a step of another network."""
        difference = f"in {self.where} expected {expected}, found {actual}"
        raise MisfitError(f"{self.model.path}: no DenseNet: {difference}", hint=summary(self.model))

    def next(self) -> str:
        """The operator of the next step; "" behind the last."""
        return self.steps[self.at].op if self.at < len(self.steps) else ""

    def take(self, *ops: str) -> Step:
        """The next step, which must be one of these and read `x`; what it gives is read next."""
        expected = " or ".join(ops)
        if self.next() not in ops:
            self.fail(expected, self.here())
        step = self.steps[self.at]
        if any(isinstance(value, Map) for value in step.others):
            self.fail(f"{expected} of one map", f"{step.node} of several, as residual networks have it")
        if step.reads != self.x or (step.place and step.op not in _EITHER):
            self.fail(f"{expected} that reads {self.x}", f"{step.node}, which reads {step.reads}")
        self.at, self.x = self.at + 1, step.gives
        return step

    def here(self) -> str:
        """The next step, for messages."""
        return str(self.steps[self.at].node) if self.next() else "the end"

    def record(self, fact: str, value: object) -> None:
        """Keep what a step has of the contract."""
        self.facts.setdefault(fact, set()).add(value)

    # -- what a step has ---------------------------------------------------------------------------------------------

    def constant(self, step: Step, place: int, shape: tuple[int, ...]) -> Constant:
        """One of a step's other inputs, a tensor of this shape."""
        value = step.others[place] if place < len(step.others) else None
        if not isinstance(value, Constant) or value.tensor.shape != shape:
            actual = f"one of the shape {value.tensor.shape}" if isinstance(value, Constant) else value
            self.fail(f"{step.node} to have a tensor of the shape {shape}", actual)
        return value

    def optional(self, step: Step, place: int, shape: tuple[int, ...]) -> Constant | None:
        """The same of an input that may be left out."""
        given = place < len(step.others) and step.others[place] is not None
        return self.constant(step, place, shape) if given else None

    def must(self, step: Step, **expected: Any) -> None:
        """Compare a step's attributes; a tuple allows several values."""
        for key, value in expected.items():
            if (actual := attribute(step, key)) not in (value if isinstance(value, tuple) else (value,)):
                self.fail(f"{step.node} to have {key} {value}", actual)

    def channels(self, step: Step, count: int) -> Constant:
        """The vector of a Mul or Add, one number a channel: shape `c 1 1`, or `c` with ONNX's old `axis`."""
        value = step.others[0]
        if not isinstance(value, Constant):
            self.fail("a number for each channel", f"{step.node} of {value}")
        shape = value.tensor.shape
        old = "broadcast" in step.node.attributes and attribute(step, "axis") == 1
        wide = (*shape, 1, 1) if old and len(shape) == 1 else shape
        if wide[-3:] != (count, 1, 1) or any(size != 1 for size in wide[:-3]):
            self.fail("a number for each channel", f"{step.node} of a tensor of the shape {shape}")
        return moved(value, (count,))

    # -- padding -----------------------------------------------------------------------------------------------------

    def zeros(self) -> list[int]:
        """The zeros that a Pad puts around: above, left, below, right; none where no Pad comes next."""
        if self.next() != "Pad":
            return [0] * 4
        step = self.take("Pad")
        value = step.others[1] if len(step.others) > 1 else None
        if isinstance(value, Constant) and any_of(value):
            self.fail("zeros around", step.node)
        return self.around(step, "constant")

    def around(self, step: Step, mode: str) -> list[int]:
        """How far a Pad reaches: above, left, below, right."""
        self.must(step, mode=mode)
        pads = list(step.node.attributes.get("pads") or numbers(self.constant(step, 0, (8,)), step.node))
        if len(pads) != 8 or any(pads[:2] + pads[4:6]):  # four axes, both ends
            self.fail("a Pad of height and width", pads)
        return pads[2:4] + pads[6:]

    def padding(self, step: Step, operation: Operation, zeros: Sequence[int]) -> None:
        """See that a window is padded as an operation's; with a stride also as TensorFlow does, and which is a fact."""
        auto = attribute(step, "auto_pad")
        pads = [own + more for own, more in zip(attribute(step, "pads"), zeros, strict=True)]
        same = auto == "SAME_UPPER" or (auto == "SAME_LOWER" and operation.stride == 1)
        if auto not in ("NOTSET", "VALID") and (not same or any(zeros)):
            self.fail("padding that is symmetric or TensorFlow's", f"{step.node} of auto_pad {auto}")
        if not same and pads != [operation.padding] * 4:
            self.fail(f"padding by {operation.padding} on every side", f"{step.node} with {pads}")
        if operation.stride > 1:
            self.record("stem_padding", "same" if same else "symmetric")


def attribute(step: Step, key: str) -> Any:
    """An attribute, or what ONNX says it is where it is not given."""
    return step.node.attributes.get(key, _DEFAULTS.get(key))


def any_of(constant: Constant) -> bool:
    """Whether a number of a tensor is not zero."""
    return bool(np.any(constant.tensor.load()))
