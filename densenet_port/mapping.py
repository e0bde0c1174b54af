"""Mapping tables: one TOML a layout, told against our units, and the match that accounts for every tensor.

A table says how a layout names its units (`[units]`, or `[order]` where a file keeps no names), how a unit's tensors
are named and which way round their axes are (`[tensors]`), which tensors may be ignored, and the contract. The same
table reads and writes. Patterns hold `{b}` (block), `{l}` (layer), `{n}` (layers in the block), each counted from
`first`; `{unit}` is the unit as the layout spells it; `{_n}` is a running number, absent for the first.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterable, Iterator
from collections.abc import Mapping as Map
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

from densenet_port.arch import ROLES, Architecture, Contract, Input, Kind, Role, Slot, Unit, infer, name_in_order
from densenet_port.checkpoint import Checkpoint, Tensor
from densenet_port.data import folder
from densenet_port.errors import DiskError, MisfitError, UsageError
from densenet_port.transform import compile_move

PLACES = {"b": r"(?P<b>\d+)", "l": r"(?P<l>\d+)", "n": r"(?P<n>\d+)", "_n": r"(?:_(?P<order>\d+))?"}
SPLIT = "./"  # what may stand between a prefix and a name


class Rule(NamedTuple):
    """How one role of a kind of unit is stored: its name (with `{unit}`) and the order of its axes."""

    name: str
    axes: str


class Found(NamedTuple):
    """A name of the file recognised: which slot, the unit as the file spells it, and the tensor's full name."""

    slot: Slot
    spelled: str
    name: str


class Claim(NamedTuple):
    """One slot filled: from which tensor, with its axes in which order."""

    slot: Slot
    name: str
    axes: str
    tensor: Tensor


