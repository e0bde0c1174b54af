"""A layout held against a file and an architecture: the ledger that accounts for every tensor."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import isqrt
from typing import Any, NamedTuple

from densenet_port.checkpoint import Tensor
from densenet_port.errors import MisfitError, UsageError
from densenet_port.layouts.front import NORMALISES, normalised
from densenet_port.layouts.heads import BARE, OLD_FIRST, assumed_of
from densenet_port.layouts.layout import SPLIT, Kernels, Layout, TensorKey
from densenet_port.layouts.scan import FLOATS, NUMBER, Match, Place, Scan, assumed_head, inside, last_channels
from densenet_port.layouts.schema import FIRST_CONVS, generic, kind_of, regex
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract, unit_note
from densenet_port.network.graph import graph
from densenet_port.network.head import USUAL
from densenet_port.network.units import FINAL_NORM, HEAD, ROLES, Slot, is_head, listed

HEAD_BIAS = TensorKey(HEAD, "bias")
NO_TOP = "--no-top"  # the rule of the user's own word
SHOWN = 4  # names in a note
FOLDED = "norms folded into the convolutions before them, which have biases"


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
        end = self.name.rfind(self.unit_name) + len(self.unit_name)
        rest = re.match(f"(.*)[{SPLIT}]", self.name[end:])  # `conv1_bn/gamma` may be of the unit conv1
        return self.name[:end] + (rest[1] if rest else "")


class WrongShape(NamedTuple):
    """A tensor whose sizes are not those of its place: axis name → length, expected and actual."""

    key: TensorKey
    name: str
    expected: str
    actual: str


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Where each tensor went, counted on both sides.

    `claims` are the layout's tensors that the file has, in order of execution, and behind them what it need not have;
    `ignored` the file's that are left out, each with the rule that allows it; `blank` are tensors that the file does
    not have and that are zeros then; `folded` norms that it does not have either, because the convolutions before them
    do what they did. The rest is what stands in the way: `missing` tensors of the layout (with the
    name expected), `unclaimed` ones of the file, `ambiguous` ones that several of the file's could be, and wrong
    shapes. `kernels` says how convolution kernels were taken where the layout has both ways, and `kernels_assumed`
    that nothing in the file tells it. `place` is where the network is in the file, `notes` are what its owner should
    know of this, and `assumed` in words what of the network nothing in the file tells. `epsilons` are those of norms
    that have another than the network's.
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
    assumed: tuple[str, ...] = ()
    epsilons: Mapping[str, float] = field(default_factory=dict)
    folded: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """What stands before every name of the body in the file."""
        return self.place.prefix

    @property
    def fold(self) -> str | None:
        """What several tensors of the file were made into one by; None where each is one of ours."""
        return self.layout.fold or ("bias" if self.biases else "epsilon" if self.epsilons else None)

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
        """The slots all of whose parts are there, or are known without."""
        present = self.claims.keys() | self.blank
        return tuple(
            slot
            for slot in self.architecture.slots
            if slot.unit in self.folded
            or all(TensorKey(slot.unit, part) in present for part in self.layout.parts(slot))
        )

    @property
    def biases(self) -> dict[str, Claim]:
        """Convolution → its bias, which a DenseNet of ours does not have: the norms behind it take it up."""
        return {key.unit: claim for key, claim in self.claims.items() if _is_optional(self.layout, key)}

    def unit_name(self, unit: str) -> str | None:
        """A unit's name in this file, without the prefix; None where the file has no such unit."""
        return next((claim.unit_name for claim in self.claims.values() if claim.key.unit == unit), None)

    @property
    def holders(self) -> dict[str, str]:
        """Unit → what the names of its tensors begin with in the file; under `<unit>:scale` a Scale's behind a norm."""
        holders: dict[str, str] = {}
        for key, claim in self.claims.items():
            holders.setdefault(f"{key.unit}:scale" if key.part == "second_scale" else key.unit, claim.holder)
        return holders

    def holder(self, unit: str) -> str | None:
        """What the names of a unit's tensors begin with in this file; None where the file has no such unit."""
        return next((claim.holder for claim in self.claims.values() if claim.key.unit == unit), None)


