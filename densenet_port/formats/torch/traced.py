"""The graph of a live module of `torch.fx`, by its own nodes: what `network.torch` makes, and torch's own tracer.

A node is an input, a part that is called, a function, or a number that sizes give. Known are `torch.cat` of channels,
ReLU and sigmoid, means and maxima over height and width, `torch.flatten`, of a map with its channels last, too, and
zeros around a map by sizes, where these are TensorFlow's "same" of the part behind them: that is tried on every size
that could show another rule. Anything else is another operation.
"""

import operator
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from densenet_port.file_graph import INPUT, FileGraph, Step, with_blurs
from densenet_port.formats.torch.graph import Load, Module, Reader, Shape
from densenet_port.formats.torch.modules import attributes_of, kind_of

_OVER_PLACES = [{"dim": (2, 3)}, {"dim": [2, 3]}]  # height and width of `n c h w`
_ONE = [(1,), ((1, 1),), ([1, 1],)]  # places that a mean leaves
_LAST = [((0, 2, 3, 1),), ([0, 2, 3, 1],)]  # channels behind them
_ARITHMETIC = ("add", "sub", "mul", "mod", "floordiv", "neg")


def read_traced(traced: Any, written: Any, shape: Shape, load: Load) -> FileGraph:
    """The graph of a traced module, whose parts are `written` down. Raises MisfitError for a part that is none."""
    reader = _Traced(written, shape, load)
    outputs = tuple(output for node in traced.graph.nodes if (output := reader.node(node)) is not None)
    return FileGraph(
        steps=with_blurs(reader.steps),
        outputs=tuple(dict.fromkeys(outputs)),
        unknown=" and ".join(reader.unknown),
        notes=tuple(reader.notes),
    )


class _Traced(Reader):
    """Makes steps, node by node. `values` gives the step that puts out what a node does, `around` zeros by sizes."""

    def __init__(self, written: Any, shape: Shape, load: Load) -> None:
        """Begin without steps."""
        super().__init__(shape, load)
        self.written = written
        self.values: dict[Any, str] = {}
        self.around: dict[Any, Any] = {}

    def node(self, node: Any) -> str | None:
        """Take a node; what it puts out, where it is the module's output."""
        if node.op == "output":
            return self.values.get(node.args[0], INPUT)
        if node.op == "placeholder":
            self.values[node] = INPUT
        elif node.op == "call_module":
            self.values[node] = self.called(node)
        elif node.op == "call_function" and (made := self.function(node)):
            self.values[node] = made
        elif node.op != "call_function" and not _is_size(node):
            self.values[node] = self.strange(node)
        return None

    def called(self, node: Any) -> str:
        """What a part makes of a value."""
        value = self.module(node.target, self.part_of(node.target), self.values[node.args[0]])
        if (around := self.around.get(node.args[0])) is not None:
            step = self.steps[value]
            is_same = step.padding == (0, 0, 0, 0) and _is_same(around, step)
            self.steps[value] = replace(step, padding="same") if is_same else replace(step, kind="padded by sizes")
        return value

    def part_of(self, path: str) -> Any:
        """A part by its path."""
        part = self.written
        for key in path.split("."):
            attributes = attributes_of(part) or {}
            part = Module("", kind_of(part), attributes).parts[key]
        return part

    def function(self, node: Any) -> str | None:
        """What a function puts out; None for a number that sizes give."""
        kind = _kind(node)
        if kind == "concat":
            joined = tuple(self.values[part] for part in node.args[0])
            self.steps[node.name] = Step(name=node.name, kind=kind, inputs=joined, title=f"cat {node.name}")
            return str(node.name)
        value = self.values.get(node.args[0]) if kind or node.args[0] in self.values else None
        return None if value is None else self.of_map(node, kind, value)

    def of_map(self, node: Any, kind: str, value: str) -> str:
        """What a function of one map puts out."""
        if kind in ("turned", "zeros"):
            self.around |= {node: node.args[1]} if kind == "zeros" else {}
            return value
        if kind == "flatten":
            return self.add(node.name, kind, value, function="" if _kind(node.args[0]) == "turned" else "c h w")
        if kind == "sigmoid":
            return self.add(node.name, "activation", value, function=kind)
        return self.add(node.name, kind, value) if kind else self.strange(node)

    def strange(self, node: Any) -> str:
        """An operation that no network has."""
        read = tuple(self.values[part] for part in node.all_input_nodes if part in self.values)
        self.steps[node.name] = Step(
            name=node.name, kind=f"node {node.op}", inputs=read, title=f"{node.op} {node.name}"
        )
        return str(node.name)


def _kind(node: Any) -> str:
    """What a known function does with a map; "" for any other, and for other settings."""
    torch, settings = sys.modules["torch"], dict(node.kwargs)
    name = {
        torch.cat: "concat",
        torch.mean: "mean",
        torch.amax: "max",
        torch.permute: "turned",
        torch.flatten: "flatten",
        torch.nn.functional.pad: "zeros",
        torch.nn.functional.relu: "relu",
        torch.relu: "relu",
        torch.nn.functional.adaptive_avg_pool2d: "mean",
        torch.sigmoid: "sigmoid",
    }.get(node.target, "")
    others = node.args[1:]
    fits = {
        "concat": (settings, others) in (({"dim": 1}, ()), ({}, (1,))),
        "mean": (settings in _OVER_PLACES and not others) or (not settings and others in _ONE),
        "max": settings in _OVER_PLACES and not others,
        "turned": not settings and others in _LAST and all(_kind(user) == "flatten" for user in node.users),
        "flatten": not settings and others == (1,),
        "relu": not others,
        "sigmoid": not others,
        "zeros": settings.items() <= {"mode": "constant", "value": None}.items() and len(others) == 1,
    }
    return name if fits.get(name) else ""


def _is_size(node: Any) -> bool:
    """Whether a node is the length of an axis."""
    return bool(node.op == "call_method" and node.target == "size")


def _is_same(around: Any, step: Step) -> bool:
    """Whether places around a map are what "same" asks for, at every size up to where the rule begins anew."""
    (height, width), (down, right) = step.kernel, step.stride
    for size in range(1, 2 * max(height, width, down, right) + 2):
        needed = [max(-size % stride + kernel - stride, 0) for kernel, stride in ((width, right), (height, down))]
        expected = [part for both in needed for part in (both // 2, both - both // 2)]
        if [_number(part, size) for part in around] != expected:
            return False
    return True


def _number(node: Any, size: int) -> Any:
    """A number that sizes give, for a map of `size` by `size`; None for any other."""
    if isinstance(node, int):
        return node
    if _is_size(node):
        return size
    parts = [_number(part, size) for part in getattr(node, "args", ())]
    function = _functions().get(getattr(node, "target", None))
    return None if function is None or None in parts or node.kwargs else function(*parts)


def _functions() -> Mapping[Any, Callable[..., int]]:
    """The functions of numbers that are known."""
    return {getattr(operator, name): getattr(operator, name) for name in _ARITHMETIC} | {
        sys.modules["torch"].sym_max: max
    }