class Misshape(NamedTuple):
    """A tensor whose sizes are not those of its slot: axis name → length, expected and found."""

    slot: Slot
    name: str
    expected: str
    found: str


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Where each tensor went, counted on both sides.

    `claims` are the slots filled, `ignored` the tensors left out with the rule that allows it; the rest is what stands
    in the way: `missing` slots (with the name expected), `unclaimed` and `doubled` tensors, and wrong shapes.
    """

    mapping: "Mapping"
    architecture: Architecture
    prefix: str
    claims: Map[Slot, Claim]
    ignored: Map[str, str]
    missing: Map[Slot, str]
    unclaimed: Map[str, Tensor]
    doubled: Map[Slot, tuple[str, ...]]
    misshapen: tuple[Misshape, ...]

    @property
    def troubles(self) -> int:
        """How many tensors stand in the way; 0 when everything is accounted for."""
        return len(self.missing) + len(self.unclaimed) + len(self.doubled) + len(self.misshapen)

    def spelled(self, unit: str) -> str | None:
        """The unit's name as this file has it, without the prefix; None where the file has no such unit."""
        claim = next((claim for slot, claim in self.claims.items() if slot.unit == unit), None)
        if claim is None:
            return None
        rule = self.mapping.tensors[_kind(unit)][claim.slot.role]
        before, _, after = rule.name.partition("{unit}")
        return claim.name.removeprefix(self.prefix).removeprefix(before).removesuffix(after)

    @property
    def fitting(self) -> int:
        """How many slots are filled by one tensor of the right shape."""
        return len(self.claims.keys() - self.doubled.keys() - {wrong.slot for wrong in self.misshapen})


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a table recognises in a file, before any architecture is known."""

    prefix: str
    found: tuple[Found, ...]
    ignored: Map[str, str]
    unclaimed: Map[str, Tensor]
    kernels: Map[str, Map[str, int]]


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """One table, checked and compiled. Build it with `Mapping.load`."""

    path: Path
    digest: str
    layout: str
    about: str
    containers: tuple[str, ...]
    reference: str
    first: Map[str, int]
    ignore: tuple[str, ...]
    only: Map[str, tuple[Any, ...]]
    contract: Contract
    carried: bool
    units: Map[str, tuple[str, ...]]
    order: Map[Kind, str]
    tensors: Map[Kind, Map[Role, Rule]]
    _index: dict[str, list[tuple[re.Pattern[str], str, Role]]] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, layout: str | Path) -> "Mapping":
        """The table of a layout's name, or of a file of the user's own.

        Raises UsageError for an unknown layout or a table that is not exactly right, naming file and key.
        """
        path = layout if isinstance(layout, Path) else folder("mappings") / f"{layout}.toml"
        if not isinstance(layout, Path) and layout not in layouts():
            raise UsageError(f"unknown layout {layout!r}", hint=f"known: {', '.join(layouts())}")
        try:
            text = path.read_bytes()
            table = tomllib.loads(text.decode())
        except OSError as error:
            raise DiskError(f"{path}: cannot be read: {error.strerror}") from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{path}: not TOML: {error}") from error
        return _compile(path, hashlib.sha256(text).hexdigest(), table)

    # -- writing -------------------------------------------------------------------------------------------------------

    def spell(self, architecture: Architecture) -> dict[Slot, Rule]:
        """Slot → the layout's name and axes, in order of execution.

        Raises MisfitError for what the layout cannot say.
        """
        for key, allowed in self.only.items():
            if (value := getattr(architecture, key)) not in allowed:
                known = " or ".join(map(str, allowed))
                raise MisfitError(f"{self.layout} cannot hold this network: {key} must be {known}, found {value}")
        return {
            Slot(unit.name, role): Rule(rule.name.format(unit=self._spell_unit(unit, architecture)), rule.axes)
            for unit in architecture.units.values()
            for role, rule in self.tensors[unit.kind].items()
        }

    def spell_units(self, architecture: Architecture) -> dict[str, str]:
        """Our unit → the layout's name for it, which is also what its software calls the module or layer."""
        return {unit.name: self._spell_unit(unit, architecture) for unit in architecture.units.values()}

    def _spell_unit(self, unit: Unit, architecture: Architecture) -> str:
        """The unit's name as the layout writes it: the first alternative."""
        generic, places = _generic(unit.name)
        if generic not in self.units:
            raise MisfitError(f"{self.layout} has no place for {unit.name}")
        return self._fill(self.units[generic][0], places, architecture)

    def _fill(self, pattern: str, places: Map[str, int], architecture: Architecture) -> str:
        """A unit's pattern with its numbers put in, counted from the layout's own firsts."""
        shifted = {key: number - 1 + self.first.get(key, 1) for key, number in places.items()}
        if "{n}" in pattern:
            shifted["n"] = architecture.layers[places["b"] - 1]
        return pattern.format(**shifted)

    # -- reading -------------------------------------------------------------------------------------------------------

    def survey(self, checkpoint: Checkpoint) -> Survey:
        """What the table recognises in a file, by name or, where the file keeps no names, by order.

        Raises MisfitError when two networks in one file answer, or none does.
        """
        found, prefix = self._by_name(checkpoint), self._prefix(checkpoint)
        if not found and self.order:
            found = self._by_order(checkpoint)
        seen = {entry.name for entry in found}
        ignored: dict[str, str] = {}
        unclaimed: dict[str, Tensor] = {}
        spelled = {entry.spelled for entry in found}
        for name, tensor in checkpoint.tensors.items():
            if name in seen:
                continue
            rule = self._ignoring_rule(name, prefix, spelled)
            if rule is None:
                unclaimed[name] = tensor
            else:
                ignored[name] = rule
        return Survey(
            prefix=prefix,
            found=tuple(found),
            ignored=ignored,
            unclaimed=unclaimed,
            kernels=self._kernel_sizes(found, checkpoint),
        )

    def match(self, checkpoint: Checkpoint, architecture: Architecture, survey: Survey | None = None) -> Ledger:
        """The ledger of a file against an architecture; nothing is refused here, see `Ledger.troubles`.

        Where the file has no head or another number of classes or input channels than `architecture`, it is for the
        caller to say so beforehand (`fitted`).
        """
        survey = survey or self.survey(checkpoint)
        choices: dict[Slot, list[Found]] = {}
        unclaimed = dict(survey.unclaimed)
        for entry in survey.found:
            if entry.slot in architecture.slots:
                choices.setdefault(entry.slot, []).append(entry)
            else:
                unclaimed[entry.name] = checkpoint.tensors[entry.name]
        claims = {
            slot: Claim(slot, found[0].name, self._rule(architecture, slot).axes, checkpoint.tensors[found[0].name])
            for slot, found in choices.items()
        }
        expected = self._expected_names(architecture, survey) if len(claims) < len(architecture.slots) else {}
        return Ledger(
            mapping=self,
            architecture=architecture,
            prefix=survey.prefix,
            claims={slot: claims[slot] for slot in architecture.slots if slot in claims},
            ignored=survey.ignored,
            missing={slot: expected.get(slot, str(slot)) for slot in architecture.slots if slot not in claims},
            unclaimed=unclaimed,
            doubled=_doubled(choices),
            misshapen=tuple(self._misshapen(claims.values(), architecture)),
        )

    def _rule(self, architecture: Architecture, slot: Slot) -> Rule:
        return self.tensors[architecture.units[slot.unit].kind][slot.role]

    def _expected_names(self, architecture: Architecture, survey: Survey) -> dict[Slot, str]:
        """The names under which missing slots would have been found."""
        names: dict[Slot, str] = {}
        spelled = {entry.slot.unit: entry.spelled for entry in survey.found}
        for unit in architecture.units.values():
            own = spelled.get(unit.name) or self._fill(
                self.units[_generic(unit.name)[0]][0], _generic(unit.name)[1], architecture
            )
            for role, rule in self.tensors[unit.kind].items():
                names[Slot(unit.name, role)] = survey.prefix + rule.name.format(unit=own)
        return names

    def _misshapen(self, claims: Iterable[Claim], architecture: Architecture) -> Iterator[Misshape]:
        """The claims whose sizes are not those of their units."""
        for claim in claims:
            unit = architecture.units[claim.slot.unit]
            axes = claim.axes.split()
            expected = tuple(1 if axis == "1" else unit.sizes[axis] for axis in axes)
            if claim.tensor.shape != expected:
                yield Misshape(claim.slot, claim.name, _sizes(axes, expected), _sizes(axes, claim.tensor.shape))

    def _prefix(self, checkpoint: Checkpoint) -> str:
        """What stands before every name of the network: `module.`, `state_dict.model.` or nothing.

        The stem's kernel tells. Raises MisfitError when several networks are in the file.
        """
        rule = self.tensors["conv"]["kernel"]
        ends = [rule.name.format(unit=spelled) for spelled in self.units["stem.conv"]]
        prefixes = {
            name[: -len(end)]
            for name in checkpoint.tensors
            for end in ends
            if name.endswith(end) and (len(name) == len(end) or name[-len(end) - 1] in SPLIT)
        }
        if len(prefixes) > 1:
            found = ", ".join(repr(prefix) for prefix in sorted(prefixes))
            raise MisfitError(
                f"{checkpoint.path}: {len(prefixes)} networks of layout {self.layout} in one file, under {found}",
                hint="save the one you want to a file of its own",
            )
        return prefixes.pop() if prefixes else ""

    def _by_name(self, checkpoint: Checkpoint) -> list[Found]:
        """Every tensor whose name a line of the table says."""
        prefix = self._prefix(checkpoint)
        found: list[Found] = []
        for name in checkpoint.tensors:
            if not name.startswith(prefix):
                continue
            bare = name[len(prefix) :]
            for pattern, generic, role in self._index.get(_skeleton(bare), ()):
                if hit := pattern.fullmatch(bare):
                    found.append(Found(Slot(self._ours(generic, hit), role), hit["unit"], name))
                    break
        return found

    def _ours(self, generic: str, hit: re.Match[str]) -> str:
        """Our unit's name for a recognised one."""
        groups = hit.groupdict()
        return generic.format(
            **{key: int(groups[key]) + 1 - self.first.get(key, 1) for key in ("b", "l") if groups.get(key)}
        )

    def _by_order(self, checkpoint: Checkpoint) -> list[Found]:
        """Every tensor that the running numbers place: the k-th of a kind is the k-th unit of that kind."""
        groups = {kind: self._running(kind, checkpoint) for kind in self.order}
        if not groups.get("conv"):
            return []
        kernels = [numbered[self.tensors["conv"]["kernel"].name] for numbered in groups["conv"].values()]
        sizes = [_named_sizes(self.tensors["conv"]["kernel"].axes, checkpoint.tensors[name].shape) for name in kernels]
        convs = name_in_order([size for size in sizes if size])
        body = infer(dict(zip(convs, (size for size in sizes if size), strict=True)))
        places = {
            "conv": convs,
            "norm": [unit.name for unit in body.units.values() if unit.kind == "norm"],
            "dense": ["head.dense"],
        }
        found: list[Found] = []
        for kind, numbered_groups in groups.items():
            units = places[kind]
            if kind == "norm" and len(numbered_groups) != len(units):
                counts = f"{len(numbered_groups)} norms for {len(convs)} convolutions, expected {len(units)}"
                raise MisfitError(
                    f"{checkpoint.path}: {counts}",
                    hint="without layer names the order is all there is, so every layer must be there",
                )
            for unit, (spelled, names) in zip(units, numbered_groups.items(), strict=False):
                for role, rule in self.tensors[kind].items():
                    if rule.name in names:
                        found.append(Found(Slot(unit, role), spelled, names[rule.name]))
        return found

    def _running(self, kind: Kind, checkpoint: Checkpoint) -> dict[str, dict[str, str]]:
        """Layers of a kind in the order of their running numbers: layer → rule's name → tensor's name."""
        pattern = _regex(self.order[kind])
        layers: dict[tuple[int, str], dict[str, str]] = {}
        for rule in self.tensors[kind].values():
            ending = rule.name.removeprefix("{unit}")
            for name in checkpoint.tensors:
                if name.endswith(ending) and (hit := pattern.fullmatch(name.removesuffix(ending))):
                    layers.setdefault((int(hit["order"] or 0), hit[0]), {})[rule.name] = name
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

    def _kernel_sizes(self, found: Iterable[Found], checkpoint: Checkpoint) -> dict[str, dict[str, int]]:
        """Unit → axis → length, for every kernel recognised that has as many axes as it should."""
        sizes: dict[str, dict[str, int]] = {}
        for entry in found:
            if entry.slot.role == "kernel":
                axes = self.tensors[_kind(entry.slot.unit)]["kernel"].axes
                if named := _named_sizes(axes, checkpoint.tensors[entry.name].shape):
                    sizes.setdefault(entry.slot.unit, named)
        return sizes