def fitted(architecture: Architecture, scanned: Scan) -> Architecture:
    """The architecture with the classes, input channels and head that the file's own shapes or its record say."""
    sizes = scanned.kernel_sizes
    stem = next((sizes[unit] for unit in FIRST_CONVS if unit in sizes), None)
    channels = stem["i"] if stem else architecture.channels
    classes = architecture.classes if scanned.has_head else None
    if HEAD in sizes:
        classes = sizes[HEAD]["o"]
    head = head_text(scanned, architecture) if classes else USUAL
    final_norm = architecture.final_norm and bool(_recorded(scanned).get("final_norm", True))
    if not any(match.key.unit == FINAL_NORM for match in scanned.matches):  # a graph will tell whether there is none
        is_told = scanned.layout.general or scanned.layout.only.get("final_norm") == (False,)
        final_norm &= not is_told and scanned.checkpoint.graph is None
    changed = replace(architecture, classes=classes, channels=channels, head=head, final_norm=final_norm)
    return architecture if changed == architecture else changed  # which has what has been worked out from it


def _recorded(scanned: Scan) -> Mapping[str, Any]:
    """The architecture that the file's own graph has, or that it records of itself; nothing where neither tells."""
    checkpoint = scanned.checkpoint
    numbers: Mapping[str, Any] = checkpoint.metadata.get("architecture") or (checkpoint.record or {}).get(
        "architecture", {}
    )
    return numbers


def head_text(scanned: Scan, architecture: Architecture) -> str:
    """The one of the layout's heads that the kernels' sizes fit; the usual one where none does.

    A `*` of a head stands for a size: the outputs of a dense layer, or the side of a flattened map.
    """
    sizes = scanned.kernel_sizes
    if HEAD not in sizes:
        return architecture.head
    recorded = _recorded(scanned).get("head", USUAL)
    own = scanned.layout.only.get("head", ()) if _names_head(scanned) else ()
    forms = [recorded, *own, architecture.head, USUAL]
    assumed = assumed_head(scanned, architecture)
    texts = [_filled(form, sizes, last_channels(architecture)) for form in dict.fromkeys(forms)]
    fitting = [text for text in [*texts, *([assumed] if assumed else [])] if _has_dense(architecture, text, sizes)]
    units = {match.key.unit for match in scanned.matches if is_head(match.key.unit)}
    whole = (text for text in fitting if {*filter(is_head, replace(architecture, classes=1, head=text).units)} == units)
    return next(whole, fitting[0] if fitting else USUAL)


def _names_head(scanned: Scan) -> bool:
    """Whether every layer of the head has a name that the table has for it, and so is of the table's own head."""
    layout = scanned.layout
    heads = [match for match in scanned.matches if is_head(match.key.unit)]
    patterns = [layout.units.get(match.key.unit, layout.units.get(generic(match.key.unit)[0], ())) for match in heads]
    return not layout.units or all(
        any(regex(pattern).fullmatch(match.unit_name) for pattern in names)
        for match, names in zip(heads, patterns, strict=True)
    )


def _has_dense(architecture: Architecture, text: str, sizes: Mapping[str, Mapping[str, int]]) -> bool:
    """Whether the dense layers of a head have these sizes."""
    try:
        units = replace(architecture, classes=sizes[HEAD]["o"], head=text).units
    except UsageError:  # a form of anything, or a size that the file does not have
        return False
    dense = {name: (unit.sizes["i"], unit.sizes["o"]) for name, unit in units.items() if unit.kind == "dense"}
    return dense == {name: (axes["i"], axes["o"]) for name, axes in sizes.items() if kind_of(name) == "dense"}


