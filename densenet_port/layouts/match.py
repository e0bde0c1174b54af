"""A layout held against a file: what it recognises there, and the ledger that accounts for every tensor.

`scan` finds out what the tensors mean before any architecture is known; `match` compares that with an architecture.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase, translate
from functools import lru_cache
from itertools import chain
from typing import NamedTuple, cast

from densenet_port.checkpoint import Checkpoint, Tensor
from densenet_port.errors import MisfitError
from densenet_port.layouts.layout import SPLIT, Kernels, Layout, TensorKey
from densenet_port.layouts.schema import FIRST_CONVS, generic, kind_of, regex
from densenet_port.network.architecture import Architecture, infer, name_in_order
from densenet_port.network.units import HEAD, Kind, Slot

NUMBER = "a single number"  # the rule by which a loss or a score is left out
NO_TOP = "--no-top"  # the rule of the user's own word
TWIN = "the same tensor under another name"
HEAD_BIAS = TensorKey(HEAD, "bias")
SHOWN = 4  # names in a note
FLOATS = ("float16", "bfloat16", "float32", "float64")

AxesByPart = Mapping[tuple[Kind, str], str]


class Match(NamedTuple):
    """A tensor of the file recognised: which one it is, its name, and within that the name of its unit."""

    key: TensorKey
    name: str
    unit_name: str


class Claim(NamedTuple):
    """One of the layout's tensors, and the tensor of the file that it is, with its axes in which order."""

    key: TensorKey
    name: str
    unit_name: str
    axes: str
    tensor: Tensor

    @property
    def holder(self) -> str:
        """What the names of its unit's tensors begin with in the file."""
        return self.name[: self.name.rfind(self.unit_name) + len(self.unit_name)]


class Place(NamedTuple):
    """Where a network is in a file: what stands before its names there, in place of what begins them in the layout.

    `root` is `features.` where the file has `encoder.conv0` for the layout's `features.conv0`, and otherwise nothing.
    """

    prefix: str = ""
    root: str = ""

    def spelled(self, name: str) -> str | None:
        """The layout's name for one of the file's; None for what is not there."""
        return self.root + name[len(self.prefix) :] if name.startswith(self.prefix) else None


