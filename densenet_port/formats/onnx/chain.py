"""The steps of an ONNX graph read one after the other, each compared with the operation that it is to be."""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from densenet_port.errors import MisfitError
from densenet_port.formats.onnx.axes import UNKNOWN
from densenet_port.formats.onnx.constants import moved, numbers
from densenet_port.formats.onnx.model import Constant, Model
from densenet_port.formats.onnx.steps import CHANNELS_SECOND, Map, Step, Steps, summary
from densenet_port.network.graph import Operation

_EITHER = ("Mul", "Add")  # the operators of two inputs that may read the map as the second
_DEFAULTS = {  # ONNX's own, for attributes that are not given
    "alpha": 1.0,
    "auto_pad": "NOTSET",
    "axis": 1,
    "beta": 1.0,
    "ceil_mode": 0,
    "count_include_pad": 0,
    "dilations": [1, 1],
    "epsilon": 1e-5,
    "group": 1,
    "mode": "constant",
    "pads": [0, 0, 0, 0],
    "spatial": 1,
    "strides": [1, 1],
    "training_mode": 0,
    "transA": 0,
    "transB": 0,
    "value": 0.0,
}


class Chain:
    """The steps of a model; `x` is the map that the next one must read, `where` the operation that it is, for messages.

    `facts` gathers what steps have of the contract, every value; `training` says that a norm is one of training.
    """

    def __init__(self, model: Model, walked: Steps) -> None:
        """Begin in front of the first step."""
        self.model = model
        self.given, self.first, self.steps, self.last = walked
        self.x = self.first
        self.at = 0
        self.where = ""
        self.facts: dict[str, set[Any]] = {}
        self.training = False

    def fail(self, expected: str, actual: object, hint: str = "") -> NoReturn:
        """Raise MisfitError for a step of another network; `hint` is the next step, where there is one."""
        difference = f"in {self.where} expected {expected}, found {actual}"
        raise MisfitError(f"{self.model.path}: no DenseNet: {difference}", hint=hint or summary(self.model))

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
        if step.reads.pieces != self.x.pieces or (step.place and step.op not in _EITHER):
            self.fail(f"{expected} that reads {self.x}", f"{step.node}, which reads {step.reads}")
        flat = ("nc", "nc1", UNKNOWN) if step.op == "BatchNormalization" else ()
        if step.op in CHANNELS_SECOND and step.reads.axes not in ("nchw", "nc11", *flat):
            self.fail(f"{expected} of a map n c h w", f"{step.node} of one {' '.join(step.reads.axes)}")
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
        """The vector of a Mul, Add or Sub, one number a channel: shape `c 1 1`, or as the map's axes have it."""
        value = step.others[0]
        if not isinstance(value, Constant):
            self.fail("a number for each channel", f"{step.node} of {value}")
        shape = value.tensor.shape
        if spread(step, shape) != [count if axis == "c" else 1 for axis in step.reads.axes]:
            self.fail("a number for each channel", f"{step.node} of a tensor of the shape {shape}")
        return moved(value, (count,))

    # -- padding -----------------------------------------------------------------------------------------------------

    def zeros(self) -> list[int]:
        """The zeros that a Pad puts around: above, left, below, right; none where no Pad comes next."""
        if self.next() != "Pad":
            return [0] * 4
        step = self.take("Pad")
        value = step.others[1] if len(step.others) > 1 else None
        if not (value is None or isinstance(value, Constant)) or (value and any_of(value)):
            self.fail("zeros around", step.node)
        self.must(step, value=0.0)
        return self.around(step, "constant")

    def around(self, step: Step, mode: str) -> list[int]:
        """How far a Pad reaches: above, left, below, right."""
        self.must(step, mode=mode)
        named = self.axes_of_pad(step)
        pads = list(step.node.attributes.get("pads") or numbers(self.constant(step, 0, (2 * len(named),)), step.node))
        if len(pads) != 2 * len(named):
            self.fail(f"a Pad of {len(named)} axes", pads)
        ends = {(axis, end): pads[place + end * len(named)] for place, axis in enumerate(named) for end in (0, 1)}
        reach = [ends.get(place, 0) for place in (("h", 0), ("w", 0), ("h", 1), ("w", 1))]
        if min(pads, default=0) < 0 or sum(reach) != sum(pads):
            self.fail("a Pad of height and width", pads)
        return reach

    def axes_of_pad(self, step: Step) -> list[str]:
        """The letters of the axes that a Pad's numbers are of: all, or those that it names (from opset 18 on)."""
        axes, given = step.reads.axes, step.others[2] if len(step.others) > 2 else None
        if given is None:
            return list(axes)
        named = numbers(given if isinstance(given, Constant) else None, step.node)
        if any(not -len(axes) <= axis < len(axes) for axis in named) or len({axes[axis] for axis in named}) != len(
            named
        ):
            self.fail(f"a Pad of the axes {' '.join(axes)}", named)
        return [axes[axis] for axis in named]

    def padding(self, step: Step, operation: Operation, zeros: Sequence[int]) -> None:
        """See that a window is padded as an operation's; with a stride also as TensorFlow does, and which is a fact."""
        auto = attribute(step, "auto_pad")
        given = attribute(step, "pads") if auto == "NOTSET" else [0] * 4  # beside auto_pad they are not looked at
        if len(given) != 4 or min(given) < 0:
            self.fail(f"padding by {operation.padding} on every side", f"{step.node} with {given}")
        pads = [own + more for own, more in zip(given, zeros, strict=True)]
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


def spread(step: Step, shape: tuple[int, ...]) -> list[int]:
    """The shape of a step's other input as it is spread over the map; with ONNX's old `axis` where that is given."""
    rank = len(step.reads.axes)
    behind = 0
    if step.node.attributes.get("broadcast") and len(shape) == 1 and isinstance(attribute(step, "axis"), int):
        behind = rank - 1 - attribute(step, "axis") % rank if "axis" in step.node.attributes else 0
    return [1] * (rank - len(shape) - behind) + [*shape] + [1] * behind
