"""The architecture: the numbers of one DenseNet, and the units, slots and shapes that its graph has for them."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from math import floor, prod
from typing import Any

from densenet_port.errors import MisfitError, UsageError, nearest
from densenet_port.network.contract import Contract
from densenet_port.network.graph import STEMS, Stem, StemKind, graph, stem_kind, stem_of
from densenet_port.network.head import USUAL, head_of
from densenet_port.network.units import ROLES, Slot, Unit

_MOST = 2**31 - 1  # of any number; ONNX and Caffe keep sizes in 32 bits
_LAYERS = 10_000  # dense layers of all blocks; the largest published network has 130


def _is_count(value: object) -> bool:
    """Whether a value is a whole number from 1 on, of a size that a network can have."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The numbers of one DenseNet.

    `layers` holds the dense layers of each block. `bottleneck` is the width of the 1×1 convolution in growth rates (4
    in every published BC network), 0 for none. A transition keeps `int(channels * (1 - reduction))`; where transitions
    differ, `reduction` has a number for each. `stem` is a kind of `graph.stem_of`, `final_norm` says whether a norm and
    a ReLU stand behind the last block, and `head` what stands behind that, as `network.head` has it. `classes` is None
    without the head. Raises UsageError for numbers that describe no network.
    """

    layers: tuple[int, ...]
    growth_rate: int
    init_channels: int
    bottleneck: int = 4
    reduction: float | tuple[float, ...] = 0.5
    stem: StemKind = "imagenet"
    channels: int = 3
    classes: int | None = 1000
    final_norm: bool = True
    head: str = USUAL

    def __post_init__(self) -> None:
        """Refuse numbers that describe no network."""
        counts = (*self.layers, self.growth_rate, self.init_channels, self.channels, self.bottleneck + 1)
        counts += () if self.classes is None else (self.classes,)
        if not self.layers or not all(map(_is_count, counts)):
            hint = f"every count must be a whole number from 1 to {_MOST}"
            raise UsageError(f"no DenseNet has these numbers: {asdict(self)}", hint=hint)
        if sum(self.layers) > _LAYERS:
            raise UsageError(f"a DenseNet of {sum(self.layers)} dense layers, at most {_LAYERS} are taken")
        reductions = self.reduction if isinstance(self.reduction, tuple) else (self.reduction,)
        if not all(0 <= reduction < 1 for reduction in reductions):
            raise UsageError(f"reduction must be at least 0 and below 1, found {self.reduction}")
        if isinstance(self.reduction, tuple) and len(reductions) != len(self.layers) - 1:
            raise UsageError(f"{len(self.layers) - 1} transitions, and {len(reductions)} reductions: {self.reduction}")
        head_of(self.head)
        try:
            stem = stem_of(self.stem)
        except (KeyError, TypeError) as error:
            raise UsageError(f"unknown stem {self.stem!r} (known: {', '.join(STEMS)}, 5x5, 5x5-norm …)") from error
        divisor = max(conv.divisor for conv in stem.convs)
        if self.init_channels % divisor:
            found = f"must be a multiple of {divisor}, found {self.init_channels}"
            raise UsageError(f"a {self.stem} stem's init_channels {found}")

    @classmethod
    def named(cls, name: str) -> "Architecture":
        """The architecture of a published name (`121`, `densenet121`, `cifar-bc-100-12`) or of its own `spec`.

        timm's `densenetblur121d` is `121d`: the architecture says nothing of pools.

        Raises UsageError for a name that means nothing.
        """
        plain = re.sub(r"^densenet(?:blur)?[-_]?", "", name.strip().lower())
        if plain in NAMED:
            return NAMED[plain]
        if "=" in plain:
            return _parse_spec(plain)
        near = nearest(name.strip(), [*NAMED, *(f"densenet{known}" for known in NAMED)])
        numbers = "or numbers, such as layers=6-12-24-16,growth_rate=32,init_channels=64"
        hint = f"{near}known: {', '.join(NAMED)}; {numbers}"
        raise UsageError(f"unknown architecture {name!r}", hint=hint)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Architecture":
        """The architecture that `to_json` wrote. Raises MisfitError for anything else."""
        try:
            plain: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in data.items()}
            return cls(**plain)
        except (AttributeError, KeyError, TypeError, UsageError) as error:
            raise MisfitError(f"the file's own record of its architecture is unreadable: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """The numbers as plain JSON values; of `final_norm` and `head` what is not the usual."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        usual = {"final_norm": True, "head": USUAL}
        return {key: value for key, value in plain.items() if key not in usual or value != usual[key]}

    @cached_property
    def name(self) -> str:
        """The published name if the body has one (`121`) and the head is the usual, else the `spec`."""
        body = replace(self, classes=1000, channels=3)
        return next((name for name, known in NAMED.items() if replace(known, classes=1000) == body), self.spec)

    @property
    def spec(self) -> str:
        """Every number that differs from the default, as `--arch` takes it."""
        given = {"layers": "-".join(map(str, self.layers))}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name != "layers" and value != entry.default:
                given[entry.name] = _spelled(value)
        return ",".join(f"{key}={value}" for key, value in given.items())

    @property
    def depth(self) -> int:
        """Weighted layers on the longest path, head included, counted as the paper does."""
        return sum(unit.kind == "conv" for unit in self.units.values()) + 1

    @cached_property
    def units(self) -> dict[str, Unit]:
        """Name → unit, in order of execution."""
        return graph(self, Contract()).units

    @cached_property
    def slots(self) -> dict[Slot, tuple[int, ...]]:
        """Slot → shape of our tensor, in order of execution."""
        return {Slot(u.name, role): u.shape(role) for u in self.units.values() for role in ROLES[u.kind]}

    @property
    def norm_count(self) -> int:
        """Number of norms."""
        return sum(unit.kind == "norm" for unit in self.units.values())

    @property
    def trainable(self) -> int:
        """Number of trained values: kernels, biases, scales and shifts."""
        return sum(prod(shape) for slot, shape in self.slots.items() if slot.role not in ("mean", "variance"))

    @property
    def statistics(self) -> int:
        """Number of running statistics: means and variances."""
        return sum(prod(shape) for slot, shape in self.slots.items() if slot.role in ("mean", "variance"))

    def without_head(self) -> "Architecture":
        """The same body without the head."""
        return replace(self, classes=None, head=USUAL)

    def differing(self, other: "Architecture") -> dict[str, str]:
        """Number → this network's and the other's, in words, of those that are not the same: `24 and 32`."""
        numbers = other.to_json()
        return {key: f"{one} and {numbers[key]}" for key, one in self.to_json().items() if numbers[key] != one}