def layouts() -> tuple[str, ...]:
    """The layouts that have a table, in alphabetical order."""
    return tuple(sorted(path.stem for path in folder("mappings").glob("*.toml")))


def _doubled(choices: Map[Slot, list[Found]]) -> dict[Slot, tuple[str, ...]]:
    """Slots with several tensors to choose from, and slots of a unit that the file spells in two ways."""
    spellings: dict[str, set[str]] = {}
    for slot, found in choices.items():
        spellings.setdefault(slot.unit, set()).update(entry.spelled for entry in found)
    return {
        slot: tuple(entry.name for entry in found) for slot, found in choices.items() if len(spellings[slot.unit]) > 1
    }


def fitted(architecture: Architecture, survey: Survey) -> Architecture:
    """The architecture with the classes and input channels that the file's own shapes say."""
    head, stem = survey.kernels.get("head.dense"), survey.kernels.get("stem.conv")
    headless = not any(entry.slot.unit == "head.dense" for entry in survey.found)
    classes = None if headless else head["o"] if head else architecture.classes
    channels = stem["i"] if stem else architecture.channels
    if (classes, channels) == (architecture.classes, architecture.channels):
        return architecture  # with what has been worked out from it
    return replace(architecture, classes=classes, channels=channels)


# -- compiling a table -------------------------------------------------------------------------------------------------

