"""The architecture: the numbers of one DenseNet, and every unit, slot and shape that follows from them.

A **unit** is a place in the network that holds weights, by its dotted name, in order of execution:

    stem.conv  stem.norm  block1.layer1.norm1  block1.layer1.conv1  block1.layer1.norm2  block1.layer1.conv2  …
    transition1.norm  transition1.conv  …  final.norm  head.dense

A **slot** is a unit and a role: one tensor of ours. Convolution kernels are `h w i o` (cross-correlation), the head's
kernel is `i o`, everything else has one axis `c`. Dense blocks concatenate old channels first, then the new ones.

The ImageNet stem is a 7×7 convolution of stride 2, norm, ReLU and a 3×3 max pool of stride 2; the CIFAR stem is a 3×3
convolution alone (Huang et al., *Densely Connected Convolutional Networks*, 2017, tables 1 and section 4.2). The deep
stem has three 3×3 convolutions in the place of the 7×7 one, each with its norm and ReLU: `stem.conv1 stem.norm1` to
`stem.conv3 stem.norm3`. The first has stride 2; the first two have half of the last one's channels (timm 1.0.31,
models/densenet.py, whose `stem_type="deep"` has the growth rate there, and init channels of twice that).
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from itertools import pairwise
from math import floor, prod
from typing import Any, Literal, NamedTuple, get_args

from densenet_port.errors import MisfitError, UsageError

Kind = Literal["conv", "norm", "dense"]
Role = Literal["kernel", "bias", "scale", "shift", "mean", "variance"]
StemKind = Literal["imagenet", "cifar", "deep"]
StemPadding = Literal["symmetric", "same"]
StemPool = Literal["max", "blur"]
Rounding = Literal["floor", "ceil"]
Output = Literal["logits", "softmax", "sigmoid"]

ROLES: dict[Kind, tuple[Role, ...]] = {
    "conv": ("kernel",),
    "norm": ("scale", "shift", "mean", "variance"),
    "dense": ("kernel", "bias"),
}
AXES: dict[Kind, str] = {"conv": "h w i o", "norm": "c", "dense": "i o"}


class Unit(NamedTuple):
    """A place in the network: its name, kind and the sizes of its axes.

    `sizes` maps the axes' names to lengths: `h w i o` for a convolution, `c` for a norm, `i o` for the head.
    """

    name: str
    kind: Kind
    sizes: Mapping[str, int]

    @property
    def block(self) -> int | None:
        """Number of the dense block or transition, from 1; None in the stem, the final norm and the head."""
        found = re.match(r"(?:block|transition)(\d+)", self.name)
        return int(found[1]) if found else None

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


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The numbers of one DenseNet.

    `layers` holds the dense layers of each block. `bottleneck` is the width of the 1×1 convolution in growth rates (4
    in every published BC network), 0 for none. A transition keeps `int(channels * (1 - reduction))`. `classes` is None
    without the head. Raises UsageError for numbers that describe no network.
    """

    layers: tuple[int, ...]
    growth_rate: int
    init_channels: int
    bottleneck: int = 4
    reduction: float = 0.5
    stem: StemKind = "imagenet"
    channels: int = 3
    classes: int | None = 1000

    def __post_init__(self) -> None:
        """Refuse numbers that describe no network."""
        counts = (*self.layers, self.growth_rate, self.init_channels, self.channels)
        if not self.layers or min(counts) < 1 or self.bottleneck < 0 or (self.classes is not None and self.classes < 1):
            raise UsageError(f"no DenseNet has these numbers: {asdict(self)}", hint="every count must be at least 1")
        if not 0 <= self.reduction < 1:
            raise UsageError(f"reduction must be at least 0 and below 1, found {self.reduction}")
        if self.stem not in get_args(StemKind):
            raise UsageError(f"unknown stem {self.stem!r} (known: {', '.join(get_args(StemKind))})")
        if self.stem == "deep" and self.init_channels % 2:
            raise UsageError(f"a deep stem's init_channels must be even, found {self.init_channels}")

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
        hint = f"known: {', '.join(NAMED)}; or numbers, such as layers=6-12-24-16,growth_rate=32,init_channels=64"
        raise UsageError(f"unknown architecture {name!r}", hint=hint)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Architecture":
        """The architecture that `to_json` wrote. Raises MisfitError for anything else."""
        try:
            return cls(**{**data, "layers": tuple(data["layers"])})
        except (KeyError, TypeError, UsageError) as error:
            raise MisfitError(f"the file's own record of its architecture is unreadable: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """The numbers as plain JSON values."""
        return {**asdict(self), "layers": list(self.layers)}

    @property
    def name(self) -> str:
        """The published name if the body has one (`121`), else the `spec`."""
        body = replace(self, classes=1000, channels=3)
        return next((name for name, known in NAMED.items() if replace(known, classes=1000) == body), self.spec)

    @property
    def spec(self) -> str:
        """Every number that differs from the default, as `--arch` takes it."""
        given = {"layers": "-".join(map(str, self.layers))}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name != "layers" and value != entry.default:
                given[entry.name] = "none" if value is None else str(value)
        return ",".join(f"{key}={value}" for key, value in given.items())

    @property
    def depth(self) -> int:
        """Weighted layers on the longest path, head included, counted as the paper does."""
        return sum(unit.kind == "conv" for unit in self.units.values()) + 1

    @cached_property
    def units(self) -> dict[str, Unit]:
        """Name → unit, in order of execution."""
        found, width = self._stem(), self.init_channels
        for b, count in enumerate(self.layers, start=1):
            for index in range(1, count + 1):
                found += self._layer(f"block{b}.layer{index}", width)
                width += self.growth_rate
            if b < len(self.layers):
                kept = int(width * (1.0 - self.reduction))
                found += [_norm(f"transition{b}.norm", width), _conv(f"transition{b}.conv", 1, width, kept)]
                width = kept
        found.append(_norm("final.norm", width))
        if self.classes is not None:
            found.append(Unit("head.dense", "dense", {"i": width, "o": self.classes}))
        return {unit.name: unit for unit in found}

    def _stem(self) -> list[Unit]:
        """The units before the first dense block."""
        if self.stem == "cifar":
            return [_conv("stem.conv", 3, self.channels, self.init_channels)]
        if self.stem == "imagenet":
            return [_conv("stem.conv", 7, self.channels, self.init_channels), _norm("stem.norm", self.init_channels)]
        widths = self.channels, self.init_channels // 2, self.init_channels // 2, self.init_channels
        pairs = enumerate(pairwise(widths), start=1)
        return [unit for n, (i, o) in pairs for unit in (_conv(f"stem.conv{n}", 3, i, o), _norm(f"stem.norm{n}", o))]

    def _layer(self, name: str, width: int) -> list[Unit]:
        """The units of one dense layer that reads `width` channels."""
        if not self.bottleneck:
            return [_norm(f"{name}.norm1", width), _conv(f"{name}.conv1", 3, width, self.growth_rate)]
        middle = self.bottleneck * self.growth_rate
        return [
            _norm(f"{name}.norm1", width),
            _conv(f"{name}.conv1", 1, width, middle),
            _norm(f"{name}.norm2", middle),
            _conv(f"{name}.conv2", 3, middle, self.growth_rate),
        ]

    @cached_property
    def slots(self) -> dict[Slot, tuple[int, ...]]:
        """Slot → shape of our tensor, in order of execution."""
        return {Slot(u.name, role): u.shape(role) for u in self.units.values() for role in ROLES[u.kind]}

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
        return replace(self, classes=None)


def infer(sizes: Mapping[str, Mapping[str, int]]) -> Architecture:
    """The architecture whose kernels have these sizes: unit name → axis name → length.

    Units may be missing (what is missing is for the caller's match to say); the stem's convolution and the first dense
    layer may not. Raises MisfitError when no DenseNet has them.
    """
    try:
        layers = _count_layers(sizes)
        first = sizes["block1.layer1.conv1"]
        second = sizes.get("block1.layer1.conv2")
        growth = second["o"] if second else first["o"]
        stem, channels, init_channels = _seen_stem(sizes)
    except KeyError as error:
        raise MisfitError(f"no DenseNet without {error.args[0]}") from error
    if second and first["o"] % growth:
        raise MisfitError(f"a bottleneck of {first['o']} channels is no multiple of the growth rate {growth}")
    head = sizes.get("head.dense")
    return Architecture(
        layers=layers,
        growth_rate=growth,
        init_channels=init_channels,
        bottleneck=first["o"] // growth if second else 0,
        reduction=_reduction([sizes[t] for b in range(1, len(layers)) if (t := f"transition{b}.conv") in sizes]),
        stem=stem,
        channels=channels,
        classes=head["o"] if head else None,
    )


def name_in_order(kernels: list[Mapping[str, int]]) -> list[str]:
    """Names of the convolution units whose kernel sizes stand in order of execution.

    Layouts without stable names (`.weights.h5`) need it: a 3×3 kernel ends a dense layer, and a 1×1 kernel that begins
    none is a transition. Raises MisfitError for an order that no DenseNet has.
    """
    if not kernels:
        raise MisfitError("no convolution found")
    names = ["stem.conv1", "stem.conv2", "stem.conv3"] if _begins_deep(kernels) else ["stem.conv"]
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


def _begins_deep(kernels: list[Mapping[str, int]]) -> bool:
    """Whether the first three kernels are a deep stem's.

    Its third reads what the second puts out, where a dense layer's would read the stem's channels too.
    """
    first = kernels[:3]
    return len(first) == 3 and {k["h"] for k in first} == {3} and first[2]["i"] == first[1]["o"]  # noqa: PLR2004


def _seen_stem(sizes: Mapping[str, Mapping[str, int]]) -> tuple[StemKind, int, int]:
    """The stem's kind and the channels that enter and leave it. Raises KeyError that names what is missing."""
    if "stem.conv1" in sizes:
        return "deep", sizes["stem.conv1"]["i"], sizes["stem.conv3"]["o"]
    kernel = sizes["stem.conv"]
    return "imagenet" if kernel["h"] == 7 else "cifar", kernel["i"], kernel["o"]  # noqa: PLR2004 (its two sizes)


def _count_layers(sizes: Mapping[str, Mapping[str, int]]) -> tuple[int, ...]:
    """Dense layers per block: the highest number seen in each."""
    counts: dict[int, int] = {}
    for name in sizes:
        if found := re.match(r"block(\d+)\.layer(\d+)\.", name):
            counts[int(found[1])] = max(counts.get(int(found[1]), 0), int(found[2]))
    if not counts or sorted(counts) != list(range(1, len(counts) + 1)):
        raise KeyError("block1.layer1.conv1" if not counts else f"block{min(set(range(1, max(counts))) - set(counts))}")
    return tuple(counts[b] for b in sorted(counts))


def _reduction(transitions: list[Mapping[str, int]]) -> float:
    """The shortest decimal that explains every transition's channels; one block alone has the usual half."""
    most: float = min((1 - t["o"] / t["i"] for t in transitions), default=0.5)
    for guess in (0.5, *(floor(most * 10**digits + 1e-9) / 10**digits for digits in range(9))):
        if 0 <= guess < 1 and all(int(t["i"] * (1.0 - guess)) == t["o"] for t in transitions):
            return float(guess)
    found = ", ".join(f"{t['i']} to {t['o']}" for t in transitions)
    raise MisfitError(f"no single reduction explains the transitions' channels: {found}")


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
                given[key] = float(value)
            elif key == "stem":
                given[key] = value
            elif key in kinds:
                given[key] = None if value == "none" else int(value)
            else:
                raise UsageError(f"unknown number {key!r} in --arch {text} (known: {', '.join(kinds)})")
        except ValueError as error:
            raise UsageError(f"--arch {text}: {key} cannot be {value!r}") from error
    if missing := [key for key in ("layers", "growth_rate", "init_channels") if key not in given]:
        raise UsageError(f"--arch {text} lacks {', '.join(missing)}")
    return Architecture(**given)


def _conv(name: str, size: int, inputs: int, outputs: int) -> Unit:
    return Unit(name, "conv", {"h": size, "w": size, "i": inputs, "o": outputs})


def _norm(name: str, width: int) -> Unit:
    return Unit(name, "norm", {"c": width})


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


@dataclass(frozen=True, kw_only=True)
class Input:
    """What the network expects of a picture: x = (pixel / scale − mean) / std, pixels 0 … 255, channels in `order`."""

    order: Literal["rgb", "bgr", "grey"] = "rgb"
    scale: float = 255.0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What must hold beside the weights for the network to be the same function.

    `epsilon` is what every norm adds to its variance. `stem_padding` is "symmetric" (3 and 1 zeros on every side, the
    original network) or "same" (TensorFlow's rule, which shifts even sizes by three pixels). `stem_pool` is the stem's
    3×3 pool: "max" of stride 2, or "blur", a max of stride 1 and then a binomial 3×3 filter of stride 2 over the map
    and its reflection at the border (timm's blur pool; `stem_padding` has no say in it). `pool_rounding` is how a
    transition pools a map of odd size: "floor" drops the last row and column, "ceil" averages what is there of them
    (Caffe's default). `output` says what the layout's own network puts out; weights are the same for all three.
    """

    epsilon: float = 1e-5
    stem_padding: StemPadding = "symmetric"
    stem_pool: StemPool = "max"
    pool_rounding: Rounding = "floor"
    output: Output = "logits"
    input: Input = field(default_factory=Input)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Contract":
        """The contract that `to_json` wrote. Raises MisfitError for anything else."""
        try:
            picture: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in data["input"].items()
            }
            return cls(**{**data, "input": Input(**picture)})
        except (AttributeError, KeyError, TypeError) as error:
            raise MisfitError(f"unreadable contract: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """The contract as plain JSON values."""
        plain = asdict(self)
        plain["input"] = {
            key: list(value) if isinstance(value, tuple) else value for key, value in plain["input"].items()
        }
        return plain