def infer(sizes: Mapping[str, Mapping[str, int]], norms: int | None = None) -> Architecture:
    """The architecture whose kernels have these sizes: unit name → axis name → length.

    Units may be missing (what is missing is for the caller's match to say); the stem's convolution and the first dense
    layer may not. Where stems differ in their norms alone, the number of norms, if it is known, decides between them.
    Raises MisfitError when no DenseNet has them.
    """
    for unit, axes in sizes.items():
        if 0 in axes.values():
            raise MisfitError(f"no DenseNet has {unit} with an axis of length 0: {dict(axes)}")
    try:
        layers = _count_layers(sizes)
        first = sizes["block1.layer1.conv1"]
        second = sizes.get("block1.layer1.conv2")
        growth = second["o"] if second else first["o"]
        stems = _stems_of(sizes)
        names = stem_of(stems[0]).names("conv")
        channels, init_channels = sizes[names[0]]["i"], sizes[names[-1]]["o"]
    except KeyError as error:
        raise MisfitError(f"no DenseNet without {error.args[0]}") from error
    if second and first["o"] % growth:
        raise MisfitError(f"a bottleneck of {first['o']} channels is no multiple of the growth rate {growth}")
    head = sizes.get("head.dense")
    transitions = [sizes[unit] for b in range(1, len(layers)) if (unit := f"transition{b}.conv") in sizes]
    try:
        architecture = Architecture(
            layers=layers,
            growth_rate=growth,
            init_channels=init_channels,
            bottleneck=first["o"] // growth if second else 0,
            reduction=_reduction(transitions),
            stem=stems[0],
            channels=channels,
            classes=head["o"] if head else None,
        )
    except UsageError as error:
        raise MisfitError(error.message, hint=error.hint) from error
    candidates = [replace(architecture, stem=stem) for stem in stems] if len(stems) > 1 else []
    return next((one for one in candidates if one.norm_count == norms), architecture)


