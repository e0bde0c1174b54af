"""What a layout recognises in a file: where its network is, which tensor is which, and what is left over.

By name or, where the file keeps no names, by order; before any architecture is known.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase, translate
from functools import lru_cache
from itertools import chain, islice
from typing import NamedTuple, cast

from densenet_port.checkpoint import Checkpoint, Tensor
from densenet_port.errors import MisfitError
from densenet_port.layouts.front import NORMALISES, normaliser
from densenet_port.layouts.heads import HeadLayer, chained, head_layers, head_text, keys_of
from densenet_port.layouts.layout import SPLIT, Kernels, Layout, TensorKey
from densenet_port.layouts.schema import FIRST_CONVS, kind_of, regex
from densenet_port.network.architecture import Architecture, infer, name_in_order
from densenet_port.network.head import USUAL
from densenet_port.network.units import FINAL_NORM, HEAD, Kind, is_head

NUMBER = "a single number"  # the rule by which a loss or a score is left out
ROOT = "."  # the word for what stands before no name
PREPARED = "the preparation of pictures in its own graph"
TWIN = "the same tensor under another name"
FLOATS = ("float16", "bfloat16", "float32", "float64")

AxesByPart = Mapping[tuple[Kind, str], str]


class Match(NamedTuple):
    """A tensor of the file recognised: which one it is, its name, and within that the name of its unit."""

    key: TensorKey
    name: str
    unit_name: str


class Place(NamedTuple):
    """Where a network is in a file: what stands before its names there, in place of what begins them in the layout.

    `root` is `features.` where the file has `encoder.conv0` for the layout's `features.conv0`, and otherwise nothing.
    """

    prefix: str = ""
    root: str = ""

    def spelled(self, name: str) -> str | None:
        """The layout's name for one of the file's; None for what is not there."""
        return self.root + name[len(self.prefix) :] if name.startswith(self.prefix) else None


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
        """How many norms of a body are there, whole or in part; the last one counts though it is missing."""
        norms = {match.key.unit for match in self.matches if kind_of(match.key.unit) == "norm"}
        return len({*(unit for unit in norms if not is_head(unit)), FINAL_NORM})

    @property
    def has_head(self) -> bool:
        """Whether a tensor of the head is there."""
        return any(is_head(match.key.unit) for match in self.matches)


# -- what is recognised ------------------------------------------------------------------------------------------------


def scan(layout: Layout, checkpoint: Checkpoint, kernels: Kernels | None = None) -> Scan:
    """What a layout recognises in a file, by name or, where the file keeps no names, by order.

    `kernels` is the user's word on how kernels are stored. Raises MisfitError when two networks in one file answer,
    or an order that no DenseNet has.
    """
    place = _place(layout, checkpoint)
    matches = _by_name(layout, checkpoint, place)
    matches = matches or _by_order(layout, checkpoint, kernels or _recorded_kernels(checkpoint))
    return scan_of(layout, checkpoint, place, _distinct(matches, checkpoint.tensors), kernels)


def scan_of(
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
    names = sorted(checkpoint.tensors)
    stems = [stem for unit in FIRST_CONVS for stem in layout.units.get(unit, ())]
    ends = {name.format(unit=stem) for stem in stems for name in layout.tensors["conv"]["kernel"].names}
    for root in dict.fromkeys(("", layout.root)):
        prefixes = _prefixes(checkpoint, tuple(end.removeprefix(root) for end in ends))
        several = [Place(prefix, root) for prefix in sorted(prefixes)]
        apart = [place for place in several if not _is_within(layout, prefixes[place.prefix], place, several)]
        networks = [place for place in apart if _has_layers(layout, names, place)]
        if networks or (apart and layout.root):
            return networks or apart
    return []


def _has_layers(layout: Layout, names: Sequence[str], place: Place) -> bool:
    """Whether a dense layer is in a place: `features.conv0` is a stem, `conv1` may be a layer of anything.

    `names` are the file's in alphabetical order, in which those of one place stand together.
    """
    for name in islice(names, bisect_left(names, place.prefix), None):
        if not name.startswith(place.prefix):
            return False
        match = _recognised(layout, name, place)
        if match and match.key.unit.startswith("block"):
            return True
    return False


def _is_within(layout: Layout, name: str, place: Place, places: Sequence[Place]) -> bool:
    """Whether a stem's kernel by its name is another unit's of a network further out: a layer's `1.conv1`, say."""
    outer = [other for other in places if other != place and place.prefix.startswith(other.prefix)]
    known = [layout.recognise(spelled) for other in outer if (spelled := other.spelled(name))]
    return any(key and key[0].unit not in FIRST_CONVS for key in known)


