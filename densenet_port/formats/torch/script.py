"""The graph of a TorchScript program, from its code, which is text in the archive; nothing of it runs.

`code/__torch__/….py` has classes and functions in a part of Python's grammar. They are walked through with names of
steps in the place of maps: assignments, calls of modules, of functions and of torch's operations, lists, and branches
whose condition the program itself decides (settings, `training`, which is taken as off, the number of axes). Loops, and
whatever depends on numbers in a map, are not followed: then nothing of the program is known but its tensors. Tensors
that its code has (`CONSTANTS.c0`) are few numbers, or not known.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.errors import CorruptError, PortError
from densenet_port.file_graph import INPUT, FileGraph, Step
from densenet_port.formats.torch.aten import (
    Held,
    Map,
    Taken,
    Tensors,
    aside,
    is_rounding,
    made_by,
    program_of,
    put_out,
    take,
)
from densenet_port.formats.torch.pickle import Call, Global

_UNKNOWN = "a TorchScript program whose code is not followed"
_MAX_TEXT = 2**22  # bytes of one file of code; those of a DenseNet-201 have some 20 kB
_MAX_CALLS = 200_000
_MAX_DEPTH = 60
_WITH_PLACES = ("adaptive_max_pool2d", "max_pool2d_with_indices")  # which put out two things
_BROKEN = (ValueError, TypeError, LookupError, AttributeError)
_FLOATS = (5, 6, 7, 15)  # types of torch that round, and do not cut off: half, float, double, bfloat16
_OVER_ALL = {"avg_pool2d": "mean", "max_pool2d": "amax"}  # a pool whose window is the map → what that is
_FLAT = ("flatten", "dense", "activation")
_NUMBERS: dict[str, Callable[..., Any]] = {  # torch's own functions of plain numbers
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
    "eq": operator.eq,
    "ne": operator.ne,
    "__not__": operator.not_,
    "__is__": operator.is_,
    "__isnot__": operator.is_not,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "len": len,
    "any": lambda numbers: bool(np.any(numbers)),
}


class NotFollowedError(Exception):
    """A part of a program that cannot be followed."""


class Module(NamedTuple):
    """An object of the program: its path, and what the pickle has of it."""

    name: str
    pickled: Call


class Function(NamedTuple):
    """A function or an operation, by its dotted name."""

    name: str


class Size(NamedTuple):
    """The length of an axis of a map, or of height and width together (`axis` None)."""

    step: str
    axis: int | None


_CONSTANTS = Function("CONSTANTS")
_KIND = Function("a type, or a device")
_PICTURES = Function("the number of pictures")


class Method(NamedTuple):
    """A method of an object."""

    module: Module
    name: str


class _Returned(Exception):  # noqa: N818 (no error: how a function ends)
    """What a function returns."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


def read_graph(
    tree: Any, code: Mapping[str, Callable[[], bytes]], tensors: Tensors, constants: Callable[[], Mapping[str, Array]]
) -> FileGraph:
    """The graph of a program: its object, the texts of its code by their paths, its tensors, and its code's by name."""
    program = _Program(code, tensors, constants)
    try:
        output = program.method(Module("", tree), "forward", [Map(INPUT)], {})
        outputs = output if isinstance(output, list) else [output]
        if outputs and all(isinstance(part, Map) for part in outputs):
            return program_of(program.steps, outputs)
    except (NotFollowedError, PortError, SyntaxError, RecursionError, MemoryError, ArithmeticError, *_BROKEN):
        pass
    step = Step(name=":forward", kind="unknown", inputs=(INPUT,), title=_UNKNOWN)
    return FileGraph(steps={step.name: step}, outputs=(step.name,), unknown=_UNKNOWN)