def name_in_order(kernels: list[Mapping[str, int]]) -> list[str]:
    """Names of the convolution units whose kernel sizes stand in order of execution.

    Layouts without stable names (`.weights.h5`) need it: a 3×3 kernel ends a dense layer, and a 1×1 kernel that begins
    none is a transition. Raises MisfitError for an order that no DenseNet has.
    """
    if not kernels:
        raise MisfitError("no convolution found")
    several = [stem for stem in STEMS.values() if len(stem.convs) > 1 and _begins_with(stem, kernels)]
    names = several[0].names("conv") if several else ["stem.conv"]
    spots = [(k["h"], k["w"]) for k in kernels[len(names) :]] + [(0, 0)]
    narrow = spots[0] == (1, 1)  # a first 1×1 kernel means bottlenecks throughout
    block, layer = 1, 1
    for place, (here, after) in enumerate(pairwise(spots), start=len(names) + 1):
        if here == (3, 3):
            names.append(f"block{block}.layer{layer}.conv{2 if narrow else 1}")
            layer += 1
        elif here == (1, 1) and narrow and after == (3, 3):
            names.append(f"block{block}.layer{layer}.conv1")
        elif here == (1, 1):
            names.append(f"transition{block}.conv")
            block, layer = block + 1, 1
        else:
            found = f"{here[0]}x{here[1]}"
            raise MisfitError(f"convolution {place} of {len(kernels)} has a {found} kernel; DenseNets have 1x1 and 3x3")
    return names


def _begins_with(stem: Stem, kernels: list[Mapping[str, int]]) -> bool:
    """Whether the first kernels are a stem's.

    Each of a stem reads what the one before puts out, where a dense layer's would read the stem's channels too.
    """
    first = kernels[: len(stem.convs)]
    chained = all(after["i"] == before["o"] for before, after in pairwise(first))
    return [kernel["h"] for kernel in first] == [conv.kernel for conv in stem.convs] and chained


def _stems_of(sizes: Mapping[str, Mapping[str, int]]) -> list[StemKind]:
    """The kinds of stem that kernels of these names and sizes can be of; where none is, the last of these names.

    Raises KeyError that names a kernel that is missing.
    """
    several = "stem.conv1" in sizes
    if not several and (side := sizes["stem.conv"]["h"]) % 2:
        kinds = [stem_kind(side, norms=norms) for norms in (True, False)]
        usual = [kind for kind in STEMS if kind in kinds]  # a 7×7 kernel without a norm is nobody's
        return usual or kinds
    kinds = [kind for kind, stem in STEMS.items() if (len(stem.convs) > 1) == several]
    seen = sorted(unit for unit in sizes if unit.startswith("stem.conv"))
    return [kind for kind in kinds if STEMS[kind].names("conv") == seen] or kinds[-1:]


def _count_layers(sizes: Mapping[str, Mapping[str, int]]) -> tuple[int, ...]:
    """Dense layers per block: the highest number seen in each.

    Raises MisfitError for numbers that no counting from 1 gives, KeyError that names a block that is missing.
    """
    counts: dict[int, int] = {}
    for name in sizes:
        if match := re.match(r"block(-?\d+)\.layer(-?\d+)\.", name):
            block, layer = int(match[1]), int(match[2])
            if not (0 < block <= len(sizes) and 0 < layer <= len(sizes)):
                raise MisfitError(
                    f"no DenseNet has {name}: blocks and layers count from 1, and here to {len(sizes)} at most, "
                    "the number of kernels",
                    hint="if the file counts otherwise, say so in a table of your own (`first`), for --mapping",
                )
            counts[block] = max(counts.get(block, 0), layer)
    if not counts:
        raise KeyError("block1.layer1.conv1")
    for block in range(1, max(counts)):
        if block not in counts:
            raise KeyError(f"block{block}")
    return tuple(counts[block] for block in sorted(counts))


