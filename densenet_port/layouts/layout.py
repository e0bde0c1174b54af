"""Mappings: one TOML a layout, told against our units, and the match that accounts for every tensor.

A table says how a layout names its units (`[units]`, or `[order]` where a file keeps no names), how a unit's tensors
are named and which way round their axes are (`[tensors]`), which tensors may be ignored, and the contract. The same
table reads and writes. `table` checks it; here it meets files.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import chain, count, product
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from densenet_port.checkpoint import Checkpoint, Tensor
from densenet_port.errors import DiskError, MisfitError, UsageError
from densenet_port.files import resource
from densenet_port.layouts.schema import FIRST_CONVS, Pattern, compiled, generic, kind_of, part_axes, regex, skeleton
from densenet_port.layouts.transform import FOLDS
from densenet_port.network.architecture import Architecture, infer, name_in_order
from densenet_port.network.blueprint import Blueprint
from densenet_port.network.contract import Contract
from densenet_port.network.units import HEAD, Kind, Role, Slot, Unit

SPLIT = "./"  # what may stand between a prefix and a name

Kernels = Literal["theano", "tensorflow"]
Ordering = Literal["th", "tf"]


class TensorKey(NamedTuple):
    """Unit and part: one tensor of theirs. A part is one of our roles, or what a fold needs beside them."""

    unit: str
    part: str

    def __str__(self) -> str:
        """`block1.layer2.norm1.second_scale`."""
        return f"{self.unit}.{self.part}"


class TensorSpec(NamedTuple):
    """How one tensor is written: its name and the order of its axes."""

    name: str
    axes: str


class Match(NamedTuple):
    """A name of the file recognised: which place, the unit as the file spells it, and the tensor's full name."""

    place: TensorKey
    spelled: str
    name: str


class Claim(NamedTuple):
    """One place filled: from which tensor, with its axes in which order, and the unit as the file spells it."""

    place: TensorKey
    name: str
    axes: str
    tensor: Tensor
    spelled: str


