"""A file's own graph followed along the operations of a network: what it says of the contract, or where it is another.

Each operation, in order of execution, must be a step of the file that reads what the operation reads, does what it does
and, where it is a unit, holds the tensors that the table gives to the unit. What several steps are joined by
concatenations only counts as the list of what is joined, so that it does not matter whether a block joins two maps at
a time or all at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn, cast, get_args

from densenet_port.errors import MisfitError
from densenet_port.file_graph import INPUT, FileGraph, Step
from densenet_port.network.channels import Concatenation, Flatten
from densenet_port.network.contract import Activation, Contract, Input, Order, input_of, unit_note
from densenet_port.network.file_head import FileHead, head_of_file, without_idle_flattening
from densenet_port.network.graph import IMAGES, Numbers, Operation, OperationKind, graph, stem_of
from densenet_port.network.units import HEAD, is_head

TITLES: dict[OperationKind, str] = {
    "conv": "a convolution",
    "norm": "a batch normalisation",
    "relu": "ReLU",
    "max_pool": "a max pool",
    "average_pool": "an average pool",
    "pad": "a mirrored border",
    "blur": "a blur",
    "mean": "the mean over height and width",
    "max": "the maximum over height and width",
    "flatten": "a flattening",
    "dense": "a dense layer",
    "activation": "an activation",
}

FIRST = "stem.conv"
HEAD_POOL = "final.pool"  # the pool in front of a flattened map; where there is none, the mean over it
_VECTORS = ("final.pool", "final.concat", "head.flatten")  # what the head reads
FRONT = "the input"  # where the first operation stands, in a message
_MAX_PLACES = 2  # named in one
Pieces = tuple[str, ...]  # what a concatenation joins, in order; one name for anything else


class Evidence(NamedTuple):
    """What a graph says: entries of the contract, notes, and what stands outside of it and is assumed.

    And what it says of the network beyond the contract, None where it does not: `head`, what stands behind the last
    map; `concatenation` and `flatten`, the order in which it joins maps and reads a flattened one (`network.channels`).
    `epsilons` are those of the head's norms that have another than the body's.
    """

    facts: Mapping[str, Any]
    notes: tuple[str, ...]
    assumed: tuple[str, ...]
    head: str | None = None
    concatenation: Concatenation | None = None
    flatten: Flatten | None = None
    epsilons: Mapping[str, float] = MappingProxyType({})


def follow(source: FileGraph, numbers: Numbers, holders: Mapping[str, str], *, no_top: bool = False) -> Evidence:
    """What the file's own graph says of a network of these numbers.

    `holders` gives for each unit what the names of its tensors begin with, and under `<unit>:scale` the same of a
    Scale layer behind a norm; `no_top` leaves out what stands behind the last map. Raises MisfitError, without the
    file's path, for the first step that is another than the network's.
    """
    follower = _Follower(source, numbers, holders, no_top=no_top)
    follower.run()
    return follower.evidence()


class _Follower:
    """Takes steps, operation by operation. `values` gives for each operation what the file's step puts out."""

    def __init__(self, source: FileGraph, numbers: Numbers, holders: Mapping[str, str], *, no_top: bool) -> None:
        """Begin in front of the first operation."""
        self.source, self.holders, self.no_top = without_idle_flattening(source), holders, no_top
        self.pieces = _pieces(self.source)
        self.readers = _readers(self.source, self.pieces)
        self.stem = stem_of(numbers.stem)
        self.contract = self.usual()
        self.head = self.head_of(numbers)
        if self.head:
            self.contract = replace(self.contract, head_pool=self.head.pool)
        self.network = graph(_with_head(numbers, self.head), self.contract)
        self.concatenation = self.joined()
        self.flatten: Flatten | None = None
        self.epsilons: dict[str, float] = {}  # of the head's norms
        self.values: dict[str, Pieces] = {}
        self.facts: dict[str, set[Any]] = {}
        self.notes: list[str] = list(source.notes)
        self.gaps: dict[str, None] = {}  # where somebody's code stands

    def usual(self) -> Contract:
        """A contract with the stem's stride and pool and the output that the steps have; the rest is the usual."""
        pool = next((step for step in self.source.steps.values() if step.kind == "max_pool"), None)
        entries: dict[str, Any] = {
            "stem_pool": "none" if pool is None else "blur" if pool.stride == (1, 1) else "max",
            "stem_stride": self.stem_stride(),
            "output": self.output(),
        }
        return replace(Contract(), **entries)

    def stem_stride(self) -> int | None:
        """The stride of the stem's only convolution; None for the usual one of its kind."""
        conv = self.step_of(FIRST)
        stride = conv.stride[0] if conv else 0
        return stride if stride and stride != self.stem.convs[0].stride else None

    def head_of(self, numbers: Numbers) -> FileHead | None:
        """The head in the file, if its units are those that the tensors are taken for."""
        expected = graph(numbers, self.contract)
        head = head_of_file(self.source, expected, self.is_held, numbers.head) if HEAD in expected.units else None
        is_alike = head is None or graph(_with_head(numbers, head), self.contract).units == expected.units
        return head if is_alike else None

    def joined(self) -> Concatenation | None:
        """Whether the first dense layer's new channels stand behind the old ones or in front; None where none does."""
        convs = [name for name in self.network.units if name.startswith("block1.layer1.conv")]
        new = self.step_of(convs[-1])
        joined = (pieces for pieces in self.pieces.values() if len(pieces) > 1 and new and new.name in pieces)
        first = next((pieces[0] for pieces in joined), None)
        return None if first is None else "new-first" if new and first == new.name else "old-first"

    def output(self) -> str:
        """The activation that stands behind the head, or logits."""
        head = self.step_of(HEAD)
        for step in self.behind((head.name,), "flatten") if head else ():
            function = "relu" if step.kind == "relu" else step.function
            if function in get_args(Activation):
                return function
        return "logits"

    def run(self) -> None:
        """Take all steps."""
        self.values[IMAGES] = self.prepared()
        for operation in self.network.operations.values():
            if self.no_top and self.is_behind_body(operation):
                return
            before = self.before(operation)
            if operation.kind == "concat" or self.is_folded(operation):
                self.values |= {operation.name: before} if before else {}
            elif self.source.unknown and not (before and self.readers.get(before)):
                self.pass_over(operation)
            elif operation.name == "final.relu" and self.ends_early(before):
                self.notes.append("the graph ends without the last ReLU")
                return
            else:
                self.values[operation.name] = self.take(operation, before)
            if operation.name in self.values and operation.name == "stem.pool":
                self.note("stem_pool", self.contract.stem_pool)
        if not self.no_top:  # what stands behind a body is left out by the user's word
            self.end()

    def is_folded(self, operation: Operation) -> bool:
        """Whether an operation is a norm that the file does not have: what it did, the convolution in front does."""
        return operation.kind == "norm" and operation.name not in self.holders

    def is_behind_body(self, operation: Operation) -> bool:
        """Whether an operation is the head's."""
        return self.network.is_flat(operation.name) or operation.name == HEAD_POOL

    def before(self, operation: Operation) -> Pieces:
        """What an operation reads; nothing where somebody's code makes it."""
        values = [self.values.get(read, ()) for read in operation.inputs]
        if self.concatenation == "new-first" and not self.network.is_flat(operation.name):
            values.reverse()
        return sum(values, ()) if all(values) else ()

    def pass_over(self, operation: Operation) -> None:
        """Go on behind somebody's code: with the step that holds the operation's tensors, where it has any."""
        if all(read in self.values for read in operation.inputs):  # the first that is not connected
            self.gaps[self.place(operation)] = None
        for step in self.source.steps.values():
            if self.is_held(step, operation.name) and step.kind in _KINDS.get(operation.kind, (operation.kind,)):
                zeros, before = self.in_front(step)
                self.compare(operation, before)
                _CHECKS[operation.kind](self, operation, step, zeros)
                self.values[operation.name] = (step.name,)
                return

    def in_front(self, step: Step) -> tuple[tuple[int, int, int, int], Step | None]:
        """The zeros around what a step reads, and the step that gives it."""
        zeros = (0, 0, 0, 0)
        before = self.source.steps.get(step.inputs[0])
        while before and before.kind in ("zeros", "identity", "flatten"):
            zeros = cast("tuple[int, int, int, int]", tuple(map(_sum, zeros, _numbers(before))))
            before = self.source.steps.get(before.inputs[0])
        return zeros, before

    def compare(self, operation: Operation, step: Step | None) -> None:
        """See that what stands in front of an operation, if that is known, is what the network has there."""
        if step is None or step.kind in ("unknown", "concat") or operation.inputs[0] == IMAGES:
            return
        expected = self.network.operations[operation.inputs[0]]
        if expected.kind == "concat":
            return
        if step.kind not in _KINDS.get(expected.kind, (expected.kind,)):
            self.fail(f"in front of {operation.name}", TITLES[expected.kind], step.title)
        _CHECKS[expected.kind](self, expected, step, self.in_front(step)[0])

    def ends_early(self, value: Pieces) -> bool:
        """Whether a body without a head ends in the last norm, whose ReLU its own code has elsewhere."""
        return self.network.logits != HEAD and not self.readers.get(value)

    def evidence(self) -> Evidence:
        """What was seen. Raises MisfitError where steps differ in what a contract has one of."""
        facts: dict[str, Any] = {}
        if self.stem.pool and self.contract.stem_pool == "none" and not self.gaps:
            self.note("stem_pool", "none")
        for key, values in self.facts.items():
            if len(values) > 1:
                shown = " and ".join(sorted(map(str, values)))
                raise MisfitError(f"its layers differ in {key}: {shown}", hint="ours can only have one")
            (facts[key],) = values
        gaps = (self.assumption(),) if self.gaps else ()
        head, assumed = self.head.text if self.head else None, (*self.source.assumed, *gaps)
        others = {unit: epsilon for unit, epsilon in self.epsilons.items() if epsilon != facts.get("epsilon", epsilon)}
        return Evidence(facts, tuple(self.notes), assumed, head, self.concatenation, self.flatten, others)

    def assumption(self) -> str:
        """What somebody's code is taken to do, and where."""
        places = ["around the network" if place == FRONT else f"behind {place}" for place in self.gaps]
        if len(places) > _MAX_PLACES:
            places[1:] = [f"at {len(places) - 1} other places"]
        return f"what {self.source.unknown} does {' and '.join(places)}"

    # -- what stands where -------------------------------------------------------------------------------------------

    def fail(self, place: str, expected: str, actual: str) -> NoReturn:
        """Raise MisfitError for a step of another network."""
        raise MisfitError(f"its own graph is another network: {place} expected {expected}, found {actual}")

    def place(self, operation: Operation) -> str:
        """The unit behind which an operation stands."""
        step = operation
        while step.inputs[0] != IMAGES and not self.network.operations[step.inputs[0]].unit:
            step = self.network.operations[step.inputs[0]]
        return FRONT if step.inputs[0] == IMAGES else step.inputs[0]

    def note(self, fact: str, value: object) -> None:
        """Keep what a step has of the contract."""
        self.facts.setdefault(fact, set()).add(value)

    def start(self) -> Pieces:
        """What goes in; where somebody's code stands in front of the network, what that gives."""
        if self.readers.get((INPUT,)):
            return (INPUT,)
        first = self.step_of(FIRST)
        name = first.name if first else INPUT
        while name in self.source.steps and self.source.steps[name].kind != "unknown":
            name = self.source.steps[name].inputs[0]
        if name != INPUT:
            self.gaps[FRONT] = None
        return (name,)

    def prepared(self) -> Pieces:
        """What the first operation reads: the images, or what the file's own preparation makes of them."""
        value = start = self.start()
        factors, offsets, is_reversed = [1.0], [0.0], False
        steps = [step for step in self.readers.get(value, ()) if step.kind in ("affine", "reverse")]
        while steps:
            step = steps[0]
            if step.kind == "reverse":
                is_reversed, factors, offsets = not is_reversed, factors[::-1], offsets[::-1]
            else:
                factors = _each(factors, step.factors, lambda one, other: one * other)
                offsets = _each(_each(offsets, step.factors, lambda one, other: one * other), step.offsets, _sum)
            value = (step.name,)
            steps = [step for step in self.readers.get(value, ()) if step.kind in ("affine", "reverse")]
        if value != start:
            picture = _input(factors, offsets, self.network.channels, is_reversed=is_reversed)
            self.note("input", picture)
            self.notes += [note] if (note := unit_note(picture)) else []
        return value

    def take(self, operation: Operation, value: Pieces) -> Pieces:
        """What the step puts out that is an operation, and reads `value`."""
        zeros = (0, 0, 0, 0)
        steps = self.readers.get(value, ())
        if operation.kind in ("conv", "max_pool"):
            while steps and all(step.kind == "zeros" for step in steps):
                zeros = cast("tuple[int, int, int, int]", tuple(map(_sum, zeros, _numbers(steps[0]))))
                steps = self.readers.get((steps[0].name,), ())
        if operation.kind in ("dense", "activation"):
            steps = self.behind(value, "flatten")
        step = self.chosen(operation, steps)
        _CHECKS[operation.kind](self, operation, step, zeros)
        if operation.kind == "norm" and self.holders.get(f"{operation.name}:scale"):
            return self.scaled(operation, step)
        return (step.name,)

    def behind(self, value: Pieces, kind: str) -> tuple[Step, ...]:
        """The steps that read a value, or what steps of a kind make of it."""
        steps = self.readers.get(value, ())
        while steps and all(step.kind == kind for step in steps):
            steps = self.readers.get((steps[0].name,), ())
        return steps

    def step_of(self, unit: str) -> Step | None:
        """The step that holds a unit's tensors."""
        return next((step for step in self.source.steps.values() if self.is_held(step, unit)), None)

    def is_held(self, step: Step, unit: str) -> bool:
        """Whether a step holds the tensors of a unit."""
        holder = self.holders.get(unit)
        return holder is not None and bool(step.holder) and _holds(step, holder)

    def chosen(self, operation: Operation, steps: tuple[Step, ...]) -> Step:
        """The one of several readers that is the operation."""
        kinds = _KINDS.get(operation.kind, (operation.kind,))
        fitting = [step for step in steps if step.kind in kinds]
        if operation.unit:
            held = [step for step in fitting if self.is_held(step, operation.name)]
            if fitting and not held:
                expected = f"{self.holders.get(operation.name)}, which the table takes for {operation.name}"
                self.fail(f"behind {self.place(operation)}", expected, fitting[0].title)
            fitting = held
        if not fitting:
            self.fail(f"behind {self.place(operation)}", TITLES[operation.kind], self.shown(operation, steps))
        return fitting[0]

    def shown(self, operation: Operation, steps: tuple[Step, ...]) -> str:
        """What stands in an operation's place, for a message."""
        if steps:
            return " and ".join(step.title for step in steps[:3])
        value = self.values[operation.inputs[0]]
        if len(value) > 1 and self.readers.get((value[-1], *value[:-1])):
            return "the new channels in front of the old ones"
        if any(len(key) > len(value) and set(value) <= set(key) for key in self.readers):
            return "only a concatenation"
        return "the end of the graph"

    def scaled(self, operation: Operation, norm: Step) -> Pieces:
        """What the Scale layer behind a norm puts out."""
        holder = self.holders[f"{operation.name}:scale"]
        steps = self.readers.get((norm.name,), ())
        scales = [step for step in steps if step.kind == "scale" and _holds(step, holder)]
        if not scales:
            self.fail(f"behind {operation.name}", f"a scale of {holder}", self.shown(operation, steps))
        return (scales[0].name,)

    def end(self) -> None:
        """See that the network's output is the file's."""
        value = self.values.get(self.network.output, ())
        if self.network.logits != HEAD and (steps := [s for s in self.readers.get(value, ()) if s.kind == "mean"]):
            self.notes.append("the graph ends in the mean over the picture, without a head")
            value = (steps[0].name,)
        while steps := [step for step in self.readers.get(value, ()) if step.kind == "flatten"]:
            value = (steps[0].name,)
        is_end = value in [self.pieces[name] for name in self.source.outputs]
        if not is_end and (not self.source.unknown or self.readers.get(value)):
            behind = " and ".join(step.title for step in self.readers.get(value, ())) or "no output"
            self.fail(f"behind {self.network.output}", "the end", behind)
        if not is_end:
            self.gaps[FRONT] = None
        if self.network.logits == HEAD and not self.values.keys().isdisjoint(_VECTORS):
            self.note("output", self.contract.output)

    # -- what a step has -----------------------------------------------------------------------------------------------

    def must(self, operation: Operation, step: Step, **expected: Any) -> None:
        """Compare attributes of a step."""
        for key, value in expected.items():
            if (actual := getattr(step, key)) != value:
                self.fail(f"in {operation.name}", f"{key} {_text(value)}", f"{_text(actual)} ({step.title})")

    def window(self, operation: Operation, step: Step, zeros: tuple[int, int, int, int]) -> None:
        """See that a window is the operation's, padded by zeros or as TensorFlow does: a fact where it has a stride."""
        kernel, stride = (operation.kernel,) * 2, (operation.stride,) * 2
        self.must(operation, step, kernel=kernel, stride=stride, dilation=(1, 1), rounding="floor")
        side = operation.kernel // 2
        is_same = step.padding == "same"
        if is_same and any(zeros):
            self.fail(f"in {operation.name}", "one padding", f"zeros around and another behind them ({step.title})")
        if not is_same and (around := tuple(map(_sum, zeros, _numbers(step)))) != (side,) * 4:
            self.fail(f"in {operation.name}", f"padding {side} on every side", f"{_text(around)} ({step.title})")
        if operation.stride > 1:
            self.note("stem_padding", "same" if is_same else "symmetric")

    def conv(self, operation: Operation, step: Step, zeros: tuple[int, int, int, int]) -> None:
        self.must(operation, step, groups=1)
        self.window(operation, step, zeros)
        if operation.name == FIRST:
            self.note("stem_stride", self.contract.stem_stride)

    def norm(self, operation: Operation, step: Step, _zeros: object) -> None:
        if is_head(operation.name):
            self.epsilons[operation.name] = step.epsilon
        else:
            self.note("epsilon", step.epsilon)

    def max_pool(self, operation: Operation, step: Step, zeros: tuple[int, int, int, int]) -> None:
        self.window(operation, step, zeros)

    def average_pool(self, operation: Operation, step: Step, _zeros: object) -> None:
        if operation.name == HEAD_POOL:
            self.head_pool(operation, step)
            return
        self.must(operation, step, kernel=(2, 2), stride=(2, 2), dilation=(1, 1))
        if step.padding not in ((0, 0, 0, 0), "same"):
            self.fail(f"in {operation.name}", "no padding", f"{_text(step.padding)} ({step.title})")
        self.note("pool_rounding", "ceil" if step.padding == "same" else step.rounding)

    def head_pool(self, operation: Operation, step: Step) -> None:
        """The average pool in front of a flattened map; where that has one place, its stride does nothing."""
        (flat,) = self.network.readers[operation.name]
        side = (operation.kernel, operation.kernel)
        self.must(operation, step, kernel=side, padding=(0, 0, 0, 0), dilation=(1, 1), rounding="floor")
        self.must(operation, step, **({"stride": side} if flat.kernel > 1 else {}))

    def flattened(self, _operation: Operation, step: Step, _zeros: object) -> None:
        """A map read place by place, each with all its channels, or channel by channel."""
        self.note("head_pool", self.contract.head_pool)
        self.flatten = cast("Flatten", step.function) if step.function else "h w c"

    def mean(self, operation: Operation, step: Step, _zeros: object) -> None:
        """The mean over the picture; or an average over as many places as the last map has."""
        if step.kind == "average_pool":
            if self.source.size is None:
                self.fail(f"in {operation.name}", TITLES["mean"], step.title)
            sides = tuple(self.network.sides(side)[operation.inputs[0]] for side in self.source.size)
            self.must(operation, step, kernel=sides, padding=(0, 0, 0, 0), dilation=(1, 1))

    def blur(self, operation: Operation, step: Step, _zeros: object) -> None:
        self.must(operation, step, stride=(2, 2))

    def activation(self, operation: Operation, step: Step, _zeros: object) -> None:
        function = "relu" if step.kind == "relu" else step.function
        if function != operation.function:
            self.fail(f"behind {self.place(operation)}", str(operation.function), step.title)

    def nothing(self, _operation: Operation, _step: Step, _zeros: object) -> None:
        """A kind that has no attributes."""


