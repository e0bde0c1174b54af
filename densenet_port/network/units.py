"""The vocabulary of tensors: a unit is a place in the network that holds weights, a slot is a unit and a role.

Convolution kernels are `h w i o` (cross-correlation), the head's kernel is `i o`, everything else has one axis.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from densenet_port.checkpoint import Array
from densenet_port.errors import MisfitError

Kind = Literal["conv", "norm", "dense"]
Role = Literal["kernel", "bias", "scale", "shift", "mean", "variance"]

HEAD = "head.dense"
FINAL_NORM = "final.norm"
ROLES: dict[Kind, tuple[Role, ...]] = {
    "conv": ("kernel",),
    "norm": ("scale", "shift", "mean", "variance"),
    "dense": ("kernel", "bias"),
}
AXES: dict[Kind, str] = {"conv": "h w i o", "norm": "c", "dense": "i o"}


def is_head(unit: str) -> bool:
    """Whether a unit is the head's: its last dense layer, or a norm or dense layer before it."""
    return unit.startswith("head.")


def listed(some: Sequence[str], every: Sequence[str]) -> str:
    """Units by name; where all of a kind are meant, `every block*.layer*.norm2`."""
    kinds = {name: re.sub(r"\d+\.", "*.", name) for name in every}
    names = dict[str, None]()
    for name in some:
        alike = {other for other in every if kinds[other] == kinds[name]}
        names[f"every {kinds[name]}" if len(alike) > 1 and alike <= set(some) else name] = None
    return ", ".join(names)


class Unit(NamedTuple):
    """A place in the network: its name, kind and the sizes of its axes.

    `sizes` maps the axes' names to lengths: `h w i o` for a convolution, `c` for a norm, `i o` for a dense layer.
    """

    name: str
    kind: Kind
    sizes: Mapping[str, int]

    @property
    def block(self) -> int | None:
        """Number of the dense block or transition, from 1; None in the stem, the final norm and the head."""
        match = re.match(r"(?:block|transition)(\d+)", self.name)
        return int(match[1]) if match else None

    def channel_axis(self, role: Role) -> int | None:
        """Which of our axes has the channels that the unit reads, for one role; None where none has."""
        axes = self.axes(role).split()
        return next((axes.index(axis) for axis in ("i", "c") if axis in axes), None)

    def axes(self, role: Role) -> str:
        """The order of our axes for one role of this unit."""
        return "o" if role == "bias" else AXES[self.kind]

    def shape(self, role: Role) -> tuple[int, ...]:
        """Shape of our tensor for one role of this unit."""
        return tuple(self.sizes[axis] for axis in self.axes(role).split())


class Slot(NamedTuple):
    """Unit and role: one tensor of ours."""

    unit: str
    role: Role

    def __str__(self) -> str:
        """`block1.layer2.conv1.kernel`."""
        return f"{self.unit}.{self.role}"


def conv_unit(name: str, side: int, inputs: int, outputs: int) -> Unit:
    """A convolution with a kernel of `side` × `side` places."""
    return Unit(name, "conv", {"h": side, "w": side, "i": inputs, "o": outputs})


def norm_unit(name: str, channels: int) -> Unit:
    """A norm of so many channels."""
    return Unit(name, "norm", {"c": channels})


def dense_unit(name: str, inputs: int, outputs: int) -> Unit:
    """A dense layer."""
    return Unit(name, "dense", {"i": inputs, "o": outputs})


def check_fit(shapes: Mapping[Slot, tuple[int, ...]], weights: Mapping[Slot, Array]) -> None:
    """Raise MisfitError unless the weights are a model's: an array in our axes for each of its slots, and no other."""
    lacking = [str(slot) for slot in shapes if slot not in weights]
    surplus = [str(slot) for slot in weights if slot not in shapes]
    if lacking or surplus:
        raise MisfitError(
            f"the weights do not fit the model: {len(lacking)} slots are not given, {len(surplus)} have no variable\n  "
            + "  ".join((lacking + surplus)[:8])
        )
    for slot, shape in shapes.items():
        if weights[slot].shape != shape:
            raise MisfitError(f"{slot}: expected shape {shape}, found {weights[slot].shape}")
