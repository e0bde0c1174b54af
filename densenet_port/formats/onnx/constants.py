"""Operators of ONNX on tensors that the graph holds itself: what an exporter leaves between a weight and its use.

Nothing large is computed: elements are moved, cast or repeated when a tensor is loaded. Only small tensors of integers,
which are shapes, axes and pads, are loaded at once, and reckoned with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from densenet_port.checkpoint import Array, Tensor
from densenet_port.errors import CorruptError
from densenet_port.formats.bounds import TENSOR
from densenet_port.formats.onnx.model import DTYPES, Constant, Node

Args = Sequence[Constant | None]
Attributes = Mapping[str, Any]
MOST = TENSOR  # elements of a repeated constant, which are one in memory; VGG's largest layer has 2²⁶·⁶
_SMALL = 64  # elements of a tensor that says a shape


def evaluate(node: Node, args: Args) -> Constant | None:
    """The one result of a node whose inputs are all constants; None for an operator that is not known here."""
    known = _OPERATORS.get(node.op)
    return known(node, args) if known else None


def numbers(constant: Constant | None, what: object) -> list[int]:
    """The elements of a small tensor of integers. Raises CorruptError for another."""
    if constant is None or constant.tensor.dtype not in ("int64", "int32") or prod(constant.tensor.shape) > _SMALL:
        raise CorruptError(f"{what}: expected a few integers, found {constant and constant.tensor.dtype}")
    return [int(value) for value in constant.tensor.load().reshape(-1)]


def axes_of(node: Node, args: Args) -> list[int] | None:
    """The axes that a node names, in an attribute or, newer, as an input; None where it names none."""
    if "axes" in node.attributes:
        return list(node.attributes["axes"])
    return numbers(args[1], node) if len(args) > 1 and args[1] else None


def moved(constant: Constant, shape: Sequence[int]) -> Constant:
    """The same elements in another shape: still the initialiser it was."""
    tensor, new_shape = constant.tensor, tuple(shape)
    if prod(new_shape) != prod(tensor.shape) or min(new_shape, default=0) < 0:
        raise CorruptError(f"{constant.name or 'a constant'} of shape {tensor.shape} cannot have the shape {new_shape}")
    shaped = replace(tensor, shape=new_shape, load=lambda: tensor.load().reshape(new_shape))
    return Constant(shaped, constant.name)


def _made(shape: Sequence[int], dtype: str, load: Callable[[], Array]) -> Constant:
    """A constant that is worked out."""
    return Constant(Tensor(_bounded(shape), dtype, load))


def _bounded(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape that can be made."""
    if min(shape, default=0) < 0 or prod(shape) > MOST:
        raise CorruptError(f"a constant of the shape {tuple(shape)}", hint="no DenseNet has one")
    return tuple(shape)


def _one(args: Args) -> Constant:
    """The first input, which must be there."""
    if not args or args[0] is None:
        raise ValueError("an operator without its input")
    return args[0]


def _constant(node: Node, _args: Args) -> Constant | None:
    """A `Constant`: a tensor, or numbers in an attribute of their own."""
    for key, dtype in (("value_float", "float32"), ("value_floats", "float32")):
        if key in node.attributes:
            return _of(np.array(node.attributes[key], dtype))
    for key in ("value_int", "value_ints"):
        if key in node.attributes:
            return _of(np.array(node.attributes[key], "int64"))
    value = node.attributes.get("value")
    return value if isinstance(value, Constant) else None


def _of(array: Array) -> Constant:
    return Constant(Tensor(array.shape, array.dtype.name, lambda: array))


def _constant_of_shape(node: Node, args: Args) -> Constant:
    """One number, repeated; zero where none is given."""
    shape = numbers(_one(args), node)
    value = node.attributes.get("value") or _of(np.zeros(1, "float32"))
    return _made(shape, value.tensor.dtype, lambda: np.broadcast_to(value.tensor.load().reshape(()), shape))


def _expand(node: Node, args: Args) -> Constant:
    """Repeated along axes of length one, or new ones."""
    tensor = _one(args).tensor
    shape = np.broadcast_shapes(tensor.shape, _bounded(numbers(args[1], node)))
    return _made(shape, tensor.dtype, lambda: np.broadcast_to(tensor.load(), shape))