class Misshape(NamedTuple):
    """A tensor whose sizes are not those of its place: axis name → length, expected and found."""

    place: TensorKey
    name: str
    expected: str
    found: str


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Where each tensor went, counted on both sides.

    `claims` are the places filled, `ignored` the tensors left out with the rule that allows it; the rest is what stands
    in the way: `missing` places (with the name expected), `unclaimed` and `doubled` tensors, and wrong shapes.
    `kernels` says how convolution kernels were taken where the layout has both ways, and `uncertain` that nothing in
    the file said so.
    """

    mapping: "Layout"
    architecture: Architecture
    prefix: str
    claims: Mapping[TensorKey, Claim]
    ignored: Mapping[str, str]
    missing: Mapping[TensorKey, str]
    unclaimed: Mapping[str, Tensor]
    doubled: Mapping[TensorKey, tuple[str, ...]]
    misshapen: tuple[Misshape, ...]
    kernels: Kernels | None
    uncertain: bool

    @property
    def troubles(self) -> int:
        """How many tensors stand in the way; 0 when everything is accounted for."""
        return len(self.missing) + len(self.unclaimed) + len(self.doubled) + len(self.misshapen)

    def spelled(self, unit: str) -> str | None:
        """The unit's name as this file has it, without the prefix; None where the file has no such unit."""
        return next((claim.spelled for place, claim in self.claims.items() if place.unit == unit), None)

    def parts(self, slot: Slot) -> tuple[str, ...]:
        """The parts from which a slot is made: the one of its role's name, or what the layout's fold takes."""
        made = FOLDS[self.mapping.fold].made if self.mapping.fold and kind_of(slot.unit) == "norm" else {}
        return made[slot.role].parts if slot.role in made else (slot.role,)

    @property
    def filled(self) -> tuple[Slot, ...]:
        """The slots all of whose parts are there."""
        return tuple(
            slot
            for slot in self.architecture.slots
            if all(TensorKey(slot.unit, part) in self.claims for part in self.parts(slot))
        )

    @property
    def fitting(self) -> int:
        """How many places are filled by one tensor of the right shape."""
        return len(self.claims.keys() - self.doubled.keys() - {wrong.place for wrong in self.misshapen})


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a table recognises in a file, before any architecture is known.

    `axes` are the orders that the file's tensors have, by kind and part.
    """

    prefix: str
    found: tuple[Match, ...]
    ignored: Mapping[str, str]
    unclaimed: Mapping[str, Tensor]
    kernels: Mapping[str, Mapping[str, int]]
    axes: Mapping[tuple[Kind, str], str]
    uncertain: bool


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One table, checked and compiled. Build it with `Layout.load`; `table.compiled` says what the fields hold."""

    path: Path
    digest: str
    layout: str
    about: str
    containers: tuple[str, ...]
    reference: str
    first: Mapping[str, int]
    ignore: tuple[str, ...]
    only: Mapping[str, tuple[Any, ...]]
    when: Mapping[str, Any]
    last_relu: str
    body: str
    contract: Contract
    carried: frozenset[str]
    units: Mapping[str, tuple[str, ...]]
    own: Mapping[str, Mapping[str, str]]
    order: Mapping[Kind, tuple[str, ...]]
    order_in: tuple[str, ...]
    tensors: Mapping[Kind, Mapping[str, Pattern]]
    fold: str | None
    _index: dict[str, list[tuple[str, str, str, str]]] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, layout: str | Path) -> "Layout":
        """The table of a layout's name, or of a file of the user's own.

        Raises UsageError for an unknown layout or a table that is not exactly right, naming file and key.
        """
        path = layout if isinstance(layout, Path) else resource("mappings") / f"{layout}.toml"
        if not isinstance(layout, Path) and layout not in layouts():
            raise UsageError(f"unknown layout {layout!r}", hint=f"known: {', '.join(layouts())}")
        try:
            text = path.read_bytes()
            table = tomllib.loads(text.decode())
        except OSError as error:
            raise DiskError(f"{path}: cannot be read: {error.strerror}") from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{path}: not TOML: {error}") from error
        mapping = cls(path=path, digest=hashlib.sha256(text).hexdigest(), **compiled(path, table))
        mapping._fill_index()
        return mapping

    def _fill_index(self) -> None:
        """File every name under its skeleton, so that a tensor's is compared with the few that can fit."""
        for ours, patterns in self.units.items():
            parts = self.tensors[kind_of(ours)].items()
            names = [(name, part) for part, pattern in parts for name in pattern.names]
            for theirs in patterns:
                numbered = re.sub(r"\{[bln]\}", "0", theirs)
                samples = {numbered.replace("{_n}", number) for number in ("", "_0")}
                for sample, (name, part) in product(samples, names):
                    short = skeleton(name.format(unit=sample))
                    self._index.setdefault(short, []).append((name, theirs, ours, part))

    # -- writing -------------------------------------------------------------------------------------------------------

    def spell(
        self, architecture: Architecture, ordering: Ordering | None = None, kernels: Kernels | None = None
    ) -> dict[TensorKey, TensorSpec]:
        """Tensor → the layout's name and axes, in order of execution.

        Where kernels have several orders of axes, `ordering` and `kernels` choose among them; the first is the usual.
        Raises MisfitError for what the layout cannot say, UsageError for a choice that it does not have.
        """
        if refused := self.refusal(architecture):
            raise MisfitError(refused)
        axes = self._written_axes(ordering, kernels)
        spelled = self.spell_units(architecture)
        return {
            TensorKey(unit.name, part): TensorSpec(
                pattern.names[0].format(unit=spelled[unit.name]), axes[unit.kind, part]
            )
            for unit in architecture.units.values()
            for part, pattern in self.tensors[unit.kind].items()
        }

    def blueprint(self, architecture: Architecture, contract: Contract) -> Blueprint:
        """The network under the layout's names, for containers that hold a graph. Raises as `spell` does."""
        tensors: dict[str, dict[str, str]] = {}
        for key, spec in self.spell(architecture).items():
            tensors.setdefault(key.unit, {})[key.part] = spec.name
        layers = self.spell_units(architecture)
        return Blueprint(architecture=architecture, contract=contract, layers=layers, tensors=tensors)

    def refusal(self, architecture: Architecture) -> str | None:
        """Why the layout cannot hold a network of these numbers; None where it can."""
        for key, allowed in self.only.items():
            if (value := getattr(architecture, key)) not in allowed:
                known = " or ".join(map(str, allowed))
                return f"{self.layout} cannot hold this network: {key} must be {known}, found {value}"
        return None

    def _written_axes(self, ordering: Ordering | None, kernels: Kernels | None) -> dict[tuple[Kind, str], str]:
        """The order of axes that is written, by kind and part."""
        axes = {(kind, part): pattern.axes[0] for kind, many in self.tensors.items() for part, pattern in many.items()}
        for option, choice in (("--dim-ordering", ordering), ("--dst-kernels", kernels)):
            if choice and len(self.tensors["conv"]["kernel"].axes) == 1:
                raise UsageError(f"{self.layout} stores its kernels in one way only", hint=f"leave out {option}")
        fits = [
            alternative
            for alternative in self.tensors["conv"]["kernel"].axes
            if (ordering is None or (alternative.split()[0] == "o") == (ordering == "th"))
            and (kernels is None or ("-" in alternative) == (kernels == "theano"))
        ]
        if not fits:
            raise UsageError(f"{self.layout} has no kernels of ordering {ordering} for {kernels}")
        axes["conv", "kernel"] = fits[0]
        return axes

    def spell_units(self, architecture: Architecture) -> dict[str, str]:
        """Our unit → the layout's name for it, which is also what its software calls the module or layer."""
        if not self.units:
            return self._spell_in_order(architecture)
        body = self.body if HEAD in architecture.units else ""
        return {
            unit.name: ("" if unit.name == HEAD else body) + self._spell_unit(unit, architecture)
            for unit in architecture.units.values()
        }

    def _spell_in_order(self, architecture: Architecture) -> dict[str, str]:
        """Units by running number among those of their kind, behind the ones with a name of their own."""
        names = {kind: self._running_names(kind) for kind in self.order}
        return {unit.name: next(names[unit.kind]) for unit in architecture.units.values()}

    def _running_names(self, kind: Kind) -> Iterator[str]:
        """The names of a kind in order."""
        yield from (pattern for pattern in self.order[kind] if pattern in self._given)
        for number in count(self.first.get("n", 0)):
            yield self.order[kind][0].format(_n=f"_{number}" if number else "")

    @property
    def _given(self) -> set[str]:
        """The names without a number among those that go by order: a file has all of them."""
        return {pattern for patterns in self.order.values() for pattern in patterns if "{_n}" not in pattern}

    def _spell_unit(self, unit: Unit, architecture: Architecture) -> str:
        """The unit's name as the layout writes it: the architecture's own pattern, or the usual one."""
        ours, numbers = generic(unit.name)
        if ours not in self.units:
            raise MisfitError(f"{self.layout} has no place for {unit.name}")
        pattern = self.own[ours].get(architecture.name, self.units[ours][0])
        return self._fill(pattern, numbers, architecture)

    def _fill(self, pattern: str, numbers: Mapping[str, int], architecture: Architecture) -> str:
        """A unit's pattern with its numbers put in, counted from the layout's own firsts."""
        shifted = {key: number - 1 + self.first.get(key, 1) for key, number in numbers.items()}
        shifted["n"] = architecture.layers[
            min(numbers.get("b", len(architecture.layers)), len(architecture.layers)) - 1
        ]
        return pattern.format(**shifted)

    # -- reading -------------------------------------------------------------------------------------------------------

    def survey(self, checkpoint: Checkpoint, kernels: Kernels | None = None) -> Scan:
        """What the table recognises in a file, by name or, where the file keeps no names, by order.

        `kernels` is the user's word on how kernels are stored. Raises MisfitError when two networks in one file answer,
        or an order that no DenseNet has.
        """
        known = kernels or _recorded_kernels(checkpoint)
        prefix = self._prefix(checkpoint)
        found = self._by_name(checkpoint, prefix)
        if not found and self.order and (not self.order_in or checkpoint.container in self.order_in):
            found = self._by_order(checkpoint, known)
        ignored, unclaimed = self._left_over(checkpoint, found, prefix) if found else ({}, checkpoint.tensors)
        axes, uncertain = self._axes(found, checkpoint, known)
        return Scan(
            prefix=prefix,
            found=tuple(found),
            ignored=ignored,
            unclaimed=unclaimed,
            kernels=_kernel_sizes(found, axes, checkpoint),
            axes=axes,
            uncertain=uncertain,
        )

    def _left_over(
        self, checkpoint: Checkpoint, found: Iterable[Match], prefix: str
    ) -> tuple[dict[str, str], dict[str, Tensor]]:
        """What is not recognised: tensor → the rule that lets it be ignored, and the tensors that none does."""
        seen = {entry.name for entry in found}
        spelled = {entry.spelled for entry in found}
        ignored: dict[str, str] = {}
        unclaimed: dict[str, Tensor] = {}
        for name, tensor in checkpoint.tensors.items():
            if name in seen:
                continue
            rule = self._ignoring_rule(name, prefix, spelled)
            if rule is None:
                unclaimed[name] = tensor
            else:
                ignored[name] = rule
        return ignored, unclaimed

    def _axes(
        self, found: Iterable[Match], checkpoint: Checkpoint, kernels: Kernels | None
    ) -> tuple[dict[tuple[Kind, str], str], bool]:
        """The orders that the recognised tensors have, and whether one was taken that nothing in the file tells."""
        shapes: dict[tuple[Kind, str], list[tuple[int, ...]]] = {}
        for entry in found:
            key = kind_of(entry.place.unit), entry.place.part
            shapes.setdefault(key, []).append(checkpoint.tensors[entry.name].shape)
        axes: dict[tuple[Kind, str], str] = {}
        guessed = False
        for kind, patterns in self.tensors.items():
            for part, pattern in patterns.items():
                axes[kind, part], unsure = _choose(pattern.axes, shapes.get((kind, part), []), kernels)
                guessed |= unsure and (kind, part) in shapes
        return axes, guessed

    def match(self, checkpoint: Checkpoint, architecture: Architecture, survey: Scan | None = None) -> Ledger:
        """The ledger of a file against an architecture; nothing is refused here, see `Ledger.troubles`.

        Where the file has no head or another number of classes or input channels than `architecture`, it is for the
        caller to say so beforehand (`fitted`).
        """
        survey = survey or self.survey(checkpoint)
        places = self.places(architecture)
        choices: dict[TensorKey, list[Match]] = {}
        unclaimed = dict(survey.unclaimed)
        for entry in survey.found:
            if entry.place in places:
                choices.setdefault(entry.place, []).append(entry)
            else:
                unclaimed[entry.name] = checkpoint.tensors[entry.name]
        claims = {
            place: Claim(
                place, entry.name, survey.axes[places[place], place.part], checkpoint.tensors[entry.name], entry.spelled
            )
            for place, (entry, *_) in choices.items()
        }
        expected = self._expected_names(architecture, survey) if len(claims) < len(places) else {}
        kernel = survey.axes["conv", "kernel"]
        both = len({"-" in axes for axes in self.tensors["conv"]["kernel"].axes}) > 1
        return Ledger(
            mapping=self,
            architecture=architecture,
            prefix=survey.prefix,
            claims={place: claims[place] for place in places if place in claims},
            ignored=survey.ignored,
            missing={place: expected.get(place, str(place)) for place in places if place not in claims},
            unclaimed=unclaimed,
            doubled=_doubled(choices),
            misshapen=tuple(self._misshapen(claims.values(), architecture)),
            kernels=("theano" if "-" in kernel else "tensorflow") if both else None,
            uncertain=survey.uncertain,
        )

    def places(self, architecture: Architecture) -> dict[TensorKey, Kind]:
        """Every tensor that a file of the layout has, in order of execution, with the kind of its unit."""
        return {
            TensorKey(unit.name, part): unit.kind
            for unit in architecture.units.values()
            for part in self.tensors[unit.kind]
        }

    def _expected_names(self, architecture: Architecture, survey: Scan) -> dict[TensorKey, str]:
        """The names under which missing tensors would have been found."""
        spelled = {entry.place.unit: entry.spelled for entry in survey.found}
        names: dict[TensorKey, str] = {}
        for unit in architecture.units.values():
            ours = generic(unit.name)[0]
            own = spelled.get(unit.name) or (self._spell_unit(unit, architecture) if ours in self.units else unit.name)
            for part, pattern in self.tensors[unit.kind].items():
                names[TensorKey(unit.name, part)] = survey.prefix + pattern.names[0].format(unit=own)
        return names

    def _misshapen(self, claims: Iterable[Claim], architecture: Architecture) -> Iterator[Misshape]:
        """The claims whose sizes are not those of their units."""
        for claim in claims:
            unit = architecture.units[claim.place.unit]
            axes = [axis.removeprefix("-") for axis in claim.axes.split()]
            expected = tuple(1 if axis == "1" else unit.sizes[axis] for axis in axes)
            if claim.tensor.shape != expected:
                yield Misshape(claim.place, claim.name, _sizes(axes, expected), _sizes(axes, claim.tensor.shape))

    def _prefix(self, checkpoint: Checkpoint) -> str:
        """What stands before every name of the network: `module.`, `state_dict.model.` or nothing.

        The stem's first kernel tells. Raises MisfitError when several networks are in the file.
        """
        stems = [spelled for unit in FIRST_CONVS for spelled in self.units.get(unit, ())]
        ends = {name.format(unit=stem) for stem in stems for name in self.tensors["conv"]["kernel"].names}
        prefixes = {
            name[: -len(end)]
            for name in checkpoint.tensors
            for end in ends
            if name.endswith(end) and (len(name) == len(end) or name[-len(end) - 1] in SPLIT)
        }
        if len(prefixes) > 1:
            found = ", ".join(repr(prefix) for prefix in sorted(prefixes))
            said = " or ".join(f"--within {prefix.rstrip(SPLIT)}" for prefix in sorted(prefixes) if prefix)
            raise MisfitError(
                f"{checkpoint.path}: {len(prefixes)} networks of layout {self.layout} in one file, under {found}",
                hint=f"say which one to take: {said}",
            )
        return prefixes.pop() if prefixes else ""

    def _by_name(self, checkpoint: Checkpoint, prefix: str) -> list[Match]:
        """Every tensor whose name a line of the table says."""
        found = [hit for name in checkpoint.tensors if (hit := self._hit(name, prefix))]
        outside = re.sub(r"[^./]*[./]$", "", prefix)
        if outside != prefix:  # a network within another may have its head there
            hits = [self._hit(name, outside) for name in checkpoint.tensors if not name.startswith(prefix)]
            found += [hit for hit in hits if hit and hit.place.unit == HEAD]
        known = any(hit.place.unit != HEAD or hit.spelled in self.units[HEAD] for hit in found)
        return found if known else []  # a head with a number for its name is nobody's without a network

    def _hit(self, name: str, prefix: str) -> Match | None:
        """What a tensor's name means behind a prefix, if any line of the table says it."""
        if not name.startswith(prefix):
            return None
        bare = name[len(prefix) :]
        for pattern, unit, ours, part in self._index.get(skeleton(bare), ()):
            if hit := _expression(pattern, unit).fullmatch(bare):
                return Match(TensorKey(self._ours(ours, hit), part), hit["unit"], name)
        return None

    def _ours(self, ours: str, hit: re.Match[str]) -> str:
        """Our unit's name for a recognised one."""
        groups = hit.groupdict()
        return ours.format(
            **{key: int(groups[key]) + 1 - self.first.get(key, 1) for key in ("b", "l") if groups.get(key)}
        )

    def _by_order(self, checkpoint: Checkpoint, known: Kernels | None) -> list[Match]:
        """Every tensor that the running numbers place: the k-th of a kind is the k-th unit of that kind."""
        groups = {kind: self._running(kind, checkpoint) for kind in self.order}
        shapes = [checkpoint.tensors[parts["kernel"]].shape for parts in groups["conv"].values() if "kernel" in parts]
        if not shapes or not self._given.issubset(chain(*groups.values())):
            return []
        axes, _ = _choose(self.tensors["conv"]["kernel"].axes, shapes, known)
        sizes = [size for shape in shapes if (size := _named_sizes(axes, shape))]
        convs = name_in_order([*sizes])
        body = infer(dict(zip(convs, sizes, strict=True)))
        norms = [unit.name for unit in body.units.values() if unit.kind == "norm"]
        if len(groups["norm"]) != len(norms):
            counts = f"{len(groups['norm'])} norms for {len(convs)} convolutions, expected {len(norms)}"
            raise MisfitError(
                f"{checkpoint.path}: {counts}",
                hint="without layer names the order is all there is, so every layer must be there",
            )
        units: dict[Kind, list[str]] = {"conv": convs, "norm": norms, "dense": [HEAD]}
        return [
            Match(TensorKey(unit, part), spelled, name)
            for kind, layers in groups.items()
            for unit, (spelled, parts) in zip(units[kind], layers.items(), strict=False)
            for part, name in parts.items()
        ]

    def _running(self, kind: Kind, checkpoint: Checkpoint) -> dict[str, dict[str, str]]:
        """Layers of a kind in the order of their running numbers: layer → part → tensor's name."""
        expressions = [regex(pattern) for pattern in self.order[kind]]
        layers: dict[tuple[int, str], dict[str, str]] = {}
        for part, pattern in self.tensors[kind].items():
            for ending in (name.removeprefix("{unit}") for name in pattern.names):
                for name in checkpoint.tensors:
                    if name.endswith(ending) and (hit := _first_hit(expressions, name.removesuffix(ending))):
                        number = -1 if hit[0] in self._given else int(hit["order"] or 0)
                        layers.setdefault((number, hit[0]), {})[part] = name
        return {spelled: layers[number, spelled] for number, spelled in sorted(layers)}

    def _ignoring_rule(self, name: str, prefix: str, spelled: set[str]) -> str | None:
        """The rule that lets a tensor be left out, or None."""
        for rule in self.ignore:
            if "{unit}" in rule:
                before, _, after = rule.partition("{unit}")
                bare = name.removeprefix(prefix)
                inside = bare[len(before) : len(bare) - len(after)]
                if bare == before + inside + after and inside in spelled:
                    return rule
            elif fnmatchcase(name, rule):
                return rule
        return None