@dataclass
class _Program:
    """Walks through functions; `steps` are those of the operations met."""

    code: Mapping[str, Callable[[], bytes]]
    tensors: Tensors
    constants: Callable[[], Mapping[str, Array]]
    steps: dict[str, Step] = field(default_factory=dict)
    parsed: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: int = 0
    depth: int = 0
    place: str = ""

    def method(self, module: Module, name: str, positional: list[Any], named: Mapping[str, Any]) -> Any:
        """What a method of an object returns."""
        maker = module.pickled.maker
        if not isinstance(maker, Global):
            _stop("an object without a class")
        body = self.definitions(maker.module).get(maker.name)
        functions = {part.name: part for part in getattr(body, "body", ()) if isinstance(part, ast.FunctionDef)}
        before, self.place = self.place, module.name
        try:
            return self.call(functions[name], [module, *positional], named)
        finally:
            self.place = before

    def definitions(self, package: str) -> dict[str, Any]:
        """Classes and functions of a file of code, by name."""
        if package not in self.parsed:
            text = self.code[package.replace(".", "/") + ".py"]()
            if len(text) > _MAX_TEXT:
                raise CorruptError(f"code of {len(text)} bytes")
            body = ast.parse(text.decode()).body
            self.parsed[package] = {
                part.name: part for part in body if isinstance(part, ast.ClassDef | ast.FunctionDef)
            }
        return self.parsed[package]

    def call(self, function: ast.FunctionDef, positional: list[Any], named: Mapping[str, Any]) -> Any:
        """What a function returns."""
        self.calls += 1
        if self.calls > _MAX_CALLS or self.depth > _MAX_DEPTH:
            _stop("calls without end")
        names = [argument.arg for argument in function.args.args]
        defaults = dict(zip(reversed(names), reversed(function.args.defaults), strict=False))
        variables: dict[str, Any] = {**dict(zip(names, positional, strict=False)), **named}
        variables |= {name: self.value(defaults[name], {}) for name in names if name not in variables}
        self.depth += 1
        try:
            self.run(function.body, variables)
        except _Returned as returned:
            return returned.value
        finally:
            self.depth -= 1
        return None

    def run(self, body: list[ast.stmt], variables: dict[str, Any]) -> None:
        """Walk through statements."""
        for statement in body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    variables[name] = self.value(value, variables)
                case ast.Assign(targets=[ast.Tuple(elts=targets)], value=value):
                    values = self.value(value, variables)
                    variables.update(zip([target.id for target in targets], values, strict=True))  # type: ignore[attr-defined]
                case ast.Expr(value=value):
                    self.value(value, variables)
                case ast.Return(value=value):
                    raise _Returned(None if value is None else self.value(value, variables))
                case ast.If(test=test, body=inner, orelse=other):
                    decided = self.value(test, variables)
                    if not isinstance(decided, bool):
                        _stop("a branch that depends on the picture")
                    self.run(inner if decided else other, variables)
                case ast.Pass():
                    pass
                case _:
                    _stop(f"a {type(statement).__name__}")

    def value(self, node: ast.expr, variables: Mapping[str, Any]) -> Any:  # noqa: PLR0911 (a kind of node a line)
        """What an expression gives."""
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return variables[name] if name in variables else Function(name)
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                return [self.value(part, variables) for part in parts]
            case ast.Dict(values=parts):  # whatever each is called
                return [self.value(part, variables) for part in parts]
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return -number
            case ast.Subscript(value=whole, slice=place):
                return self.value(whole, variables)[self.value(place, variables)]
            case ast.Attribute(value=owner, attr=name):
                return self.attribute(self.value(owner, variables), name)
            case ast.Call(func=function, args=arguments, keywords=keywords):
                named = {word.arg: self.value(word.value, variables) for word in keywords if word.arg}
                return self.called(function, arguments, named, variables)
        return _stop(f"a {type(node).__name__}")

    def attribute(self, owner: Any, name: str) -> Any:
        """A part of an object, or a longer dotted name."""
        if isinstance(owner, Function):
            return self.constants()[name] if owner == _CONSTANTS else Function(f"{owner.name}.{name}")
        if not isinstance(owner, Module):
            _stop(f"an attribute {name}")
        if name == "training":
            return False
        path = f"{owner.name}.{name}" if owner.name else name
        held = dict(owner.pickled.state.pairs) if isinstance(owner.pickled.state, Call) else {}
        if name not in held:
            return Method(owner, name)
        part = _listed(held[name])
        if path in self.tensors:
            return Held(path)
        is_module = (
            isinstance(part, Call) and isinstance(part.maker, Global) and part.maker.module.startswith("__torch__")
        )
        if is_module:
            return Module(path, part)
        return [*part] if isinstance(part, tuple) else part

    def called(  # noqa: C901, PLR0911 (a kind of call a line)
        self, function: ast.expr, arguments: list[ast.expr], named: dict[str, Any], variables: Mapping[str, Any]
    ) -> Any:
        """What a call gives."""
        callee = self.value(function, variables)
        if isinstance(callee, Function) and callee.name in ("unchecked_cast", "annotate"):
            return self.value(arguments[1], variables)  # behind a type
        if callee == Function("uninitialized"):
            return None
        values = [self.value(argument, variables) for argument in arguments]
        match callee:
            case Function("int" | "ops.prim.NumToTensor") if values == [_PICTURES] or isinstance(values[0], Size):
                return values[0]
            case Function("isinstance") if values[1:] == [Function("Tensor")]:
                return isinstance(values[0], Map | Held)
            case Function("bool") if isinstance(values[0], bool | int | float):
                return bool(values[0])
            case Function("ops.prim.dtype" | "ops.prim.device"):
                return _KIND
            case Function("getattr"):  # of a name that is a number
                return self.attribute(values[0], str(values[1]))
            case Method(module, name):
                return self.method(module, name, values, named)
            case Function(name) if name.startswith("__torch__."):
                package, _, own = name.rpartition(".")
                return self.call(self.definitions(package)[own], values, named)
            case Function(name) if name.startswith("torch."):
                return self.operation(name.removeprefix("torch."), values, named)
        return _stop(f"a call of {ast.unparse(function)[:80]}")

    def operation(self, name: str, values: list[Any], named: Mapping[str, Any]) -> Any:
        """What one of torch's operations gives."""
        if known := self.known(name, values):
            return known[0]
        if name == "add_" and isinstance(values[0], Held) and values[0].name.endswith("num_batches_tracked"):
            return values[0]
        if name == "to" and is_rounding(values[0], values[1:], _FLOATS):
            name, values = "alias", values[:1]
        if (numbers := aside(name, values, self.tensors)) is not None:
            return numbers
        if (
            name in ("view", "reshape")
            and isinstance(values[0], Map)
            and (axis := self.flat_from(values[0], values[1]))
        ):
            name, values = "flatten", [values[0], axis]
        taken = take(name, values, named)
        if _is_over_all(taken):
            taken = take(_OVER_ALL[taken.title], [values[0], [2, 3]], {})
        if not any(isinstance(value, Map) for value in [*values, *(values[0] if isinstance(values[0], list) else [])]):
            _stop(f"{name} of no map")
        made = put_out(f"{self.place}:{name}{len(self.steps)}", taken, self.tensors, self.steps)
        return [made, Function("the places of maxima")] if name in _WITH_PLACES else made

    def known(self, name: str, values: list[Any]) -> tuple[Any] | tuple[()]:  # noqa: C901, PLR0911 (an operation a line)
        """What an operation gives that is no step: of numbers, lists, sizes, types; nothing for any other."""
        if name in _NUMBERS and not any(isinstance(value, Map | Held) for value in values):
            return (_NUMBERS[name](*values),)
        match name, values:
            case "__is__" | "__isnot__", _:  # a tensor is not None
                return (name == "__isnot__",)
            case "append", [list(), _]:
                values[0].append(values[1])
                return (values[0],)
            case "dim", [Map(step)]:
                return (self.axes(step),)
            case (("size" | "slice" | "mul"), _):
                return self.sizes(name, values)
            case "dim", [np.ndarray() as numbers]:
                return (numbers.ndim,)
            case "is_floating_point", [Map()]:
                return (True,)
            case "format", [str(), *_]:
                return ("a message",)
            case "device", _:
                return (_KIND,)
            case "tensor" | "as_tensor", [list() as numbers, *_] if all(
                isinstance(number, int | float) for number in numbers
            ):
                return (np.array(numbers),)
        return ()

    def sizes(self, name: str, values: list[Any]) -> tuple[Any] | tuple[()]:
        """What an operation gives of lengths of axes."""
        match name, values:
            case "size", [Map(step)]:
                return ([_PICTURES, *[Size(step, axis) for axis in range(1, self.axes(step))]],)
            case "size", [Map(), 0]:
                return (_PICTURES,)
            case "size", [Map(step), int(axis)] if axis < self.axes(step):
                return (Size(step, axis),)
            case "slice", [list() as lengths, int(start), *rest]:
                return (lengths[slice(start, *rest)],) if rest else (lengths[start:],)
            case "mul", [Size(step, 2), Size(other, 3)] if step == other:
                return (Size(step, None),)
        return ()

    def flat_from(self, value: Map, sizes: Any) -> int | None:
        """The axis from which on a map is flattened to these sizes: 1, 2 (its places alone); None for any others."""
        match sizes:
            case [-1, int(count)]:
                return 1 if self.classes(value) in (None, count) else None
            case [-1, Size(_, 1)] | [Function(), int() | Size()] if sizes[0] in (-1, _PICTURES):
                return 1
            case [Function() as first, int() | Size(_, 1), -1 | Size(_, None)] if first == _PICTURES:
                return 2 if self.axes(value.step) == 4 else None  # n c h w
        return None

    def classes(self, value: Map) -> int | None:
        """How many numbers a dense layer puts out for a picture; None for what is no answer of one."""
        step = made_by(value, self.steps, "identity", "activation", "flatten")
        return self.tensors[f"{step.holder}.weight"].shape[0] if step and step.kind == "dense" else None

    def axes(self, step: str) -> int:
        """How many axes a map has; an operation that is none of a DenseNet's is taken to keep them, and is refused."""
        while step != INPUT:
            if self.steps[step].kind in _FLAT:
                return 2
            if self.steps[step].kind in ("mean", "max"):
                _stop("a map of which it is not known whether it has height and width")
            step = self.steps[step].inputs[0]
        return 4  # n c h w


def _is_over_all(taken: Taken) -> bool:
    """Whether a pool's window is all of the map that it reads, by the map's own size."""
    value, window = taken.arguments.get("self"), taken.arguments.get("kernel_size")
    if taken.title not in _OVER_ALL or not isinstance(value, Map):
        return False
    rest = {key: given for key, given in taken.arguments.items() if key not in ("self", "kernel_size", "stride")}
    plain = take(taken.title, [value, window], {}).arguments
    is_plain = all(given in (plain[key], [plain[key]] * 2) for key, given in rest.items())
    return (
        is_plain and window == [Size(value.step, 2), Size(value.step, 3)] and taken.arguments["stride"] in ([], window)
    )


def _listed(part: Any) -> Any:
    """A list of numbers, which the pickle makes by a call (`torch.jit._pickle.build_doublelist`); else what it is."""
    match part:
        case Call(Global("torch.jit._pickle", _), (list(numbers),)):
            return numbers
    return part


def _stop(what: str) -> NoReturn:
    raise NotFollowedError(what)
