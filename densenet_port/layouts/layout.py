"""Layouts: one table each, which says how a framework names, orders and stores a DenseNet's tensors.

A table says how a layout names its units (`[units]`, or `[order]` where a file keeps no names), how a unit's tensors
are named and which way round their axes are (`[tensors]`), which tensors may be ignored, and the contract. `schema`
checks it. Here it spells the tensors of an architecture, and recognises the names that it spells; `match` holds it
against a file.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from itertools import chain, count, product
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from densenet_port.checkpoint import Array
from densenet_port.errors import DiskError, MisfitError, UsageError, nearest
from densenet_port.files import resource, sha256
from densenet_port.layouts.schema import (
    COUNTED,
    Pattern,
    compiled,
    generic,
    kind_of,
    numbered,
    numbers_of,
    part_axes,
    regex,
    shared_rules,
    skeleton,
)
from densenet_port.layouts.transform import FOLDS, Fold, Recipe
from densenet_port.network.architecture import Architecture
from densenet_port.network.blueprint import Blueprint
from densenet_port.network.channels import Concatenation, Flatten, channel_order
from densenet_port.network.contract import Contract
from densenet_port.network.graph import graph
from densenet_port.network.head import USUAL
from densenet_port.network.units import HEAD, Kind, Role, Slot, Unit, is_head
from densenet_port.strict import Fields

SPLIT = "./"  # what may stand between a prefix and a name

STRUCTURE = "structure"  # the layout of a file that is read without a table

Kernels = Literal["theano", "tensorflow"]
Ordering = Literal["th", "tf"]


class TensorKey(NamedTuple):
    """Unit and part: one tensor of a layout. A part is a role, or what a fold needs beside the roles."""

    unit: str
    part: str

    def __str__(self) -> str:
        """`block1.layer2.norm1.second_scale`."""
        return f"{self.unit}.{self.part}"


class TensorSpec(NamedTuple):
    """How one tensor is written: its name and the order of its axes."""

    name: str
    axes: str


class Line(NamedTuple):
    """One way in which a table names a tensor: the tensor's pattern, with `{unit}`, and that of its unit.

    `unit` is the pattern with which the layout spells the unit, `generic` the unit's own name without its numbers.
    """

    tensor: str
    unit: str
    generic: str
    part: str


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One table, checked and compiled. Build it with `Layout.load`; CONTRIBUTING.md tells what the keys mean.

    `first_numbers` are those of the first block, layer and running number. `units` gives the patterns of each generic
    unit, the usual one first, and `exceptions` the pattern that an architecture has instead. `running_names` are
    patterns by kind, for files that keep no names, and `running_containers` the containers that do not (none: all).
    `general` says that it can hold whatever the graph can say; any other layout has the usual head, a final norm and
    one reduction, unless `only` says so. `concatenation` and `flatten` are the order in which its software joins maps,
    and reads a flattened one (`network.channels`).
    `body_prefix` stands before the names of the body of a network with a head, `pool` is the module of the stem's pool.
    `classes` are those of the networks that the software publishes, `carried` the entries of the contract that go with
    the weights from file to file.
    `tensors` gives name and axes by kind and part, `optional` those of parts that a network need not have, `norm_parts`
    the parts of a norm in the order of the table, and `fold` the name of what makes a norm's roles of its parts.
    `assumed` are entries of the contract, `concatenation` and `head`, where the table says them without knowing.
    `digest` is the SHA-256 of the table, followed by what it includes.
    """

    path: Path
    digest: str
    name: str
    about: str
    containers: tuple[str, ...]
    reference: str
    first_numbers: Mapping[str, int]
    ignore: tuple[str, ...]
    only: Mapping[str, tuple[Any, ...]]
    when: Mapping[str, Any]
    prefer: Mapping[str, Any]
    classes: int
    pool: str
    general: bool
    concatenation: Concatenation
    flatten: Flatten
    body_prefix: str
    contract: Contract
    carried: frozenset[str]
    units: Mapping[str, tuple[str, ...]]
    exceptions: Mapping[str, Mapping[str, str]]
    running_names: Mapping[Kind, tuple[str, ...]]
    running_containers: tuple[str, ...]
    tensors: Mapping[Kind, Mapping[str, Pattern]]
    optional: Mapping[Kind, Mapping[str, Pattern]]
    norm_parts: tuple[str, ...]
    fold: str | None
    assumed: frozenset[str] = frozenset()

    @classmethod
    def load(cls, layout: str | Path) -> "Layout":
        """The layout of a name, or of a table of the user's own.

        Raises UsageError for an unknown layout or a table that is not exactly right, naming file and key.
        """
        if isinstance(layout, Path):
            return _read(layout)
        if layout not in layouts():
            hint = f"{nearest(layout, layouts())}known: {', '.join(layouts())}"
            raise UsageError(f"unknown layout {layout!r}", hint=hint)
        return _shipped(resource("mappings") / f"{layout}.toml")

    @property
    def is_own(self) -> bool:
        """Whether the table is one of this project's, and no user's own."""
        return self.path.parent == resource("mappings")

    @property
    def has_software(self) -> bool:
        """Whether the layout is some software's, and was not made for one file by its structure."""
        return self.path != structure_path()

    # -- writing -------------------------------------------------------------------------------------------------------

    def refusal(self, architecture: Architecture) -> str | None:
        """Why the layout cannot hold a network of these numbers; None where it can."""
        for number, allowed in self._allowed(architecture).items():
            if not self.holds(number, architecture):
                known, value = " or ".join(map(str, allowed)), getattr(architecture, number)
                return f"{self.name} cannot hold this network: {number} must be {known}, found {value}"
        if self.units and HEAD not in self.units and architecture.classes is not None:
            return f"{self.name} cannot hold this network: its table names no head; --no-top leaves it out"
        return None

    def holds(self, number: str, architecture: Architecture) -> bool:
        """Whether the layout can hold one of the numbers of an architecture."""
        value, allowed = getattr(architecture, number), self._allowed(architecture).get(number)
        is_form = number == "head" and any(fnmatchcase(value, form) for form in allowed or ())
        return allowed is None or value in allowed or is_form

    def _allowed(self, architecture: Architecture) -> dict[str, tuple[Any, ...]]:
        """Number of an architecture → the values that the layout can hold."""
        if self.general:
            return {**self.only}
        usual: dict[str, tuple[Any, ...]] = {"final_norm": (True,), "head": (USUAL,)}
        if isinstance(architecture.reduction, tuple):
            usual["reduction"] = ("the same for all transitions",)
        return {**usual, **self.only}

    def spell(
        self, architecture: Architecture, ordering: Ordering | None = None, kernels: Kernels | None = None
    ) -> dict[TensorKey, TensorSpec]:
        """Tensor → the layout's name and axes, in order of execution.

        Where kernels have several orders of axes, `ordering` and `kernels` choose among them; the first is the usual.
        Raises MisfitError for what the layout cannot say, UsageError for a choice that it does not have.
        """
        self._check(architecture)
        axes = self._written_axes(ordering, kernels)
        layers = self.spell_units(architecture)
        specs: dict[TensorKey, TensorSpec] = {}
        for unit in architecture.units.values():
            for part, name in self.tensor_names(unit.kind, layers[unit.name]).items():
                specs[TensorKey(unit.name, part)] = TensorSpec(name, axes[unit.kind, part])
        return specs

    def blueprint(self, architecture: Architecture, contract: Contract) -> Blueprint:
        """The network under the layout's names, for containers that hold a graph. Raises as `spell` does."""
        self._check(architecture)
        layers = self.spell_units(architecture)
        tensors = {unit.name: self.tensor_names(unit.kind, layers[unit.name]) for unit in architecture.units.values()}
        return Blueprint(architecture=architecture, contract=contract, layers=layers, tensors=tensors)

    def _check(self, architecture: Architecture) -> None:
        """Raise MisfitError where the layout cannot hold an architecture."""
        if refusal := self.refusal(architecture):
            raise MisfitError(refusal)

    def _written_axes(self, ordering: Ordering | None, kernels: Kernels | None) -> dict[tuple[Kind, str], str]:
        """The order of axes that is written, by kind and part."""
        alternatives = self.tensors["conv"]["kernel"].axes
        for option, choice in (("--dim-ordering", ordering), ("--dst-kernels", kernels)):
            if choice and len(alternatives) == 1:
                raise UsageError(f"{self.name} stores its kernels in one way only", hint=f"leave out {option}")
        chosen = [
            axes
            for axes in alternatives
            if (ordering is None or (axes.split()[0] == "o") == (ordering == "th"))
            and (kernels is None or ("-" in axes) == (kernels == "theano"))
        ]
        if not chosen:
            raise UsageError(f"{self.name} has no kernels of ordering {ordering} for {kernels}")
        axes = {
            (kind, part): pattern.axes[0] for kind, parts in self.tensors.items() for part, pattern in parts.items()
        }
        return axes | {("conv", "kernel"): chosen[0]}

    def tensor_names(self, kind: Kind, layer: str) -> dict[str, str]:
        """Part → the name with which its tensor is written, for a unit of a kind that the layout calls `layer`."""
        return {part: pattern.names[0].format(unit=layer) for part, pattern in self.tensors[kind].items()}

    def spell_units(self, architecture: Architecture) -> dict[str, str]:
        """Unit → the layout's name for it, which is also what its software calls the module or layer."""
        if not self.units:
            return self._spell_in_order(architecture)
        body = self.body_prefix if HEAD in architecture.units else ""
        return {
            unit.name: ("" if is_head(unit.name) else body) + self.spell_unit(unit, architecture)
            for unit in architecture.units.values()
        }

    def spell_unit(self, unit: Unit, architecture: Architecture) -> str:
        """The name of one unit, without what stands before those of the body. Raises MisfitError where it has none."""
        unnumbered, numbers = (unit.name, {}) if unit.name in self.units else generic(unit.name)
        if unnumbered not in self.units:
            raise MisfitError(f"{self.name} has no place for {unit.name}")
        pattern = self.exceptions[unnumbered].get(architecture.name, self.units[unnumbered][0])
        layers = architecture.layers
        spelled = {key: number - 1 + self.first_numbers.get(key, 1) for key, number in numbers.items()}
        spelled["k"] = len(layers)
        spelled["n"] = layers[min(numbers.get("b", len(layers)), len(layers)) - 1]
        return numbered(pattern, spelled)

    def _spell_in_order(self, architecture: Architecture) -> dict[str, str]:
        """Units by running number among those of their kind, behind the ones with a name of their own."""
        names = {kind: self._names_in_order(kind) for kind in self.running_names}
        return {unit.name: next(names[unit.kind]) for unit in architecture.units.values()}

    def _names_in_order(self, kind: Kind) -> Iterator[str]:
        """The names of the units of a kind, without end."""
        yield from (pattern for pattern in self.running_names[kind] if pattern in self.unnumbered)
        for number in count(self.first_numbers.get("n", 0)):
            yield self.running_names[kind][0].format(_n=f"_{number}" if number else "")

    @property
    def unnumbered(self) -> set[str]:
        """The names without a number among those that go by order: a file has all of them."""
        return {name for patterns in self.running_names.values() for name in patterns if "{_n}" not in name}

    # -- parts ---------------------------------------------------------------------------------------------------------

    def keys(self, architecture: Architecture) -> dict[TensorKey, Kind]:
        """Every tensor that a file of the layout has, in order of execution, with the kind of its unit."""
        return {
            TensorKey(unit.name, part): unit.kind
            for unit in architecture.units.values()
            for part in self.tensors[unit.kind]
        }

    def canonical_axes(self, key: TensorKey) -> str:
        """The order of our axes for one of the layout's tensors."""
        return part_axes(kind_of(key.unit), self.fold)[key.part]

    def content(self, key: TensorKey) -> Role | float:
        """What is written for one of the layout's tensors: a role of its unit, or a constant."""
        fold = self._fold_of(key.unit)
        return cast("Role | float", fold.written.get(key.part, key.part) if fold else key.part)

    def channel_order(self, architecture: Architecture) -> Mapping[str, Array]:
        """Unit → for each channel that it reads in our order, its place in the layout's, where that is another."""
        return channel_order(graph(architecture, Contract()), self.concatenation, self.flatten)

    def recipe(self, slot: Slot) -> Recipe | None:
        """How a slot is computed of several of the layout's tensors; None where it is the one of its role's name."""
        fold = self._fold_of(slot.unit)
        return fold.recipes.get(slot.role) if fold else None

    def parts(self, slot: Slot) -> tuple[str, ...]:
        """The parts from which a slot is computed."""
        recipe = self.recipe(slot)
        return recipe.parts if recipe else (slot.role,)

    def _fold_of(self, unit: str) -> Fold | None:
        """The fold that makes a unit's slots; only norms have one."""
        return FOLDS[self.fold] if self.fold and kind_of(unit) == "norm" else None

    # -- reading -------------------------------------------------------------------------------------------------------

    @cached_property
    def root(self) -> str:
        """What every name of the body begins with, up to a dot or a slash: `features.`; or nothing."""
        names = [name for unit, patterns in self.units.items() if not is_head(unit) for name in patterns]
        root = re.match(r"\w+[./]", names[0]) if names else None
        return root[0] if root and all(name.startswith(root[0]) for name in names) else ""

    def names_head(self, unit: str) -> bool:
        """Whether a name is one that the table has for the head."""
        return any(regex(pattern).fullmatch(unit) for pattern in self.units.get(HEAD, ()))

    def patterns(self, kind: Kind) -> Iterator[tuple[str, Pattern]]:
        """Part → pattern, of all parts that a unit of a kind may have."""
        return chain(self.tensors[kind].items(), self.optional[kind].items())

    def recognise(self, name: str) -> tuple[TensorKey, str] | None:
        """Which tensor a name means, and the name of its unit within it; None for a name that no line has."""
        for line in self._lines.get(skeleton(name), ()):
            unit_name = _within(line.tensor, name)
            match = regex(line.unit).fullmatch(unit_name) if unit_name else None
            if match and (unit := self._unit(line.generic, match)):
                return TensorKey(unit, line.part), match[0]
        return None

    def _unit(self, unnumbered: str, match: re.Match[str]) -> str | None:
        """The unit with the numbers of a name: `block{b}.layer{l}.norm1` → `block2.layer3.norm1`; None without any."""
        numbers = numbers_of(match.groupdict())
        if numbers is None:
            return None
        return unnumbered.format(**{key: n + 1 - self.first_numbers.get(key, 1) for key, n in numbers.items()})

    @cached_property
    def _lines(self) -> dict[str, list[Line]]:
        """Skeleton → the lines that spell such a name, so that a name is compared with the few that can fit."""
        lines: dict[str, list[Line]] = {}
        for unit, patterns in self.units.items():
            names = [(name, part) for part, pattern in self.patterns(kind_of(unit)) for name in pattern.names]
            for pattern in patterns:
                zeros = re.sub(rf"\{{{COUNTED.pattern}\}}", "0", pattern)
                samples = {zeros.replace("{_n}", number) for number in ("", "_0")}
                for sample, (name, part) in product(samples, names):
                    line = Line(name, pattern, unit, part)
                    lines.setdefault(skeleton(name.format(unit=sample)), []).append(line)
        return lines