@lru_cache(maxsize=1 << 10)  # compiled when a name first asks for it: a file asks for those of a table or two
def _expression(pattern: str, unit: str) -> re.Pattern[str]:
    """A tensor's name with the unit's in its place, as an expression with the unit and its numbers for groups."""
    before, _, after = pattern.partition("{unit}")
    return re.compile(f"{re.escape(before)}(?P<unit>{regex(unit).pattern}){re.escape(after)}")


def layouts() -> tuple[str, ...]:
    """The layouts that have a table, in alphabetical order."""
    return tuple(sorted(path.stem for path in resource("mappings").glob("*.toml")))


def fitted(architecture: Architecture, survey: Scan) -> Architecture:
    """The architecture with the classes and input channels that the file's own shapes say."""
    head = survey.kernels.get(HEAD)
    stem = next((survey.kernels[unit] for unit in FIRST_CONVS if unit in survey.kernels), None)
    headless = not any(entry.place.unit == HEAD for entry in survey.found)
    classes = None if headless else head["o"] if head else architecture.classes
    channels = stem["i"] if stem else architecture.channels
    if (classes, channels) == (architecture.classes, architecture.channels):
        return architecture  # with what has been worked out from it
    return replace(architecture, classes=classes, channels=channels)


def ours_axes(mapping: Layout, architecture: Architecture, place: TensorKey) -> str:
    """Our order of the axes of one of a layout's parts."""
    return part_axes(architecture.units[place.unit].kind, mapping.fold)[place.part]


