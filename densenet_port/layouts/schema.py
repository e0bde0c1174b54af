"""A mapping table checked strictly, key by key: TOML in, the compiled fields of a `Layout` out.

An unknown key is an error, and so is a missing one, or a pattern whose places are not those that its key can fill. What
the keys mean stands in CONTRIBUTING.md. Patterns hold `{b}` (block), `{l}` (layer), `{h}` (layer of the head), `{n}`
(layers in the block), each counted from `first`, `{k}` (blocks), and what follows from one of them: `{2b+2}`; `{unit}`
is the unit as the layout spells it; `{_n}` is a running number, absent for number 0.
"""

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

from densenet_port.errors import MisfitError, UsageError
from densenet_port.extras import SOFTWARE
from densenet_port.layouts.transform import FOLDS, compile_move
from densenet_port.network.architecture import Architecture
from densenet_port.network.channels import CONCATENATIONS, FLATTENS
from densenet_port.network.contract import ENTRIES, Contract, Input, Resize
from densenet_port.network.graph import STEMS, stem_of
from densenet_port.network.units import HEAD, ROLES, Kind, Unit
from densenet_port.strict import Fields

NUMBER = r"(?:0|[1-9][0-9]{0,8})"  # as layouts write them: no zeros before, no other script's digits
RUNNING = f"(?:_(?P<order>{NUMBER}))?"
COUNTED = re.compile(r"(?P<factor>[1-9]?)(?P<key>[bklhn])(?P<offset>[+-][0-9]{1,2})?")
DEFAULTS: dict[str, Any] = {
    "reference": "numpy",
    "first": {},
    "only": {},
    "when": {},
    "prefer": {},
    "include": "",
    "ignore": [],
    "classes": 1000,
    "pool": "",
    "general": False,
    "concatenation": CONCATENATIONS[0],
    "flatten": FLATTENS[0],
    "body": "",
    "order": {},
    "assumed": [],
}
KEYS = ("layout", "about", "containers", "contract", "units", "tensors", *DEFAULTS)
OPTIONAL_ENTRIES = ("stem_stride", "stem_pool", "pool_rounding", "head_pool", "resize")
PICTURES = ("input", "resize")  # entries of the contract that say what is done to pictures, and go with the weights
OPTIONAL: dict[Kind, dict[str, str]] = {"conv": {"bias": "o"}}  # kind → part that a network need not have → its axes


def generic(unit: str) -> tuple[str, dict[str, int]]:
    """A unit's name without its numbers, and its numbers: `block{b}.layer{l}.norm1` and b=2, l=3."""
    match = re.fullmatch(r"(?:(block)(\d+)\.layer(\d+)|(transition)(\d+))\.(\w+)", unit)
    if match is None and (head := re.fullmatch(r"(head\.[a-z]+)(\d+)", unit)):
        return f"{head[1]}{{h}}", {"h": int(head[2])}
    if match is None:
        return unit, {}
    if match[1]:
        return f"block{{b}}.layer{{l}}.{match[6]}", {"b": int(match[2]), "l": int(match[3])}
    return f"transition{{b}}.{match[6]}", {"b": int(match[5])}


STEM_UNITS = tuple(dict.fromkeys(unit for stem in STEMS.values() for unit in stem.units))
FIRST_CONVS = tuple(dict.fromkeys(stem.names("conv")[0] for stem in STEMS.values()))  # each begins one stem or several
SMALLEST = Architecture(layers=(1, 1), growth_rate=1, init_channels=1)  # has every unit behind a stem that there is
IN_HEAD = re.compile(r"head\.(?:norm|dense)(?:[1-9]\d*|\{h\})")  # units before the head's last dense layer
ASSUMABLE = (*ENTRIES, "concatenation", "head")  # what a table may say without knowing it


class Pattern(NamedTuple):
    """How one part of a kind of unit is stored: its names (with `{unit}`; the first is written) and its axes.

    Several orders of axes are alternatives of which a file has one; the first is written.
    """

    names: tuple[str, ...]
    axes: tuple[str, ...]