KEYS = {
    "layout",
    "about",
    "containers",
    "reference",
    "first",
    "only",
    "ignore",
    "contract",
    "units",
    "order",
    "tensors",
}
REFERENCES = (
    *("torchvision", "timm", "monai", "torchxrayvision"),
    *("keras", "keras.applications", "keras-hub", "kimm"),
    *("opencv", "onnxruntime", "numpy"),
)
CHOICES = {  # what a contract may say
    "stem_padding": ("symmetric", "same"),
    "stem_pool": ("max", "blur"),
    "pool_rounding": ("floor", "ceil"),
    "output": ("logits", "softmax", "sigmoid"),
}
OURS = (
    *("stem.conv", "stem.norm"),
    *(f"block{{b}}.layer{{l}}.{part}" for part in ("norm1", "conv1", "norm2", "conv2")),
    *("transition{b}.norm", "transition{b}.conv", "final.norm", "head.dense"),
)


def _compile(path: Path, digest: str, table: dict[str, Any]) -> Mapping:
    """A checked Mapping of a parsed table. Raises UsageError that names the file and the key."""
    _known(path, "", table, KEYS, required=KEYS - {"reference", "first", "only", "ignore", "order"})
    contract, carried = _contract(path, table["contract"])
    mapping = Mapping(
        path=path,
        digest=digest,
        layout=_typed(path, "layout", table["layout"], str),
        about=_typed(path, "about", table["about"], str),
        containers=_strings(path, "containers", table["containers"]),
        reference=_reference(path, table.get("reference", "numpy")),
        first=_first(path, table.get("first", {})),
        ignore=_strings(path, "ignore", table.get("ignore", [])),
        only=_only(path, table.get("only", {})),
        contract=contract,
        carried=carried,
        units=_units(path, _typed(path, "units", table["units"], dict)),
        order=_order(path, table.get("order", {})),
        tensors=_tensors(path, _typed(path, "tensors", table["tensors"], dict)),
    )
    _fill_index(mapping)
    return mapping