def _prefixes(checkpoint: Checkpoint, ends: tuple[str, ...]) -> dict[str, str]:
    """What stands before names that end so, and the name."""
    prefixes: dict[str, str] = {}
    seen: set[object] = set()
    for name in filter(lambda name: name.endswith(ends), checkpoint.tensors):
        for end in ends:
            if name.endswith(end) and (name == end or name[-len(end) - 1] in SPLIT):
                identity = checkpoint.tensors[name].identity
                if identity is None or identity not in seen:
                    prefixes[name.removesuffix(end)] = name
                    seen.add(identity)
    return prefixes


def _place(layout: Layout, checkpoint: Checkpoint) -> Place:
    """Where the network is. Raises MisfitError when several are in the file."""
    several = places(layout, checkpoint)
    if len(several) > 1:
        listed = ", ".join(repr(place.prefix) for place in several)
        choices = " or ".join(f"--within {place.prefix.rstrip(SPLIT) or ROOT}" for place in several)
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
        matches += [match for match in heads if is_head(match.key.unit)]
    for match in matches:
        if not is_head(match.key.unit) or match.unit_name in layout.units[HEAD]:
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
    """The same, with the layers outside of the body taken for the head, whatever they are called.

    They must be dense layers and norms each of which reads what the one before puts out, and nothing else may be left.
    """
    heads = [match for match in scanned.matches if is_head(match.key.unit)]
    if not scanned.unclaimed and len({match.key for match in heads}) == len(heads):
        return scanned
    within, known = inside(scanned), {match.name for match in heads}
    names = [n for n in scanned.checkpoint.tensors if n in known or (n in scanned.unclaimed and not within(n))]
    layers = chained(_head_layers(scanned, names), last_channels(architecture))
    if layers is None or _goes_on(scanned, heads, layers):
        return scanned
    matches = [match for match in scanned.matches if match not in heads]
    matches += [Match(key, name, layer) for key, (name, layer) in keys_of(layers).items()]
    headed = scan_of(scanned.layout, scanned.checkpoint, scanned.place, matches, kernels)
    return scanned if headed.unclaimed else headed


def _head_layers(scanned: Scan, names: Iterable[str]) -> list[HeadLayer]:
    """The dense layers and norms among tensors."""
    tensors = scanned.checkpoint.tensors
    return head_layers(scanned.layout, {name: tensors[name].shape for name in names})


def _goes_on(scanned: Scan, heads: Sequence[Match], layers: Sequence[HeadLayer]) -> bool:
    """Whether a network with a head of its own stands in another one, which goes on behind its classes.

    What that does with them weights do not tell, and ReLU is not likely.
    """
    prefix = scanned.place.prefix
    own = [match for match in heads if match.name.startswith(prefix)]
    others = [layer for layer in layers if not layer.name.startswith(prefix)]
    return bool(prefix and own and others) and scanned.checkpoint.graph is None


def last_channels(architecture: Architecture) -> int:
    """The channels of the last map."""
    return replace(architecture, classes=1, head=USUAL).units[HEAD].sizes["i"]