class WrongShape(NamedTuple):
    """A tensor whose sizes are not those of its place: axis name → length, expected and actual."""

    key: TensorKey
    name: str
    expected: str
    actual: str


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a layout recognises in a file, before any architecture is known.

    `ignored` are the tensors left out, each with the rule that allows it, and `unclaimed` those that nothing in the
    table names. `kernel_sizes` gives for each unit the length of each axis of its kernel. `axes` are the orders that
    the file's tensors have; `kernels_assumed` says that nothing in the file tells the direction of its kernels.
    """

    layout: Layout
    checkpoint: Checkpoint
    place: Place
    matches: tuple[Match, ...]
    ignored: Mapping[str, str]
    unclaimed: Mapping[str, Tensor]
    kernel_sizes: Mapping[str, Mapping[str, int]]
    axes: AxesByPart
    kernels_assumed: bool

    @property
    def norm_count(self) -> int:
        """How many norms are there, whole or in part."""
        return len({match.key.unit for match in self.matches if kind_of(match.key.unit) == "norm"})

    @property
    def has_head(self) -> bool:
        """Whether a tensor of the head is there."""
        return any(match.key.unit == HEAD for match in self.matches)


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Where each tensor went, counted on both sides.

    `claims` are the layout's tensors that the file has, in order of execution, and behind them what it need not have;
    `ignored` the file's that are left out, each with the rule that allows it; `blank` are tensors that the file does
    not have and that are zeros then. The rest is what stands in the way: `missing` tensors of the layout (with the
    name expected), `unclaimed` ones of the file, `ambiguous` ones that several of the file's could be, and wrong
    shapes. `kernels` says how convolution kernels were taken where the layout has both ways, and `kernels_assumed`
    that nothing in the file tells it. `place` is where the network is in the file, `notes` are what its owner should
    know of this.
    """

    layout: Layout
    architecture: Architecture
    place: Place
    claims: Mapping[TensorKey, Claim]
    ignored: Mapping[str, str]
    missing: Mapping[TensorKey, str]
    unclaimed: Mapping[str, Tensor]
    ambiguous: Mapping[TensorKey, tuple[str, ...]]
    wrong_shapes: tuple[WrongShape, ...]
    kernels: Kernels | None
    kernels_assumed: bool
    blank: frozenset[TensorKey] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """What stands before every name of the body in the file."""
        return self.place.prefix

    @property
    def fold(self) -> str | None:
        """What several tensors of the file were made into one by; None where each is one of ours."""
        return self.layout.fold or ("bias" if self.biases else None)

    @property
    def problems(self) -> int:
        """How many tensors stand in the way; 0 when everything is accounted for."""
        return len(self.missing) + len(self.unclaimed) + len(self.ambiguous) + len(self.wrong_shapes)

    @property
    def fit_count(self) -> int:
        """How many of the layout's tensors are exactly one of the file's, of the right shape."""
        fitting = self.claims.keys() - self.ambiguous.keys() - {wrong.key for wrong in self.wrong_shapes}
        return len(self.layout.keys(self.architecture).keys() & fitting)

    @property
    def filled(self) -> tuple[Slot, ...]:
        """The slots all of whose parts are there, or are zeros."""
        present = self.claims.keys() | self.blank
        return tuple(
            slot
            for slot in self.architecture.slots
            if all(TensorKey(slot.unit, part) in present for part in self.layout.parts(slot))
        )

    @property
    def biases(self) -> dict[str, Claim]:
        """Convolution → its bias, which a DenseNet of ours does not have: the norms behind it take it up."""
        return {key.unit: claim for key, claim in self.claims.items() if _is_optional(self.layout, key)}

    def unit_name(self, unit: str) -> str | None:
        """A unit's name in this file, without the prefix; None where the file has no such unit."""
        return next((claim.unit_name for claim in self.claims.values() if claim.key.unit == unit), None)

    def holder(self, unit: str) -> str | None:
        """What the names of a unit's tensors begin with in this file; None where the file has no such unit."""
        return next((claim.holder for claim in self.claims.values() if claim.key.unit == unit), None)


# -- what is recognised ------------------------------------------------------------------------------------------------


def scan(layout: Layout, checkpoint: Checkpoint, kernels: Kernels | None = None) -> Scan:
    """What a layout recognises in a file, by name or, where the file keeps no names, by order.

    `kernels` is the user's word on how kernels are stored. Raises MisfitError when two networks in one file answer,
    or an order that no DenseNet has.
    """
    place = _place(layout, checkpoint)
    matches = _by_name(layout, checkpoint, place)
    matches = matches or _by_order(layout, checkpoint, kernels or _recorded_kernels(checkpoint))
    return _scan_of(layout, checkpoint, place, _distinct(matches, checkpoint.tensors), kernels)


def _scan_of(
    layout: Layout, checkpoint: Checkpoint, place: Place, matches: Sequence[Match], kernels: Kernels | None
) -> Scan:
    """What follows from the tensors that are recognised."""
    axes, assumed = _axes(layout, checkpoint, matches, kernels or _recorded_kernels(checkpoint))
    ignored, unclaimed = _left_over(layout, checkpoint, matches, place)
    return Scan(
        layout=layout,
        checkpoint=checkpoint,
        place=place,
        matches=tuple(matches),
        ignored=ignored,
        unclaimed=unclaimed,
        kernel_sizes=_kernel_sizes(checkpoint, matches, axes),
        axes=axes,
        kernels_assumed=assumed,
    )