def _within(tensor: str, name: str) -> str | None:
    """What stands for the unit in a name of a tensor's pattern; None where the name is another."""
    before, _, after = tensor.partition("{unit}")
    is_such = name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after)
    return name[len(before) : len(name) - len(after)] if is_such else None


@lru_cache(maxsize=1 << 7)
def _shipped(path: Path) -> Layout:
    """The layout of a table of this project's, read once in a process; a user's own may change meanwhile."""
    return _read(path)


def _read(path: Path) -> Layout:
    """The layout of a table."""
    text, content = _toml(path)
    rules: tuple[str, ...] = ()
    if "include" in content:
        shared = _included(path, content)
        shared_text, rules = _shared(shared)
        text += shared_text
    return Layout(path=path, digest=sha256(text), **compiled(path, content, rules))


@lru_cache(maxsize=1 << 4)
def _shared(path: Path) -> tuple[bytes, tuple[str, ...]]:
    """A file of rules that tables include, which are this project's."""
    text, content = _toml(path)
    return text, shared_rules(path, content)


def _toml(path: Path) -> tuple[bytes, dict[str, Any]]:
    """A file's bytes, and what they say. Raises DiskError and UsageError."""
    try:
        text = path.read_bytes()
        return text, tomllib.loads(text.decode())
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from error


def _included(path: Path, content: dict[str, Any]) -> Path:
    """The file of `mappings/shared/` that a table includes. Raises UsageError for a name that none has."""
    files = {file.stem: file for file in sorted((resource("mappings") / "shared").glob("*.toml"))}
    return files[Fields(str(path), content, UsageError).one_of("include", files)]


def layouts() -> tuple[str, ...]:
    """The names of the layouts that have a table, in alphabetical order."""
    return tuple(sorted(path.stem for path in resource("mappings").glob("*.toml")))


def structure_path() -> Path:
    """What stands for the table of a layout that was made for one file by its structure."""
    return resource("mappings") / STRUCTURE