_KINDS: dict[OperationKind, tuple[str, ...]] = {  # operation → the kinds of step that may be one, where it is several
    "mean": ("mean", "average_pool"),
    "activation": ("activation", "relu"),
}
_CHECKS: dict[OperationKind, Callable[[_Follower, Operation, Step, Any], None]] = {
    "conv": _Follower.conv,
    "norm": _Follower.norm,
    "relu": _Follower.nothing,
    "max_pool": _Follower.max_pool,
    "average_pool": _Follower.average_pool,
    "pad": _Follower.nothing,
    "blur": _Follower.blur,
    "mean": _Follower.mean,
    "max": _Follower.nothing,
    "flatten": _Follower.flattened,
    "dense": _Follower.nothing,
    "activation": _Follower.activation,
}


def _with_head(numbers: Numbers, head: FileHead | None) -> Numbers:
    """The same numbers with the head of a file."""
    return numbers if head is None else cast("Numbers", replace(cast("Any", numbers), head=head.text))


def _pieces(source: FileGraph) -> dict[str, Pieces]:
    """Step → what it puts out: its own name, for a concatenation what it joins, for an identity what it reads."""
    pieces: dict[str, Pieces] = {INPUT: (INPUT,)}
    for name, step in source.steps.items():
        if step.kind == "concat":
            pieces[name] = sum((pieces[read] for read in step.inputs), ())
        else:
            pieces[name] = pieces[step.inputs[0]] if step.kind == "identity" else (name,)
    return pieces