def _reduction(transitions: list[Mapping[str, int]]) -> float | tuple[float, ...]:
    """The shortest decimal that explains every transition's channels, or one for each where none does.

    One block alone has the usual half.
    """
    one = _decimal(transitions)
    if one is not None:
        return one
    each = [_decimal([transition]) for transition in transitions]
    if None not in each:
        return tuple(number for number in each if number is not None)
    found = ", ".join(f"{t['i']} to {t['o']}" for t in transitions)
    raise MisfitError(f"no reduction explains the transitions' channels: {found}")


def _decimal(transitions: list[Mapping[str, int]]) -> float | None:
    """The shortest decimal that explains the channels of transitions; None where none does."""
    most: float = min((1 - t["o"] / t["i"] for t in transitions), default=0.5)
    for guess in (0.5, *(floor(most * 10**digits + 1e-9) / 10**digits for digits in range(9))):
        if 0 <= guess < 1 and all(int(t["i"] * (1.0 - guess)) == t["o"] for t in transitions):
            return float(guess)
    return None


def _spelled(value: object) -> str:
    """A number of an architecture in its `spec`; several reductions have a colon between them."""
    if isinstance(value, tuple):
        return ":".join(map(str, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _parse_spec(text: str) -> Architecture:
    """The architecture of `key=value,…`, as `Architecture.spec` writes it."""
    kinds = {entry.name: entry.type for entry in fields(Architecture)}
    given: dict[str, Any] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        try:
            if key == "layers":
                given[key] = tuple(int(count) for count in value.split("-"))
            elif key == "reduction":
                given[key] = tuple(map(float, value.split(":"))) if ":" in value else float(value)
            elif key in ("stem", "head"):
                given[key] = value
            elif key == "final_norm":
                given[key] = {"true": True, "false": False}[value]
            elif key in kinds:
                given[key] = None if value == "none" else int(value)
            else:
                raise UsageError(f"unknown number {key!r} in --arch {text} (known: {', '.join(kinds)})")
        except (KeyError, ValueError) as error:
            raise UsageError(f"--arch {text}: {key} cannot be {value!r}") from error
    if missing := [key for key in ("layers", "growth_rate", "init_channels") if key not in given]:
        raise UsageError(f"--arch {text} lacks {', '.join(missing)}")
    return Architecture(**given)


def _imagenet(layers: tuple[int, ...], growth_rate: int = 32, stem: StemKind = "imagenet") -> Architecture:
    return Architecture(layers=layers, growth_rate=growth_rate, init_channels=2 * growth_rate, stem=stem)


def cifar(depth: int, growth_rate: int, *, bottleneck: bool, reduction: float = 0.0) -> Architecture:
    """Three equal blocks behind a 3×3 stem of 2·growth_rate channels, for 10 classes.

    `depth` counts as the paper does: `(depth - 4) / 3` convolutions a block, halved with a bottleneck.
    """
    count = (depth - 4) // 3 // (2 if bottleneck else 1)
    return Architecture(
        layers=(count,) * 3,
        growth_rate=growth_rate,
        init_channels=2 * growth_rate,
        bottleneck=4 if bottleneck else 0,
        reduction=reduction,
        stem="cifar",
        classes=10,
    )


NAMED: dict[str, Architecture] = {
    "121": _imagenet((6, 12, 24, 16)),
    "161": _imagenet((6, 12, 36, 24), growth_rate=48),
    "169": _imagenet((6, 12, 32, 32)),
    "201": _imagenet((6, 12, 48, 32)),
    "264": _imagenet((6, 12, 64, 48)),
    "121d": _imagenet((6, 12, 24, 16), stem="deep"),  # timm's densenetblur121d, once densenet121d
    "264d": _imagenet((6, 12, 64, 48), growth_rate=48, stem="deep"),  # timm's densenet264d
    "cifar-40-12": cifar(40, 12, bottleneck=False),
    "cifar-100-12": cifar(100, 12, bottleneck=False),
    "cifar-100-24": cifar(100, 24, bottleneck=False),
    "cifar-bc-100-12": cifar(100, 12, bottleneck=True, reduction=0.5),
    "cifar-bc-250-24": cifar(250, 24, bottleneck=True, reduction=0.5),
    "cifar-bc-190-40": cifar(190, 40, bottleneck=True, reduction=0.5),
}