def _recorded_kernels(checkpoint: Checkpoint) -> Kernels | None:
    """How the file itself records that its kernels are stored."""
    kernels = (checkpoint.record or {}).get("kernels") or checkpoint.metadata.get("kernels")
    return cast("Kernels", kernels) if kernels in ("theano", "tensorflow") else None


def places(layout: Layout, checkpoint: Checkpoint) -> list[Place]:
    """Where a layout's networks are in a file: behind `module.`, `state_dict.model.` or nothing.

    The stem's first kernel tells. Where none has the layout's name, one without what begins all names of the body will
    do: a user's own class may call it otherwise. A kernel that stands there under two names is one.
    """
    stems = [stem for unit in FIRST_CONVS for stem in layout.units.get(unit, ())]
    ends = {name.format(unit=stem) for stem in stems for name in layout.tensors["conv"]["kernel"].names}
    for root in dict.fromkeys(("", layout.root)):
        prefixes = _prefixes(checkpoint, tuple(end.removeprefix(root) for end in ends))
        if prefixes:
            return [Place(prefix, root) for prefix in sorted(prefixes)]
    return []


def _prefixes(checkpoint: Checkpoint, ends: tuple[str, ...]) -> list[str]:
    """What stands before names that end so."""
    prefixes: dict[str, object] = {}
    for name in filter(lambda name: name.endswith(ends), checkpoint.tensors):
        for end in ends:
            if name.endswith(end) and (name == end or name[-len(end) - 1] in SPLIT):
                identity = checkpoint.tensors[name].identity
                if identity is None or identity not in prefixes.values():
                    prefixes[name.removesuffix(end)] = identity
    return [*prefixes]


def _place(layout: Layout, checkpoint: Checkpoint) -> Place:
    """Where the network is. Raises MisfitError when several are in the file."""
    several = places(layout, checkpoint)
    if len(several) > 1:
        listed = ", ".join(repr(place.prefix) for place in several)
        choices = " or ".join(f"--within {place.prefix.rstrip(SPLIT)}" for place in several if place.prefix)
        raise MisfitError(
            f"{len(several)} networks in one file, under {listed}",
            hint=f"say which one to take: {choices}",
        )
    return several[0] if several else Place()


def below(checkpoint: Checkpoint, within: str) -> Checkpoint:
    """The checkpoint with only the tensors below a name."""
    starts = tuple(within.rstrip(SPLIT) + sign for sign in SPLIT)
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name.startswith(starts)}
    return replace(checkpoint, tensors=tensors)


def _by_name(layout: Layout, checkpoint: Checkpoint, place: Place) -> list[Match]:
    """Every tensor whose name a line of the table has."""
    matches = [match for name in checkpoint.tensors if (match := _recognised(layout, name, place))]
    outside = re.sub(r"[^./]*[./]$", "", place.prefix)
    if outside != place.prefix:  # a network within another may have its head there
        others = [name for name in checkpoint.tensors if not name.startswith(place.prefix)]
        heads = [match for name in others if (match := _recognised(layout, name, Place(outside)))]
        matches += [match for match in heads if match.key.unit == HEAD]
    for match in matches:
        if match.key.unit != HEAD or match.unit_name in layout.units[HEAD]:
            return matches
    return []  # a head with a number for its name is nobody's without a network


def _recognised(layout: Layout, name: str, place: Place) -> Match | None:
    """What a tensor's name means in a place; None where the table has no such name."""
    spelled = place.spelled(name)
    known = layout.recognise(spelled) if spelled else None
    return Match(known[0], name, known[1].removeprefix(place.root)) if known else None


def _distinct(matches: Sequence[Match], tensors: Mapping[str, Tensor]) -> list[Match]:
    """The matches without those whose tensor is there under another name for the same."""
    seen: set[tuple[TensorKey, object]] = set()
    distinct = []
    for match in matches:
        identity = tensors[match.name].identity
        if identity is None or (match.key, identity) not in seen:
            distinct.append(match)
        seen.add((match.key, identity))
    return distinct


