"""Planted faults: what goes wrong in ports, done on purpose, and what the diagnosis must say of it.

`FAULTS` damages weights or contract of a port, in every position that makes sense; `GRAPHS` damages what a framework
does with right ones. Names read as `what, where`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.graph import graph
from densenet_port.network.numpy import run
from densenet_port.network.units import Slot

Weights = dict[Slot, np.ndarray]
Tensors = dict[str, np.ndarray]  # role → tensor, of one unit
Where = Callable[[Architecture], tuple[str, ...]]


class Planted(NamedTuple):
    """A damaged port, and the findings that it must have: fault → units."""

    weights: Weights
    contract: Contract
    findings: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Fault:
    """A fault, the units it is made on, and how: on each unit's tensors, on the contract, or between the units."""

    slug: str
    where: Where
    change: Callable[[Tensors], Tensors] = dict
    contract: Mapping[str, object] = field(default_factory=dict)
    between: Callable[[Weights, tuple[str, ...]], Weights] = lambda weights, _units: weights
    fits: Callable[[Architecture], bool] = lambda _architecture: True

    def plant(self, architecture: Architecture, contract: Contract, weights: Weights) -> Planted:
        """The damaged port; what is given stays as it is."""
        units = self.where(architecture)
        damaged = self.between(dict(weights), units)
        for unit in units:
            own = {slot.role: damaged[slot] for slot in weights if slot.unit == unit}
            changed = self.change(own)
            damaged |= {Slot(unit, role): changed[role].astype(own[role].dtype) for role in own}
        return Planted(damaged, replace(contract, **self.contract), {self.slug: units})


# -- where -----------------------------------------------------------------------------------------------------------


def at(unit: str) -> Where:
    return lambda _architecture: (unit,)


def middle(part: str) -> Where:
    """A unit of the middle layer of block 2."""
    return lambda architecture: (f"block2.layer{(architecture.layers[1] + 1) // 2}.{part}",)


def first_two(part: str) -> Where:
    return lambda _architecture: (f"block2.layer1.{part}", f"block2.layer2.{part}")


def units(kind: str, smallest: int = 1) -> Where:
    """Every unit of a kind, or every kernel of some size."""
    return lambda architecture: tuple(
        name
        for name, unit in architecture.units.items()
        if unit.kind == kind and (kind != "conv" or unit.sizes["h"] >= smallest)
    )


def everywhere(architecture: Architecture) -> tuple[str, ...]:
    return tuple(architecture.units)


STEM, HEAD, TRANSITION = at("stem.conv"), at("head.dense"), at("transition1.conv")
NORMS = {
    "stem": at("stem.norm"),
    "block 2": middle("norm1"),
    "transition": at("transition1.norm"),
    "final norm": at("final.norm"),
    "every norm": units("norm"),
}
KERNELS = {"stem": STEM, "block 2": middle("conv2"), "every 3×3 and 7×7 kernel": units("conv", smallest=3)}


# -- what ------------------------------------------------------------------------------------------------------------