def _known(path: Path, where: str, table: Map[str, Any], keys: Iterable[str], *, required: Iterable[str] = ()) -> None:
    """Refuse a key that nothing reads, and the lack of one that is needed."""
    known = set(keys)
    for key in table:
        if key not in known:
            raise UsageError(f"{path}: unknown key {where + key!r} (known: {', '.join(sorted(known))})")
    for key in sorted(required):
        if key not in table:
            raise UsageError(f"{path}: missing key {where + key!r}")


def _typed(path: Path, where: str, value: Any, kind: type) -> Any:
    """The value, if it is of the kind."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UsageError(f"{path}: {where} must be a {kind.__name__}, found {value!r}")
    return value


def _strings(path: Path, where: str, value: Any) -> tuple[str, ...]:
    """One string, or a list of them."""
    many = value if isinstance(value, list) else [value]
    return tuple(_typed(path, f"{where}[{place}]", text, str) for place, text in enumerate(many))


def _reference(path: Path, value: Any) -> str:
    if value not in REFERENCES:
        raise UsageError(f"{path}: reference must be one of {', '.join(REFERENCES)}, found {value!r}")
    return str(value)


def _first(path: Path, table: Any) -> dict[str, int]:
    _known(path, "first.", _typed(path, "first", table, dict), ("b", "l"))
    return {key: _typed(path, f"first.{key}", value, int) for key, value in table.items()}


def _only(path: Path, table: Any) -> dict[str, tuple[Any, ...]]:
    _known(path, "only.", _typed(path, "only", table, dict), [entry.name for entry in fields(Architecture)])
    return {key: tuple(value) if isinstance(value, list) else (value,) for key, value in table.items()}


def _contract(path: Path, table: Any) -> tuple[Contract, bool]:
    """The contract, and whether a file of this layout carries its source's."""
    table = dict(_typed(path, "contract", table, dict))
    carried = _typed(path, "contract.carried", table.pop("carried", False), bool)
    keys = [entry.name for entry in fields(Contract)]
    _known(path, "contract.", table, keys, required=set(keys) - {"stem_pool", "pool_rounding"})
    picture = [entry.name for entry in fields(Input)]
    _known(path, "contract.input.", _typed(path, "contract.input", table["input"], dict), picture, required=picture)
    _typed(path, "contract.epsilon", table["epsilon"], float)
    for key, allowed in CHOICES.items():
        if key in table and table[key] not in allowed:
            raise UsageError(f"{path}: contract.{key} must be one of {', '.join(allowed)}, found {table[key]!r}")
    return Contract.from_json(table), carried


def _units(path: Path, table: Map[str, Any]) -> dict[str, tuple[str, ...]]:
    """Our generic unit → the layout's patterns."""
    _known(path, "units.", table, OURS, required=OURS)
    units = {ours: _strings(path, f"units.{ours!r}", theirs) for ours, theirs in table.items()}
    for ours, patterns in units.items():
        for pattern in patterns:
            _check_places(path, f"units.{ours!r}", pattern, required=_places(ours), allowed={*_places(ours), "n"})
    return units


def _order(path: Path, table: Any) -> dict[Kind, str]:
    """Kind → the pattern of its running numbers."""
    _known(path, "order.", _typed(path, "order", table, dict), ROLES, required=ROLES if table else ())
    for kind, pattern in table.items():
        _check_places(
            path, f"order.{kind}", _typed(path, f"order.{kind}", pattern, str), required={"_n"}, allowed={"_n"}
        )
    return dict(table)


def _tensors(path: Path, table: Map[str, Any]) -> dict[Kind, dict[Role, Rule]]:
    """Kind → role → rule."""
    _known(path, "tensors.", table, ROLES, required=ROLES)
    rules: dict[Kind, dict[Role, Rule]] = {}
    for kind, roles in ROLES.items():
        given = _typed(path, f"tensors.{kind}", table[kind], dict)
        _known(path, f"tensors.{kind}.", given, roles, required=roles)
        rules[kind] = {role: _rule(path, f"tensors.{kind}.{role}", given[role], kind, role) for role in roles}
    return rules