def assumed_head(scanned: Scan, architecture: Architecture) -> str | None:
    """The head that the layers recognised as its are taken for, by their sizes; None where they are none."""
    names = [match.name for match in scanned.matches if is_head(match.key.unit)]
    layers = chained(_head_layers(scanned, names), last_channels(architecture))
    return None if layers is None else head_text(layers, last_channels(architecture))


def inside(scanned: Scan) -> Callable[[str], bool]:
    """Whether a name stands within the body: below what the body is called, or in one of its modules.

    Where somebody's own class has the body's modules and its head side by side, the modules alone tell.
    """
    place, root = scanned.place, scanned.layout.root
    start = place.prefix if place.root else place.prefix + root
    units = [match for match in scanned.matches if not is_head(match.key.unit)]
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
    units = _units_in_order(layout, shapes, len(layers["norm"]), len(layers["dense"]), kernels)
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
    layout: Layout, shapes: Sequence[tuple[int, ...]], norm_count: int, dense_count: int, kernels: Kernels | None
) -> dict[Kind, list[str]]:
    """Kind → its units in order of execution, as the shapes of the convolutions' kernels say.

    Norms beyond those of the body are the head's. Raises MisfitError where the file has another number of norms.
    """
    axes, _ = _choose(layout.tensors["conv"]["kernel"].axes, shapes, kernels)
    sizes = [named for shape in shapes if (named := _named_sizes(axes, shape))]
    convs = name_in_order([*sizes])
    body = infer(dict(zip(convs, sizes, strict=True)), norm_count)
    norms = [unit.name for unit in body.units.values() if unit.kind == "norm"]
    dense = [*(f"head.dense{place}" for place in range(1, dense_count)), HEAD]
    if dense_count:
        norms += [f"head.norm{place}" for place in range(1, norm_count - len(norms) + 1)]
    if norm_count != len(norms):
        raise MisfitError(
            f"{norm_count} norms for {len(convs)} convolutions, expected {len(norms)}",
            hint="without layer names the order is all there is, so every layer must be there",
        )
    return {"conv": convs, "norm": norms, "dense": dense}


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
    for name in _normalising(checkpoint, unclaimed):
        ignored[name] = NORMALISES
        del unclaimed[name]
    taken = {tensor.identity for name, tensor in checkpoint.tensors.items() if name not in unclaimed} - {None}
    for name, tensor in list(unclaimed.items()):
        if tensor.identity in taken or _is_score(checkpoint, name, place.prefix):
            ignored[name] = TWIN if tensor.identity in taken else NUMBER
            del unclaimed[name]
    if unclaimed and checkpoint.graph is not None:
        for name in _prepared(checkpoint) & unclaimed.keys():
            ignored[name] = PREPARED
            del unclaimed[name]
    return ignored, unclaimed


def _normalising(checkpoint: Checkpoint, unclaimed: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The tensors of a normalisation that no graph tells of."""
    pair = normaliser(unclaimed)
    if pair is None or (checkpoint.graph is not None and not checkpoint.graph().unknown):
        return ()
    return tuple(pair)


def _prepared(checkpoint: Checkpoint) -> set[str]:
    """The tensors that are numbers in the preparation of the file's own graph."""
    try:
        steps = checkpoint.graph().steps if checkpoint.graph is not None else {}
    except MisfitError:
        return set()
    return {name for step in steps.values() for name in step.held}


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
    of_units, globs, expression = compiled_rules(layout.ignore)
    for rule, before, after in of_units:
        if bare.startswith(before) and bare.endswith(after) and bare[len(before) : len(bare) - len(after)] in units:
            return rule
    return next(rule for rule in globs if fnmatchcase(name, rule)) if expression.match(name) else None


@lru_cache(maxsize=1 << 6)
def compiled_rules(rules: tuple[str, ...]) -> tuple[list[tuple[str, str, str]], list[str], re.Pattern[str]]:
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