def _reshape(node: Node, args: Args) -> Constant:
    """0 keeps an axis's length, −1 is what is left."""
    constant = _one(args)
    given = node.attributes.get("shape") or numbers(args[1], node)
    kept = [size or constant.tensor.shape[place] for place, size in enumerate(given)]
    if kept.count(-1) == 1 and (others := prod(size for size in kept if size != -1)):
        kept[kept.index(-1)] = prod(constant.tensor.shape) // others
    return moved(constant, kept)


def _unsqueeze(node: Node, args: Args) -> Constant:
    constant, axes = _one(args), axes_of(node, args) or []
    rank = len(constant.tensor.shape) + len(axes)
    left, new = list(constant.tensor.shape), {axis % rank for axis in axes}
    return moved(constant, [1 if place in new else left.pop(0) for place in range(rank)])


def _squeeze(node: Node, args: Args) -> Constant:
    constant, axes = _one(args), axes_of(node, args)
    shape = constant.tensor.shape
    gone = (
        {axis % len(shape) for axis in axes} if axes is not None else {p for p, size in enumerate(shape) if size == 1}
    )
    return moved(constant, [size for place, size in enumerate(shape) if place not in gone])


def _transpose(node: Node, args: Args) -> Constant:
    """The axes in another order. Raises CorruptError for what is no order of them."""
    tensor = _one(args).tensor
    order = node.attributes.get("perm") or list(range(len(tensor.shape)))[::-1]
    if sorted(order) != list(range(len(tensor.shape))):
        raise CorruptError(f"{node} turns a tensor of {len(tensor.shape)} axes by {order}")
    shape = tuple(tensor.shape[axis] for axis in order)
    return _made(shape, tensor.dtype, lambda: tensor.load().transpose(order))


def _cast(node: Node, args: Args) -> Constant | None:
    """Another type; bfloat16 is not made, only read."""
    tensor, dtype = _one(args).tensor, DTYPES.get(node.attributes.get("to", 0), "")
    if dtype == tensor.dtype:
        return _one(args)
    if dtype in ("", "bfloat16"):
        return None
    return _made(tensor.shape, dtype, lambda: tensor.load().astype(dtype))


def _cast_like(_node: Node, args: Args) -> Constant | None:
    """The type of another; of a map's, which is what the weights have, it is left open."""
    like = args[1] if len(args) > 1 else None
    return _one(args) if like is None or like.tensor.dtype == _one(args).tensor.dtype else None


def _shape(node: Node, args: Args) -> Constant:
    """The lengths of the axes."""
    lengths = _one(args).tensor.shape[node.attributes.get("start", 0) : node.attributes.get("end")]
    return _of(np.array(lengths, "int64"))


def _reckoned(compute: Callable[..., Array]) -> Callable[[Node, Args], Constant | None]:
    """An operator on small tensors of integers. `compute` takes the node's attributes and the arrays; no others are."""

    def operator(node: Node, args: Args) -> Constant | None:
        known = [constant.tensor for constant in args if constant is not None]
        if any(tensor.dtype != "int64" or prod(tensor.shape) > _SMALL for tensor in known):
            return None
        return _of(np.asarray(compute(node.attributes, *(tensor.load() for tensor in known)), "int64"))

    return operator


def _sliced(_: Attributes, array: Array, *bounds: Array) -> Array:
    """A part along some axes: starts, ends, axes, steps."""
    starts, ends, *more = (each.reshape(-1).tolist() for each in bounds)
    axes = more[0] if more else range(len(starts))
    steps = more[1] if len(more) > 1 else [1] * len(starts)
    part = [slice(None)] * array.ndim
    for axis, *ends_and_step in zip(axes, starts, ends, steps, strict=True):
        part[axis] = slice(*ends_and_step)
    return array[tuple(part)]


_OPERATORS: dict[str, Callable[[Node, Args], Constant | None]] = {
    "Identity": lambda _node, args: _one(args),
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Shape": _shape,
    "Concat": _reckoned(lambda attributes, *arrays: np.concatenate(arrays, attributes["axis"])),
    "Gather": _reckoned(lambda attributes, array, places: np.take(array, places, attributes.get("axis", 0))),
    "Slice": _reckoned(_sliced),
    "Add": _reckoned(lambda _, one, other: one + other),
    "Sub": _reckoned(lambda _, one, other: one - other),
    "Mul": _reckoned(lambda _, one, other: one * other),
}
