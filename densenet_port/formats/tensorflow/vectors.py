"""What a program computes of its variables alone: a number for each channel, as a small expression.

A batch normalisation that is written out, as Keras 3 does it, is a factor and an offset for each channel:

    factor = scale / √(variance + epsilon)        offset = shift − mean · factor

and `norm_of` takes them for what they are.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from densenet_port.formats.decimals import meant

VARIABLE, CONSTANT = "variable", "constant"
_OPERATIONS = {  # TensorFlow's → ours
    "Add": "add",
    "AddV2": "add",
    "BiasAdd": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Rsqrt": "rsqrt",
}


@dataclass(frozen=True, slots=True)
class Vector:
    """A variable (`name`), a constant (`values`, of `shape`), or an operation on others."""

    operation: str
    parts: tuple["Vector", ...] = ()
    name: str = ""
    values: tuple[np.generic, ...] = ()
    shape: tuple[int, ...] = ()


class Norm(NamedTuple):
    """A batch normalisation: its variables by role, and its epsilon."""

    variables: dict[str, str]
    epsilon: float


def combined(operation: str, parts: tuple[Vector, ...]) -> Vector:
    """An operation on vectors."""
    return Vector(_OPERATIONS.get(operation, operation), parts)


def norm_of(factor: Vector, offset: Vector) -> Norm | None:
    """The normalisation that a factor and an offset are; None for anything else."""
    root, scale = next(((one, other) for one, other in _pairs(factor, "mul") if one.operation == "rsqrt"), (None, None))
    if root is None or scale is None or scale.operation != VARIABLE or offset.operation != "sub":
        return None
    shift, drift = offset.parts
    mean = next((one for one, other in _pairs(drift, "mul") if other == factor), None)
    added = next(((one, other) for one, other in _pairs(root.parts[0], "add") if _is_number(other)), None)
    if mean is None or added is None or {shift.operation, mean.operation, added[0].operation} != {VARIABLE}:
        return None
    variables = {"scale": scale.name, "shift": shift.name, "mean": mean.name, "variance": added[0].name}
    return Norm(variables, meant(added[1].values[0], factor=False))


def _pairs(vector: Vector, operation: str) -> tuple[tuple[Vector, Vector], ...]:
    """The two parts of an operation, both ways round."""
    if vector.operation != operation or len(vector.parts) != 2:
        return ()
    one, other = vector.parts
    return (one, other), (other, one)


def _is_number(vector: Vector) -> bool:
    return vector.operation == CONSTANT and len(vector.values) == 1