def with_head(scanned: Scan, architecture: Architecture, kernels: Kernels | None) -> Scan:
    """The same, with the one layer that is left over taken for the head, whatever it is called.

    It must be a dense layer that reads the channels of the last map, and nothing else may be left.
    """
    layout, checkpoint = scanned.layout, scanned.checkpoint
    unit = _dense_layer(scanned) if scanned.unclaimed and not scanned.has_head else None
    if unit is None:
        return scanned
    heads = [
        Match(TensorKey(HEAD, part), name, unit)
        for part, pattern in layout.tensors["dense"].items()
        for name in (form.format(unit=unit) for form in pattern.names)
        if name in scanned.unclaimed
    ]
    headed = _scan_of(layout, checkpoint, scanned.place, [*scanned.matches, *heads], kernels)
    channels = [one.sizes["c"] for one in architecture.units.values() if one.kind == "norm"][-1]
    return headed if not headed.unclaimed and headed.kernel_sizes.get(HEAD, {}).get("i") == channels else scanned


def _dense_layer(scanned: Scan) -> str | None:
    """The name of the layer whose kernel is the only one among what is left over outside of the body."""
    inside = _inside(scanned)
    layers = [
        name[len(before) : len(name) - len(after)]
        for before, _, after in (form.partition("{unit}") for form in scanned.layout.tensors["dense"]["kernel"].names)
        for name in scanned.unclaimed
        if name.startswith(before) and name.endswith(after) and not inside(name)
    ]
    return layers[0] if len(layers) == 1 else None


def _inside(scanned: Scan) -> Callable[[str], bool]:
    """Whether a name stands within the body: below what the body is called, or in one of its modules.

    Where somebody's own class has the body's modules and its head side by side, the modules alone tell.
    """
    place, root = scanned.place, scanned.layout.root
    start = place.prefix if place.root else place.prefix + root
    units = [match for match in scanned.matches if match.key.unit != HEAD]
    modules = {_first(match.name[len(start) :]) for match in units}
    others = [name for name in scanned.checkpoint.tensors if name not in scanned.ignored]
    apart = bool(root and start) and not (place.root and all(name.startswith(start) for name in others))
    return lambda name: name.startswith(start) and (apart or _first(name[len(start) :]) in modules)


def _first(name: str) -> str:
    """What a name begins with, up to a dot or a slash."""
    return re.split(f"[{SPLIT}]", name, maxsplit=1)[0]


def _by_order(layout: Layout, checkpoint: Checkpoint, kernels: Kernels | None) -> list[Match]:
    """Every tensor that the running numbers place: the k-th of a kind is the k-th unit of that kind."""
    if layout.running_containers and checkpoint.container not in layout.running_containers:
        return []
    layers = {kind: _running_layers(layout, checkpoint, kind) for kind in layout.running_names}
    convs = layers.get("conv", {}).values()
    shapes = [checkpoint.tensors[parts["kernel"]].shape for parts in convs if "kernel" in parts]
    if not shapes or not layout.unnumbered.issubset(chain(*layers.values())):
        return []
    units = _units_in_order(layout, shapes, len(layers["norm"]), kernels)
    return [
        Match(TensorKey(unit, part), name, layer)
        for kind, parts_of in layers.items()
        for unit, (layer, parts) in zip(units[kind], parts_of.items(), strict=False)
        for part, name in parts.items()
    ]


def _running_layers(layout: Layout, checkpoint: Checkpoint, kind: Kind) -> dict[str, dict[str, str]]:
    """Layers of a kind in the order of their running numbers: layer → part → tensor's name."""
    expressions = [regex(pattern) for pattern in layout.running_names[kind]]
    layers: dict[tuple[int, str], dict[str, str]] = {}
    for part, pattern in layout.patterns(kind):
        for ending in (name.removeprefix("{unit}") for name in pattern.names):
            for name in checkpoint.tensors:
                if name.endswith(ending) and (hit := _first_hit(expressions, name.removesuffix(ending))):
                    number = -1 if hit[0] in layout.unnumbered else int(hit["order"] or 0)
                    layers.setdefault((number, hit[0]), {})[part] = name
    return {layer: layers[number, layer] for number, layer in sorted(layers)}