def _filled(form: str, sizes: Mapping[str, Mapping[str, int]], channels: int) -> str:
    """A head with its sizes in place of every `*`; `channels` are those of the last map."""
    outputs = (axes["o"] for name, axes in sizes.items() if kind_of(name) == "dense" and name != HEAD)
    first = next(axes["i"] for name, axes in sizes.items() if kind_of(name) == "dense")
    while "*" in form:
        size = isqrt(first // channels) if "flatten:*" in form else next(outputs, 0)
        form = form.replace("*", str(size), 1)
    return form


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
    blank, folded = _blank(missing, claims), _folded(layout, architecture, missing, claims)
    known = {key for key in missing if key in blank or key.unit in folded}
    return Ledger(
        layout=layout,
        architecture=architecture,
        place=scanned.place,
        claims=claims,
        ignored=scanned.ignored,
        missing={key: name for key, name in missing.items() if key not in known},
        unclaimed=unclaimed,
        ambiguous=_ambiguous(choices),
        wrong_shapes=tuple(_wrong_shapes(claims.values(), architecture)),
        kernels=_kernels(scanned),
        kernels_assumed=scanned.kernels_assumed,
        blank=blank,
        notes=tuple(_notes(scanned, architecture, claims, blank)),
        assumed=(*_assumed(scanned, architecture), *_folded_away(folded, architecture)),
        folded=folded,
    )


def body(scanned: Scan, architecture: Architecture) -> Ledger:
    """The ledger of the body alone: what stands outside of it is left out, whatever it is."""
    ledger, is_inside = match(scanned, architecture.without_head()), inside(scanned)
    within = {name: one for name, one in ledger.unclaimed.items() if is_inside(name)}
    left = ledger.unclaimed.keys() - within.keys()
    outside = {name: NO_TOP for name in scanned.checkpoint.tensors if name in left}
    holders = [*dict.fromkeys(re.sub(r"(?<=.)[./#][^./#]*$", "", name) for name in outside)]
    heads = {match.name for match in scanned.matches if is_head(match.key.unit)}
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
    """The biases that dense layers do not have: zeros do the same."""
    return frozenset(key for key in missing if key.part == "bias" and TensorKey(key.unit, "kernel") in claims)


def _folded(
    layout: Layout, architecture: Architecture, missing: Mapping[TensorKey, str], claims: Mapping[TensorKey, Claim]
) -> tuple[str, ...]:
    """The norms of which the file has nothing, each behind a convolution that has a bias: that does what they did."""
    if layout.fold or not missing:
        return ()
    steps = graph(architecture, Contract()).operations.values()
    return tuple(
        step.name
        for step in steps
        if step.kind == "norm"
        and all(TensorKey(step.name, part) in missing for part in ROLES["norm"])
        and TensorKey(step.inputs[0], "bias") in claims
        and not is_head(step.name)
    )


def _folded_away(folded: Sequence[str], architecture: Architecture) -> list[str]:
    """The assumption that norms were folded away."""
    norms = [unit.name for unit in architecture.units.values() if unit.kind == "norm"]
    gone = listed(folded, norms)
    return [f"{FOLDED} ({gone})"] if folded else []


def _assumed(scanned: Scan, architecture: Architecture) -> Iterator[str]:
    """What of the network neither names and shapes tell, nor a record, nor the table."""
    recorded, forms = _recorded(scanned), scanned.layout.only.get("head", ())
    is_told = "head" not in scanned.layout.assumed and _names_head(scanned)
    is_known = is_told and any(fnmatchcase(architecture.head, form) for form in forms)
    if architecture.head not in (USUAL, recorded.get("head")) and not is_known:
        yield from assumed_of(architecture.head)
    if not architecture.final_norm and recorded.get("final_norm", True):
        yield BARE
    if "concatenation" in scanned.layout.assumed:
        yield OLD_FIRST


def _notes(
    scanned: Scan, architecture: Architecture, claims: Mapping[TensorKey, Claim], blank: Collection[TensorKey]
) -> Iterator[str]:
    """What a file's owner should know of the ledger."""
    head = next((claim.unit_name for key, claim in claims.items() if key.unit == HEAD), None)
    layers = [*dict.fromkeys(claim.unit_name for key, claim in claims.items() if is_head(key.unit))]
    if len(layers) > 1 and not scanned.layout.general:
        yield f"{', '.join(layers)} are taken for the head: each reads what the one before puts out"
    elif head and scanned.layout.units and not scanned.layout.names_head(head):
        yield f"{head} is taken for the head: it is the only layer left over, and reads the channels of the last map"
    if blank == {HEAD_BIAS}:
        yield f"the head ({head}) has no bias: it gets one of zeros, which does the same"
    elif blank:
        yield "the dense layers of the head have no biases: they get zeros, which do the same"
    if biased := [claim.name for key, claim in claims.items() if _is_optional(scanned.layout, key)]:
        takers = "the means of the norms" if architecture.final_norm else "the means of the norms and the head's bias"
        yield f"{takers} behind take up the biases of convolutions: {_some(biased)}"
    if pair := [name for name, rule in scanned.ignored.items() if rule == NORMALISES]:
        yield f"{' and '.join(pair)} are taken for the normalisation of pictures in front of the network"
        with suppress(MisfitError):  # the network is identified first
            picture = normalised(scanned.checkpoint, scanned.ignored, architecture.channels)
            yield from [note] if picture and (note := unit_note(picture, "that")) else []
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
        elif {unit.name, generic(unit.name)[0]} & layout.units.keys():
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