def written(mapping: Layout, place: TensorKey) -> Role | float:
    """What is written for a part: one of our roles, or a constant."""
    what: str | float = place.part
    if mapping.fold and kind_of(place.unit) == "norm":
        what = FOLDS[mapping.fold].written.get(place.part, place.part)
    return cast("Role | float", what)


def _recorded_kernels(checkpoint: Checkpoint) -> Kernels | None:
    """How the file itself says that its kernels are stored."""
    told = (checkpoint.record or {}).get("kernels") or checkpoint.metadata.get("kernels")
    return cast("Kernels", told) if told in ("theano", "tensorflow") else None


def _choose(
    alternatives: tuple[str, ...], shapes: Sequence[tuple[int, ...]], kernels: Kernels | None
) -> tuple[str, bool]:
    """The first order of axes that all shapes fit, and whether its direction is a guess.

    Sizes tell the order, never the direction: that is for `kernels` to say.
    """
    if len(alternatives) == 1:
        return alternatives[0], False
    fits = [axes for axes in alternatives if all(_fits(axes, shape) for shape in shapes)] or [alternatives[0]]
    alike = [axes for axes in fits if axes.replace("-", "") == fits[0].replace("-", "")]
    wanted = [axes for axes in alike if kernels and ("-" in axes) == (kernels == "theano")]
    return (wanted or alike)[0], kernels is None and len({"-" in axes for axes in alike}) > 1