def _rule(path: Path, where: str, value: Any, kind: Kind, role: Role) -> Rule:
    """One tensor's name and axes; a tensor of one axis needs none said."""
    ours = _our_axes(kind, role)
    table = {"name": value, "axes": ours} if isinstance(value, str) and " " not in ours else value
    _known(path, f"{where}.", _typed(path, where, table, dict), ("name", "axes"), required=("name", "axes"))
    name, axes = _typed(path, f"{where}.name", table["name"], str), _typed(path, f"{where}.axes", table["axes"], str)
    _check_places(path, f"{where}.name", name, required={"unit"}, allowed={"unit"})
    try:
        compile_move(axes, ours)
    except ValueError as error:
        raise UsageError(f"{path}: {where}.axes must name {ours!r} in their order, found {axes!r}") from error
    return Rule(name, axes)


def _our_axes(kind: Kind, role: Role) -> str:
    """The order of our axes for a role of a kind."""
    return Unit("", kind, {}).axes(role)


def _check_places(path: Path, where: str, pattern: str, *, required: set[str], allowed: set[str]) -> None:
    """Refuse a pattern whose places are not those that its key can fill."""
    try:
        found = _places(pattern)
    except ValueError as error:
        raise UsageError(f"{path}: {where}: bad pattern {pattern!r}: {error}") from error
    if not required <= found <= allowed:
        wanted = ", ".join(f"{{{name}}}" for name in sorted(required)) or "no places"
        raise UsageError(f"{path}: {where}: pattern {pattern!r} must have {wanted}")


def _places(pattern: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(pattern) if name is not None}


def _fill_index(mapping: Mapping) -> None:
    """File every pattern under its skeleton, so that a name is compared with the few that can fit."""
    for generic, patterns in mapping.units.items():
        for theirs in patterns:
            for role, rule in mapping.tensors[_kind(generic)].items():
                before, _, after = rule.name.partition("{unit}")
                expression = re.compile(f"{re.escape(before)}(?P<unit>{_regex(theirs).pattern}){re.escape(after)}")
                skeleton = _skeleton(rule.name.format(unit=re.sub(r"\{[bln]\}", "0", theirs)))
                mapping._index.setdefault(skeleton, []).append((expression, generic, role))  # noqa: SLF001


# -- names and numbers -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 14)  # every table asks for the same names
def _skeleton(name: str) -> str:
    """A name with every number replaced by `#`."""
    return re.sub(r"\d+", "#", name)


def _regex(pattern: str) -> re.Pattern[str]:
    """A pattern with its places as groups; the same place twice must have the same number."""
    parts, seen = [], set[str]()
    for literal, name, _, _ in Formatter().parse(pattern):
        parts.append(re.escape(literal))
        if name is not None:
            parts.append(f"(?P={name})" if name in seen else PLACES[name])
            seen.add(name)
    return re.compile("".join(parts))


def _generic(unit: str) -> tuple[str, dict[str, int]]:
    """`block2.layer3.norm1` → `block{b}.layer{l}.norm1` and its numbers."""
    found = re.fullmatch(r"(?:(block)(\d+)\.layer(\d+)|(transition)(\d+))\.(\w+)", unit)
    if found is None:
        return unit, {}
    if found[1]:
        return f"block{{b}}.layer{{l}}.{found[6]}", {"b": int(found[2]), "l": int(found[3])}
    return f"transition{{b}}.{found[6]}", {"b": int(found[5])}


def _kind(unit: str) -> Kind:
    """The kind of a unit, from its last word."""
    last = unit.rpartition(".")[2]
    return "dense" if last == "dense" else "norm" if last.startswith("norm") else "conv"


def _named_sizes(axes: str, shape: tuple[int, ...]) -> dict[str, int]:
    """Axis → length; nothing when the number of axes is another."""
    names = axes.split()
    return dict(zip(names, shape, strict=True)) if len(names) == len(shape) else {}


def _sizes(axes: list[str], shape: tuple[int, ...]) -> str:
    """`o=64 i=3 h=7 w=7`; the bare shape when the number of axes is another."""
    if len(axes) != len(shape):
        return f"shape {shape}"
    return " ".join(f"{axis}={length}" for axis, length in zip(axes, shape, strict=True))