def shared_rules(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    """The rules by which tensors are ignored, of a file that tables include: it has nothing else."""
    shared = Fields(str(path), content, UsageError)
    shared.check_keys(["ignore"])
    return _some(shared, "ignore")


def compiled(path: Path, content: dict[str, Any], shared: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a Layout that a parsed table gives. Raises UsageError that names the file and the key.

    `shared` are the rules that it includes.
    """
    table = Fields(str(path), DEFAULTS | content, UsageError)
    table.check_keys(KEYS, optional=["units"] if "order" in content else [])
    contract, carried = _contract(table.fields("contract"))
    running_names, running_containers = _order(table.fields("order"))
    only = _only(table.fields("only"))
    classes = table.value("classes", int)
    units, exceptions = _units(table.fields("units"), only, classes) if "units" in content else ({}, {})
    tensors, optional, fold = _tensors(table.fields("tensors"), classes)
    return {
        "name": table.text("layout"),
        "about": table.text("about"),
        "containers": table.texts("containers"),
        "reference": table.one_of("reference", SOFTWARE),
        "first_numbers": _first(table.fields("first")),
        "ignore": (*shared, *table.texts("ignore")),
        "only": only,
        "when": table.fields("when").content,
        "prefer": table.fields("prefer").content,
        "classes": classes,
        "pool": table.text("pool"),
        "general": table.value("general", bool),
        "concatenation": table.one_of("concatenation", CONCATENATIONS),
        "flatten": table.one_of("flatten", FLATTENS),
        "body_prefix": table.text("body"),
        "contract": contract,
        "carried": carried,
        "assumed": _assumed(table),
        "units": units,
        "exceptions": exceptions,
        "running_names": running_names,
        "running_containers": running_containers,
        "tensors": tensors,
        "optional": optional,
        "norm_parts": tuple(part for part in content["tensors"]["norm"] if part != "fold"),
        "fold": fold,
    }


# -- key by key --------------------------------------------------------------------------------------------------------


def _first(first: Fields) -> dict[str, int]:
    """The number that the first block, layer or running number has."""
    places = ("b", "l", "h", "n")
    first.check_keys(places, optional=places)
    return {place: first.value(place, int) for place in first.content}


def _only(only: Fields) -> dict[str, tuple[Any, ...]]:
    """Number of an architecture → the values that the layout can hold."""
    numbers = [entry.name for entry in fields(Architecture)]
    only.check_keys(numbers, optional=numbers)
    allowed: dict[str, tuple[Any, ...]] = {}
    for number, value in only.content.items():
        alternatives = value if isinstance(value, list) else [value]
        allowed[number] = tuple(tuple(one) if isinstance(one, list) else one for one in alternatives)
    for stem in allowed.get("stem", ()):
        try:
            stem_of(stem)
        except KeyError as error:
            raise only.wrong("stem", f"one of {', '.join(STEMS)}, or such as 5x5-norm", repr(stem)) from error
    return allowed


def _contract(contract: Fields) -> tuple[Contract, frozenset[str]]:
    """The contract, and which of its entries go with the weights from file to file: `PICTURES` always do."""
    keys = [entry.name for entry in fields(Contract)]
    contract.check_keys([*keys, "carried"], optional=("carried", *OPTIONAL_ENTRIES))
    contract.value("epsilon", float)
    image = contract.fields("input")
    image.check_keys(entry.name for entry in fields(Input))
    image.value("scale", float)
    image.values("mean", float)
    image.values("std", float)
    if "resize" in contract.content:
        contract.fields("resize").check_keys(entry.name for entry in fields(Resize))
    plain = {key: value for key, value in contract.content.items() if key != "carried"}
    try:
        return Contract.from_json(plain), _carried(contract, keys)
    except MisfitError as error:
        raise contract.error(f"{contract.document}: {error.message}") from error


def _carried(contract: Fields, keys: list[str]) -> frozenset[str]:
    """All entries for true, none for false, else those listed; and whatever is done to pictures."""
    carried = contract.content.get("carried", False)
    if isinstance(carried, bool):
        return frozenset(keys if carried else PICTURES)
    listed = contract.texts("carried")
    if unknown := [key for key in listed if key not in keys]:
        raise contract.wrong("carried", f"some of {', '.join(keys)}", repr(unknown[0]))
    return frozenset([*listed, *PICTURES])


def _assumed(table: Fields) -> frozenset[str]:
    """What the table says without knowing it."""
    listed = table.texts("assumed")
    if unknown := [key for key in listed if key not in ASSUMABLE]:
        raise table.wrong("assumed", f"some of {', '.join(ASSUMABLE)}", repr(unknown[0]))
    return frozenset(listed)


def _units(
    units: Fields, only: Mapping[str, tuple[Any, ...]], classes: int
) -> tuple[dict[str, tuple[str, ...]], dict[str, dict[str, str]]]:
    """Generic unit → its patterns, the usual one first; and → the pattern that an architecture has instead.

    Those of every network that the layout can hold must be there; the stem is the table's own where `only` names none.
    """
    begun = [kind for kind, stem in STEMS.items() if stem.units[0] in units.content]
    kinds = [*only.get("stem", ())] or begun or list(STEMS)[:1]
    optional = [unit for unit in units.content if IN_HEAD.fullmatch(unit)] if classes else []
    units.check_keys([*(unit for kind in kinds for unit in stem_of(kind).units), *_body(only, classes), *optional])
    patterns: dict[str, tuple[str, ...]] = {}
    exceptions: dict[str, dict[str, str]] = {}
    for unit in units.content:
        usual, others = _unit_patterns(units, unit)
        patterns[unit] = tuple(dict.fromkeys([*usual, *chain(*others.values())]))
        exceptions[unit] = {architecture: texts[0] for architecture, texts in others.items()}
        for pattern in patterns[unit]:
            numbered = {"_n"} if unit == HEAD and pattern != usual[0] else set()  # a user's own head
            _check_places(units, unit, pattern, required=_places(unit), allowed={*_places(unit), *"kn"} | numbered)
    return patterns, exceptions


def _body(only: Mapping[str, tuple[Any, ...]], classes: int) -> list[str]:
    """The generic units behind a stem of the networks that a layout can hold: all there are, but for what none has."""
    smallest = SMALLEST
    if only.get("bottleneck") == (0,):
        smallest = replace(smallest, bottleneck=0)
    if only.get("final_norm") == (False,):
        smallest = replace(smallest, final_norm=False)
    if {len(layers) for layers in only.get("layers", ((1, 1),))} == {1}:
        smallest = replace(smallest, layers=(1,))
    if not classes:
        smallest = smallest.without_head()
    return [*dict.fromkeys(generic(unit)[0] for unit in smallest.units if unit not in STEM_UNITS)]


def _unit_patterns(units: Fields, unit: str) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """The usual patterns of one unit, and architecture → its own."""
    if not isinstance(units.raw(unit), dict):
        return _some(units, unit), {}
    named = units.fields(unit)
    own = {_architecture_name(units, unit, name): _some(named, name) for name in named.content if name != "any"}
    return _some(named, "any"), own


def _architecture_name(units: Fields, unit: str, name: str) -> str:
    """The name that an architecture goes by."""
    try:
        return Architecture.named(name).name
    except UsageError as error:
        raise units.wrong(unit, "names of architectures, or any", repr(name)) from error


def _order(order: Fields) -> tuple[dict[Kind, tuple[str, ...]], tuple[str, ...]]:
    """Kind → the patterns of its running numbers, the one that is written first; and in which containers they hold."""
    if not order.content:
        return {}, ()
    order.check_keys([*ROLES, "containers"], optional=["containers"])
    patterns = {kind: _some(order, kind) for kind in ROLES}
    for kind, texts in patterns.items():
        for place, pattern in enumerate(texts):
            _check_places(order, kind, pattern, required=set() if place else {"_n"}, allowed={"_n"})
    return patterns, order.texts("containers") if "containers" in order.content else ()


def _tensors(
    tensors: Fields, classes: int
) -> tuple[dict[Kind, dict[str, Pattern]], dict[Kind, dict[str, Pattern]], str | None]:
    """Kind → part → pattern, the same for parts that a network need not have, and the fold of the norms.

    A layout of bodies has no dense layers.
    """
    kinds = [kind for kind in ROLES if classes or kind != "dense"]
    tensors.check_keys(kinds)
    norm = tensors.fields("norm")
    fold = norm.one_of("fold", FOLDS) if "fold" in norm.content else None
    patterns: dict[Kind, dict[str, Pattern]] = {kind: {} for kind in ROLES}
    optional: dict[Kind, dict[str, Pattern]] = {kind: {} for kind in ROLES}
    for kind in kinds:
        parts, axes, more = tensors.fields(kind), part_axes(kind, fold), OPTIONAL.get(kind, {})
        parts.check_keys([*axes, *more, "fold"] if kind == "norm" else [*axes, *more], optional=["fold", *more])
        patterns[kind] = {part: _pattern(parts, part, canonical) for part, canonical in axes.items()}
        optional[kind] = {part: _pattern(parts, part, more[part]) for part in more if part in parts.content}
    return patterns, optional, fold


def part_axes(kind: Kind, fold: str | None) -> dict[str, str]:
    """The parts of a kind of unit, with our order of their axes: its roles, and what the fold of the norms adds."""
    unit = Unit("", kind, {})
    axes: dict[str, str] = {role: unit.axes(role) for role in ROLES[kind]}
    return {**axes, **FOLDS[fold].extra} if fold and kind == "norm" else axes


def _pattern(parts: Fields, part: str, canonical: str) -> Pattern:
    """One part's names and axes, whose order in our tensor is `canonical`; a tensor of one axis needs none given."""
    names, axes = f"{part}.name", f"{part}.axes"
    if " " in canonical or isinstance(parts.raw(part), dict):
        table = parts.fields(part)
        table.check_keys(("name", "axes"))
        pattern = Pattern(_some(table, "name"), _some(table, "axes"))
    else:
        pattern = Pattern(_some(parts, part), (canonical,))
    for name in pattern.names:
        _check_places(parts, names, name, required={"unit"}, allowed={"unit"})
    for alternative in pattern.axes:
        try:
            compile_move(alternative, canonical)
        except ValueError as error:
            raise parts.wrong(axes, f"the axes {canonical!r} in some order", repr(alternative)) from error
    return pattern


def _some(table: Fields, key: str) -> tuple[str, ...]:
    """One string or several."""
    texts = table.texts(key)
    if not texts:
        raise table.wrong(key, "at least one string", "[]")
    return texts


def _check_places(
    fields: Fields, key: str, pattern: str, *, required: AbstractSet[str], allowed: AbstractSet[str]
) -> None:
    """Refuse a pattern whose places are not those that its key can fill."""
    try:
        places = _places(pattern)
    except ValueError as error:
        raise fields.wrong(key, "a pattern", f"{pattern!r}: {error}") from error
    if not required <= places <= allowed:
        expected = " and ".join(f"{{{name}}}" for name in sorted(required)) or "no places"
        raise fields.wrong(key, f"a pattern with {expected}", repr(pattern))


@lru_cache(maxsize=1 << 9)  # tables say much alike
def _places(pattern: str) -> frozenset[str]:
    """What the places of a pattern count, or are called."""
    names = (name for _, name, _, _ in Formatter().parse(pattern) if name is not None)
    return frozenset(place[0] if (place := counted(name)) else name for name in names)


# -- names and numbers -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 14)  # every table asks for the same names
def skeleton(name: str) -> str:
    """A name with every number replaced by `#`."""
    return re.sub(r"\d+", "#", name)


@lru_cache(maxsize=1 << 10)
def regex(pattern: str) -> re.Pattern[str]:
    """A pattern with its places as groups; the same place twice must have the same number."""
    parts, seen = [], set[str]()
    for literal, name, _, _ in Formatter().parse(pattern):
        parts.append(re.escape(literal))
        if name is not None:
            place = counted(name)
            group = "_".join(map(str, place)).replace("-", "minus") if place else name
            new = f"(?P<{group}>{NUMBER})" if place else RUNNING
            parts.append(f"(?P={group})" if group in seen else new)
            seen.add(group)
    return re.compile("".join(parts))


@lru_cache(maxsize=1 << 7)
def counted(name: str) -> tuple[str, int, int] | None:
    """What a place counts, times what, plus what: `2b+2` is b, 2 and 2. None for another place."""
    match = COUNTED.fullmatch(name)
    return (match["key"], int(match["factor"] or 1), int(match["offset"] or 0)) if match else None


def numbered(pattern: str, numbers: Mapping[str, int]) -> str:
    """A pattern with numbers in its places."""
    parts = []
    for literal, name, _, _ in Formatter().parse(pattern):
        place = counted(name) if name is not None else None
        number = str(numbers[place[0]] * place[1] + place[2]) if place else ""
        parts.append(literal + number)
    return "".join(parts)


def numbers_of(groups: Mapping[str, str | None]) -> dict[str, int] | None:
    """What the places of a pattern count, from the groups of its expression; None where two do not agree."""
    numbers: dict[str, int] = {}
    for group, text in groups.items():
        key, _, rest = group.partition("_")
        if text is None or not rest:
            continue
        factor, offset = (int(number.replace("minus", "-")) for number in rest.split("_"))
        number, left = divmod(int(text) - offset, factor)
        if left or number < 0 or numbers.setdefault(key, number) != number:
            return None
    return numbers


def kind_of(unit: str) -> Kind:
    """The kind of a unit, from its last word."""
    last = unit.rpartition(".")[2]
    return "dense" if last.startswith("dense") else "norm" if last.startswith("norm") else "conv"