def _fits(axes: str, shape: tuple[int, ...]) -> bool:
    """Whether a shape can have these axes: as many, `1` of length one, kernels as high as wide."""
    sizes = _named_sizes(axes, shape)
    return bool(sizes) and sizes.get("1", 1) == 1 and sizes.get("h") == sizes.get("w")


def _first_hit(expressions: Iterable[re.Pattern[str]], text: str) -> re.Match[str] | None:
    return next((hit for expression in expressions if (hit := expression.fullmatch(text))), None)


def _kernel_sizes(
    found: Iterable[Match], axes: Mapping[tuple[Kind, str], str], checkpoint: Checkpoint
) -> dict[str, dict[str, int]]:
    """Unit → axis → length, for every kernel recognised that has as many axes as it should.

    Raises MisfitError where no convolution's has: a network of volumes or of sequences.
    """
    sizes: dict[str, dict[str, int]] = {}
    others: list[str] = []
    for entry in found:
        if entry.place.part == "kernel":
            kind, shape = kind_of(entry.place.unit), checkpoint.tensors[entry.name].shape
            if named := _named_sizes(axes[kind, "kernel"], shape):
                sizes.setdefault(entry.place.unit, named)
            elif kind == "conv":
                others.append(f"{entry.name} has {len(shape)} axes {shape}, expected 4 ({axes[kind, 'kernel']})")
    if others and not any(kind_of(unit) == "conv" for unit in sizes):
        raise MisfitError(f"{others[0]}: not a network of pictures, which have two spatial dimensions")
    return sizes