def noise(array: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(array.shape)


def flipped(own: Tensors) -> Tensors:
    return {"kernel": own["kernel"][::-1, ::-1]}


def transposed(own: Tensors) -> Tensors:
    return {"kernel": own["kernel"].swapaxes(0, 1)}


def mirrored(own: Tensors) -> Tensors:
    return {"kernel": own["kernel"][:, ::-1]}


def reversed_inputs(own: Tensors) -> Tensors:
    return {"kernel": own["kernel"][:, :, ::-1]}


def another_kernel(own: Tensors) -> Tensors:
    return own | {"kernel": noise(own["kernel"]) * own["kernel"].std()}


def one_channel(own: Tensors) -> Tensors:
    """Other numbers in one output channel."""
    changed = {role: array.copy() for role, array in own.items()}
    for array in changed.values():
        array[..., array.shape[-1] // 3] *= 1.25
    return changed


def two_permuted(own: Tensors) -> Tensors:
    """The second channel and the last but one in each other's place."""
    order = np.arange(next(iter(own.values())).shape[-1])
    order[[1, -2]] = order[[-2, 1]]
    return {role: array[..., order] for role, array in own.items()}


def shuffled(own: Tensors) -> Tensors:
    order = np.random.default_rng(1).permutation(own["bias"].size)
    return {role: array[..., order] for role, array in own.items()}


def swapped(first: str, second: str) -> Callable[[Tensors], Tensors]:
    return lambda own: own | {first: own[second], second: own[first]}


def at_start(own: Tensors) -> Tensors:
    return own | {"mean": 0 * own["mean"], "variance": 0 * own["variance"] + 1}


def affine_at_start(own: Tensors) -> Tensors:
    return own | {"scale": 0 * own["scale"] + 1, "shift": 0 * own["shift"]}


def times(factor: float) -> Callable[[Tensors], Tensors]:
    return lambda own: own | {"mean": own["mean"] * factor, "variance": own["variance"] * factor}


def overwritten(own: Tensors) -> Tensors:
    """The scale and shift of a Scale layer alone, where the right ones are its product with a BatchNorm's own."""
    of_norm = {"scale": np.exp(noise(own["scale"], 2) / 3), "shift": noise(own["shift"], 3) / 5}
    scale = own["scale"] / of_norm["scale"]
    return own | {"scale": scale, "shift": own["shift"] - of_norm["shift"] * scale}


def overwritten_factor(own: Tensors) -> Tensors:
    """The same of a BatchNorm without a shift of its own."""
    return own | {"scale": own["scale"] / np.exp(noise(own["scale"], 2) / 3)}


def another_norm(own: Tensors) -> Tensors:
    spread = np.sqrt(own["variance"].mean())
    return {
        "scale": np.exp(noise(own["scale"], 4) / 3),
        "shift": noise(own["shift"], 5) / 5,
        "mean": noise(own["mean"], 6) * spread,
        "variance": np.exp(noise(own["variance"], 7) / 3) * spread**2,
    }


def another_shift(own: Tensors) -> Tensors:
    return own | {"shift": noise(own["shift"], 8) / 5}


def another_variance(own: Tensors) -> Tensors:
    return own | {"variance": np.exp(noise(own["variance"], 9)) * own["variance"].mean()}


def no_bias(own: Tensors) -> Tensors:
    return own | {"bias": 0 * own["bias"]}


def another_bias(own: Tensors) -> Tensors:
    return own | {"bias": noise(own["bias"], 10) / 5}


def turned(own: Tensors) -> Tensors:
    return own | {"kernel": own["kernel"].T}


def in_float16(own: Tensors) -> Tensors:
    return {role: array.astype(np.float16) for role, array in own.items()}


def in_bfloat16(own: Tensors) -> Tensors:
    """Rounded to the nearest, ties to even."""

    def rounded(array: np.ndarray) -> np.ndarray:
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)

    return {role: rounded(array) for role, array in own.items()}


def exchanged(weights: Weights, places: tuple[str, ...]) -> Weights:
    other = dict(zip(places, reversed(places), strict=True))
    return weights | {slot: weights[Slot(other[slot.unit], slot.role)] for slot in weights if slot.unit in other}


def square_head(architecture: Architecture) -> bool:
    head = architecture.units["head.dense"].sizes
    return head["i"] == head["o"]


# -- the tables ------------------------------------------------------------------------------------------------------

FAULTS: dict[str, Fault] = {
    **{f"kernel flipped, {name}": Fault("kernel-flipped", where, flipped) for name, where in KERNELS.items()},
    **{f"height and width swapped, {name}": Fault("kernel-transposed", w, transposed) for name, w in KERNELS.items()},
    **{f"kernel mirrored, {name}": Fault("kernel-mirrored", where, mirrored) for name, where in KERNELS.items()},
    "RGB for BGR, stem": Fault("channels-reversed", STEM, reversed_inputs),
    "SAME padding, stem": Fault(
        "stem-padding", lambda _: ("stem.conv", "block1.layer1.norm1"), contract={"stem_padding": "same"}
    ),
    "blur pool, stem": Fault("stem-pool", lambda _: ("block1.layer1.norm1",), contract={"stem_pool": "blur"}),
    **{
        f"epsilon {epsilon:g}, every norm": Fault("epsilon", units("norm"), contract={"epsilon": epsilon})
        for epsilon in (1e-3, 1.1e-5, 1.001e-5)
    },
    **{
        f"{what}, {name}": Fault(slug, where, change)
        for what, slug, change in (
            ("scale and shift swapped", "scale-shift-swapped", swapped("scale", "shift")),
            ("mean and variance swapped", "mean-variance-swapped", swapped("mean", "variance")),
            ("statistics at their start", "statistics-at-start", at_start),
            ("scale and shift at their start", "affine-at-start", affine_at_start),
            ("Caffe's factor not divided", "caffe-factor", times(999.982)),
            ("Caffe's factor divided twice", "caffe-factor", times(1 / 999.982)),
            ("another norm's numbers", "norm-wrong", another_norm),
            ("one channel wrong", "channel-wrong", one_channel),
            ("two channels permuted", "channels-permuted", two_permuted),
        )
        for name, where in NORMS.items()
    },
    **{
        f"{what}, {name}": Fault(slug, where, change)
        for what, slug, change in (
            ("another kernel", "kernel-wrong", another_kernel),
            ("one channel of the kernel wrong", "channel-wrong", one_channel),
            ("two channels of the kernel permuted", "channels-permuted", two_permuted),
        )
        for name, where in {
            "stem": STEM,
            "block 2, 1×1": middle("conv1"),
            "block 2, 3×3": middle("conv2"),
            "transition": TRANSITION,
        }.items()
    },
    "Scale overwritten, block 2": Fault("scale-overwritten", middle("norm1"), overwritten),
    "Scale overwritten, every norm": Fault("scale-overwritten", units("norm"), overwritten),
    "Scale overwritten without shift, block 2": Fault("slope-wrong", middle("norm1"), overwritten_factor),
    "another shift, block 2": Fault("offset-wrong", middle("norm1"), another_shift),
    "another variance, block 2": Fault("slope-wrong", middle("norm1"), another_variance),
    "kernels exchanged, block 2": Fault("misplaced", first_two("conv2"), between=exchanged),
    "norms exchanged, block 2": Fault("misplaced", first_two("norm2"), between=exchanged),
    "kernel transposed, head": Fault("head-transposed", HEAD, turned, fits=square_head),
    "classes permuted, head": Fault("classes-permuted", HEAD, shuffled),
    "bias dropped, head": Fault("bias-dropped", HEAD, no_bias),
    "another bias, head": Fault("bias-wrong", HEAD, another_bias),
    "another kernel, head": Fault("head-wrong", HEAD, another_kernel),
    "one class wrong, head": Fault("channel-wrong", HEAD, one_channel),
    **{
        f"rounded to {name}, {place}": Fault("rounded-to-half", where, change)
        for name, change in (("float16", in_float16), ("bfloat16", in_bfloat16))
        for place, where in {
            "kernel of block 2": middle("conv2"),
            "norm of block 2": middle("norm1"),
            "every unit": everywhere,
        }.items()
    },
}


# -- graphs ----------------------------------------------------------------------------------------------------------


def logits_of(
    architecture: Architecture,
    contract: Contract,
    weights: Weights,
    images: np.ndarray,
    *,
    dtype: str = "float64",
    convolution: str = "symmetric",
    pool: str = "symmetric",
    relu: bool = True,
) -> np.ndarray:
    """Logits of a network whose stem pads by these rules, and whose last ReLU may be missing."""
    network = graph(architecture, replace(contract, output="logits"))
    network = network.edited("stem.conv", padding="same" if convolution == "same" else 3)
    network = network.edited("stem.pool", padding="same" if pool == "same" else 1)
    if not relu:
        network = network.without("final.relu")
    return run(network, weights, images, dtype=dtype)


class GraphFault(NamedTuple):
    """What a framework does otherwise, and the fault and units that must be found."""

    slug: str
    units: tuple[str, ...]
    otherwise: Mapping[str, object]


GRAPHS: dict[str, GraphFault] = {
    "SAME padding": GraphFault(
        "stem-padding", ("stem.conv", "block1.layer1.norm1"), {"convolution": "same", "pool": "same"}
    ),
    "SAME padding of the convolution": GraphFault("stem-padding", ("stem.conv",), {"convolution": "same"}),
    "SAME padding of the pool": GraphFault("stem-padding", ("block1.layer1.norm1",), {"pool": "same"}),
    "no last ReLU": GraphFault("no-last-relu", ("head.dense",), {"relu": False}),
}