def _first_hit(expressions: Iterable[re.Pattern[str]], text: str) -> re.Match[str] | None:
    """The match of the first expression that matches the whole text."""
    return next((hit for expression in expressions if (hit := expression.fullmatch(text))), None)


def _units_in_order(
    layout: Layout, shapes: Sequence[tuple[int, ...]], norm_count: int, kernels: Kernels | None
) -> dict[Kind, list[str]]:
    """Kind → its units in order of execution, as the shapes of the convolutions' kernels say.

    Raises MisfitError where the file has another number of norms.
    """
    axes, _ = _choose(layout.tensors["conv"]["kernel"].axes, shapes, kernels)
    sizes = [named for shape in shapes if (named := _named_sizes(axes, shape))]
    convs = name_in_order([*sizes])
    body = infer(dict(zip(convs, sizes, strict=True)), norm_count)
    norms = [unit.name for unit in body.units.values() if unit.kind == "norm"]
    if norm_count != len(norms):
        raise MisfitError(
            f"{norm_count} norms for {len(convs)} convolutions, expected {len(norms)}",
            hint="without layer names the order is all there is, so every layer must be there",
        )
    return {"conv": convs, "norm": norms, "dense": [HEAD]}


# -- what is left over -------------------------------------------------------------------------------------------------