def _doubled(choices: Mapping[TensorKey, list[Match]]) -> dict[TensorKey, tuple[str, ...]]:
    """Places with several tensors to choose from, and places of a unit that the file spells in two ways."""
    spellings: dict[str, set[str]] = {}
    for place, found in choices.items():
        spellings.setdefault(place.unit, set()).update(entry.spelled for entry in found)
    return {
        place: tuple(entry.name for entry in found)
        for place, found in choices.items()
        if len(found) > 1 or len(spellings[place.unit]) > 1
    }


def _named_sizes(axes: str, shape: tuple[int, ...]) -> dict[str, int]:
    """Axis → length, the largest of those called `1`; nothing when the number of axes is another."""
    names = axes.replace("-", "").split()
    if len(names) != len(shape):
        return {}
    ones = [length for name, length in zip(names, shape, strict=True) if name == "1"]
    return dict(zip(names, shape, strict=True)) | ({"1": max(ones)} if ones else {})


def _sizes(axes: list[str], shape: tuple[int, ...]) -> str:
    """`o=64 i=3 h=7 w=7`; the bare shape when the number of axes is another."""
    if len(axes) != len(shape):
        return f"shape {shape}"
    return " ".join(f"{axis}={length}" for axis, length in zip(axes, shape, strict=True))