def _readers(source: FileGraph, pieces: Mapping[str, Pieces]) -> dict[Pieces, tuple[Step, ...]]:
    """What is put out → the steps that read it."""
    readers: dict[Pieces, tuple[Step, ...]] = {}
    for step in source.steps.values():
        if step.kind not in ("concat", "identity", "unknown"):
            for value in dict.fromkeys(pieces[read] for read in step.inputs):
                readers[value] = (*readers.get(value, ()), step)
    return readers


def _holds(step: Step, holder: str) -> bool:
    """Whether a step's tensors are those of `holder`; either may stand below another name."""
    short, long = sorted((step.holder, holder), key=len)
    return long == short or (bool(short) and long.endswith(("/" + short, "." + short)))


def _numbers(step: Step) -> tuple[int, int, int, int]:
    """The places around, where they are numbers."""
    return (0, 0, 0, 0) if step.padding == "same" else step.padding


def _each(one: list[float], other: tuple[float, ...], function: Callable[[float, float], float]) -> list[float]:
    """A function of two lists, number by number; a list of one number goes with every number."""
    length = max(len(one), len(other))
    wide = [list(numbers) * length if len(numbers) == 1 else list(numbers) for numbers in (one, other)]
    return [function(first, second) for first, second in zip(*wide, strict=True)]


def _sum(one: Any, other: Any) -> Any:
    return one + other


def _input(factors: list[float], offsets: list[float], channels: int, *, is_reversed: bool) -> Input:
    """The input that is prepared by x = pixel · factor + offset: (pixel / scale − mean) / std."""
    factors, offsets = (numbers * channels if len(numbers) == 1 else numbers for numbers in (factors, offsets))
    if len(factors) != channels:
        raise MisfitError(f"its own graph prepares pictures of {len(factors)} channels, the network has {channels}")
    order: Order = "grey" if channels == 1 else "bgr" if is_reversed else "rgb"
    return input_of(factors, offsets, order)


def _text(value: Any) -> str:
    """A value for a message: `3×3` for a pair."""
    return "×".join(map(str, value)) if isinstance(value, tuple) else str(value)