def _left_over(
    layout: Layout, checkpoint: Checkpoint, matches: Sequence[Match], place: Place
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What is not recognised: tensor → the rule that lets it be ignored, and the tensors that none does."""
    ignored: dict[str, str] = {}
    unclaimed = dict(checkpoint.tensors)
    if not matches:
        return ignored, unclaimed
    for match in matches:
        unclaimed.pop(match.name, None)
    units = {match.unit_name for match in matches}
    for name in list(unclaimed):
        if rule := _ignoring_rule(layout, name, place.prefix, units):
            ignored[name] = rule
            del unclaimed[name]
    taken = {tensor.identity for name, tensor in checkpoint.tensors.items() if name not in unclaimed} - {None}
    for name, tensor in list(unclaimed.items()):
        if tensor.identity in taken or _is_score(checkpoint, name, place.prefix):
            ignored[name] = TWIN if tensor.identity in taken else NUMBER
            del unclaimed[name]
    return ignored, unclaimed


def _is_score(checkpoint: Checkpoint, name: str, prefix: str) -> bool:
    """Whether a tensor is a number that a training keeps: a loss, a score, a count.

    One that a module of the network holds, or of a model around it, may be a part of what is computed.
    """
    tensor = checkpoint.tensors[name]
    if tensor.shape not in ((), (1,)):
        return False
    if tensor.dtype not in FLOATS:
        return True
    if not prefix:
        return not any(sign in name for sign in SPLIT)
    holder = re.sub(r"[./]?[^./]*$", "", name)
    return not name.startswith(prefix) and holder not in checkpoint.metadata.get("modules", ())


def _ignoring_rule(layout: Layout, name: str, prefix: str, units: set[str]) -> str | None:
    """The rule that lets a tensor be left out, or None; `units` are the names that the file's units have."""
    bare = name.removeprefix(prefix)
    of_units, globs, expression = _rules(layout.ignore)
    for rule, before, after in of_units:
        if bare.startswith(before) and bare.endswith(after) and bare[len(before) : len(bare) - len(after)] in units:
            return rule
    return next(rule for rule in globs if fnmatchcase(name, rule)) if expression.match(name) else None


@lru_cache(maxsize=1 << 6)
def _rules(rules: tuple[str, ...]) -> tuple[list[tuple[str, str, str]], list[str], re.Pattern[str]]:
    """The rules of units, with what stands before and after; the others, and one expression for all of these.

    Most names match none.
    """
    of_units = [(rule, rule.partition("{unit}")[0], rule.partition("{unit}")[2]) for rule in rules if "{unit}" in rule]
    globs = [rule for rule in rules if "{unit}" not in rule]
    return of_units, globs, re.compile("|".join(map(translate, globs)) or "(?!)")


# -- axes and sizes ----------------------------------------------------------------------------------------------------


def _axes(
    layout: Layout, checkpoint: Checkpoint, matches: Iterable[Match], kernels: Kernels | None
) -> tuple[AxesByPart, bool]:
    """The orders that the recognised tensors have, and whether one was taken that nothing in the file tells."""
    shapes: dict[tuple[Kind, str], list[tuple[int, ...]]] = {}
    for match in matches:
        key = kind_of(match.key.unit), match.key.part
        shapes.setdefault(key, []).append(checkpoint.tensors[match.name].shape)
    axes: dict[tuple[Kind, str], str] = {}
    assumed = False
    for kind in layout.tensors:
        for part, pattern in layout.patterns(kind):
            axes[kind, part], unsure = _choose(pattern.axes, shapes.get((kind, part), []), kernels)
            assumed |= unsure and (kind, part) in shapes
    return axes, assumed


def _choose(
    alternatives: tuple[str, ...], shapes: Sequence[tuple[int, ...]], kernels: Kernels | None
) -> tuple[str, bool]:
    """The first order of axes that all shapes fit, and whether its direction is assumed.

    Sizes tell the order, never the direction: that is for `kernels` to say.
    """
    if len(alternatives) == 1:
        return alternatives[0], False
    fitting = [axes for axes in alternatives if all(_can_be(shape, axes) for shape in shapes)] or [alternatives[0]]
    alike = [axes for axes in fitting if axes.replace("-", "") == fitting[0].replace("-", "")]
    if kernels is None:
        return alike[0], len({"-" in axes for axes in alike}) > 1
    for axes in alike:
        if ("-" in axes) == (kernels == "theano"):
            return axes, False
    return alike[0], False


def _can_be(shape: tuple[int, ...], axes: str) -> bool:
    """Whether a shape can have these axes: as many, `1` of length one, kernels as high as wide."""
    sizes = _named_sizes(axes, shape)
    return bool(sizes) and sizes.get("1", 1) == 1 and sizes.get("h") == sizes.get("w")


def _kernel_sizes(checkpoint: Checkpoint, matches: Iterable[Match], axes: AxesByPart) -> dict[str, dict[str, int]]:
    """Unit → axis → length, for every kernel recognised that has as many axes as it should.

    Raises MisfitError where no convolution's has: a network of volumes or of sequences.
    """
    sizes: dict[str, dict[str, int]] = {}
    others: list[str] = []
    for match in matches:
        if match.key.part == "kernel":
            kind, shape = kind_of(match.key.unit), checkpoint.tensors[match.name].shape
            if named := _named_sizes(axes[kind, "kernel"], shape):
                sizes.setdefault(match.key.unit, named)
            elif kind == "conv":
                others.append(f"{match.name} has {len(shape)} axes {shape}, expected 4 ({axes[kind, 'kernel']})")
    if others and not any(kind_of(unit) == "conv" for unit in sizes):
        raise MisfitError(f"{others[0]}: not a network of pictures, which have two spatial dimensions")
    return sizes


def _named_sizes(axes: str, shape: tuple[int, ...]) -> dict[str, int]:
    """Axis → length, the largest of those called `1`; nothing when the number of axes is another."""
    names = axes.replace("-", "").split()
    if len(names) != len(shape):
        return {}
    ones = [length for name, length in zip(names, shape, strict=True) if name == "1"]
    return dict(zip(names, shape, strict=True)) | ({"1": max(ones)} if ones else {})


# -- the ledger --------------------------------------------------------------------------------------------------------


def fitted(architecture: Architecture, scanned: Scan) -> Architecture:
    """The architecture with the classes and input channels that the file's own shapes say."""
    sizes = scanned.kernel_sizes
    stem = next((sizes[unit] for unit in FIRST_CONVS if unit in sizes), None)
    channels = stem["i"] if stem else architecture.channels
    classes = architecture.classes if scanned.has_head else None
    if HEAD in sizes:
        classes = sizes[HEAD]["o"]
    if (classes, channels) == (architecture.classes, architecture.channels):
        return architecture  # with what has been worked out from it
    return replace(architecture, classes=classes, channels=channels)


def match(scanned: Scan, architecture: Architecture) -> Ledger:
    """The ledger of a file against an architecture; nothing is refused here, see `Ledger.problems`.

    Where the file has no head or another number of classes or input channels than `architecture`, it is for the
    caller to say so beforehand (`fitted`).
    """
    layout, tensors = scanned.layout, scanned.checkpoint.tensors
    keys = layout.keys(architecture)
    choices: dict[TensorKey, list[Match]] = {}
    unclaimed = dict(scanned.unclaimed)
    for candidate in scanned.matches:
        if candidate.key in keys or (_is_optional(layout, candidate.key) and candidate.key.unit in architecture.units):
            choices.setdefault(candidate.key, []).append(candidate)
        else:
            unclaimed[candidate.name] = tensors[candidate.name]
    claims: dict[TensorKey, Claim] = {}
    for key in dict.fromkeys([*keys, *choices]):
        if key in choices:
            first = choices[key][0]
            claims[key] = Claim(*first, axes=scanned.axes[kind_of(key.unit), key.part], tensor=tensors[first.name])
    missing = _missing(scanned, architecture, claims) if keys.keys() - claims.keys() else {}
    blank = _blank(missing, claims)
    return Ledger(
        layout=layout,
        architecture=architecture,
        place=scanned.place,
        claims=claims,
        ignored=scanned.ignored,
        missing={key: name for key, name in missing.items() if key not in blank},
        unclaimed=unclaimed,
        ambiguous=_ambiguous(choices),
        wrong_shapes=tuple(_wrong_shapes(claims.values(), architecture)),
        kernels=_kernels(scanned),
        kernels_assumed=scanned.kernels_assumed,
        blank=blank,
        notes=tuple(_notes(scanned, claims, blank)),
    )


def body(scanned: Scan, architecture: Architecture) -> Ledger:
    """The ledger of the body alone: what stands outside of it is left out, whatever it is."""
    ledger, inside = match(scanned, architecture.without_head()), _inside(scanned)
    within = {name: one for name, one in ledger.unclaimed.items() if inside(name)}
    left = ledger.unclaimed.keys() - within.keys()
    outside = {name: NO_TOP for name in scanned.checkpoint.tensors if name in left}
    holders = [*dict.fromkeys(re.sub(r"(?<=.)[./#][^./#]*$", "", name) for name in outside)]
    heads = {match.name for match in scanned.matches if match.key.unit == HEAD}
    note = f"{NO_TOP} leaves out what is no part of the body: {_some(holders)}"
    return replace(
        ledger,
        unclaimed=within,
        ignored={**ledger.ignored, **outside},
        notes=ledger.notes if heads >= outside.keys() and len(holders) < 2 else (*ledger.notes, note),
    )


def _is_optional(layout: Layout, key: TensorKey) -> bool:
    """Whether a network need not have a tensor."""
    return key.part in layout.optional[kind_of(key.unit)]


def _blank(missing: Mapping[TensorKey, str], claims: Mapping[TensorKey, Claim]) -> frozenset[TensorKey]:
    """The bias of a head that has none: zeros do the same."""
    return frozenset(key for key in missing if key == HEAD_BIAS and TensorKey(HEAD, "kernel") in claims)


def _notes(scanned: Scan, claims: Mapping[TensorKey, Claim], blank: Collection[TensorKey]) -> Iterator[str]:
    """What a file's owner should know of the ledger."""
    head = next((claim.unit_name for key, claim in claims.items() if key.unit == HEAD), None)
    if head and scanned.layout.units and not scanned.layout.names_head(head):
        yield f"{head} is taken for the head: it is the only layer left over, and reads the channels of the last map"
    if blank:
        yield f"the head ({head}) has no bias: it gets one of zeros, which does the same"
    if biased := [claim.name for key, claim in claims.items() if _is_optional(scanned.layout, key)]:
        yield f"the means of the norms behind take up the biases of convolutions: {_some(biased)}"
    numbers = [name for name, rule in scanned.ignored.items() if rule == NUMBER]
    if shown := [name for name in numbers if scanned.checkpoint.tensors[name].dtype in FLOATS]:
        yield f"single numbers beside the network are left out, as a training's own: {_some(shown)}"


def _some(names: Sequence[str]) -> str:
    """The first few of a list, and how many more there are."""
    shown = ", ".join(names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def _kernels(scanned: Scan) -> Kernels | None:
    """How convolution kernels were taken, where the layout has both ways."""
    if len({"-" in axes for axes in scanned.layout.tensors["conv"]["kernel"].axes}) == 1:
        return None
    return "theano" if "-" in scanned.axes["conv", "kernel"] else "tensorflow"


def _missing(scanned: Scan, architecture: Architecture, claims: Mapping[TensorKey, Claim]) -> dict[TensorKey, str]:
    """The tensors that the file lacks, with the names under which they would have been match."""
    layout, spellings = scanned.layout, {match.key.unit: match.unit_name for match in scanned.matches}
    missing: dict[TensorKey, str] = {}
    for unit in architecture.units.values():
        if unit.name in spellings:
            layer = spellings[unit.name]
        elif generic(unit.name)[0] in layout.units:
            layer = layout.spell_unit(unit, architecture)
        else:
            layer = unit.name
        for part, name in layout.tensor_names(unit.kind, layer.removeprefix(scanned.place.root)).items():
            if TensorKey(unit.name, part) not in claims:
                missing[TensorKey(unit.name, part)] = scanned.place.prefix + name
    return missing


def _ambiguous(choices: Mapping[TensorKey, list[Match]]) -> dict[TensorKey, tuple[str, ...]]:
    """Tensors that several of the file's could be, and those of a unit that the file spells in two ways."""
    spellings: dict[str, set[str]] = {}
    for key, matches in choices.items():
        spellings.setdefault(key.unit, set()).update(match.unit_name for match in matches)
    return {
        key: tuple(match.name for match in matches)
        for key, matches in choices.items()
        if len(matches) > 1 or len(spellings[key.unit]) > 1
    }


def _wrong_shapes(claims: Iterable[Claim], architecture: Architecture) -> Iterator[WrongShape]:
    """The claims whose sizes are not those of their units."""
    units = architecture.units
    for claim in claims:
        unit = units[claim.key.unit]
        axes = [axis.removeprefix("-") for axis in claim.axes.split()]
        expected = tuple(1 if axis == "1" else unit.sizes[axis] for axis in axes)
        if claim.tensor.shape != expected:
            yield WrongShape(claim.key, claim.name, _shown(axes, expected), _shown(axes, claim.tensor.shape))


def _shown(axes: list[str], shape: tuple[int, ...]) -> str:
    """`o=64 i=3 h=7 w=7`; the bare shape when the number of axes is another."""
    if len(axes) != len(shape):
        return f"shape {shape}"
    return " ".join(f"{axis}={length}" for axis, length in zip(axes, shape, strict=True))
