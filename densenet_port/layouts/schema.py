"""A mapping table checked strictly, key by key: TOML in, the compiled parts of a `Mapping` out.

An unknown key is an error, and so is a missing one, or a pattern whose places are not those that its key can fill. What
the keys mean stands in CONTRIBUTING.md. Patterns hold `{b}` (block), `{l}` (layer), `{n}` (layers in the block), each
counted from `first`; `{unit}` is the unit as the layout spells it; `{_n}` is a running number, absent for number 0.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple, cast

from densenet_port.errors import UsageError
from densenet_port.layouts.transform import FOLDS, compile_move
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract, Input
from densenet_port.network.units import ROLES, Kind, Role, Unit

PLACES = {"b": r"(?P<b>\d+)", "l": r"(?P<l>\d+)", "n": r"(?P<n>\d+)", "_n": r"(?:_(?P<order>\d+))?"}
KEYS = {
    *("layout", "about", "containers", "reference", "first", "only", "when", "ignore", "last_relu", "body"),
    *("contract", "units", "order", "tensors"),
}
OPTIONAL = {"reference", "first", "only", "when", "ignore", "last_relu", "body", "units", "order"}
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
PLAIN = ("stem.conv", "stem.norm")
DEEP = tuple(f"stem.{kind}{number}" for number in (1, 2, 3) for kind in ("conv", "norm"))
BODY = (
    *(f"block{{b}}.layer{{l}}.{part}" for part in ("norm1", "conv1", "norm2", "conv2")),
    *("transition{b}.norm", "transition{b}.conv", "final.norm", "head.dense"),
)


class Pattern(NamedTuple):
    """How one part of a kind of unit is stored: its names (with `{unit}`; the first is written) and its axes.

    Several orders of axes are alternatives of which a file has one; the first is written.
    """

    names: tuple[str, ...]
    axes: tuple[str, ...]


def compiled(path: Path, table: dict[str, Any]) -> dict[str, Any]:
    """The fields of a Mapping that a parsed table says. Raises UsageError that names the file and the key."""
    _known(path, "", table, KEYS, required=KEYS - OPTIONAL)
    if "units" not in table and "order" not in table:
        raise UsageError(f"{path}: missing key 'units'")
    contract, carried = _contract(path, table["contract"])
    order, order_in = _order(path, table.get("order", {}))
    units, own = _units(path, _typed(path, "units", table["units"], dict)) if "units" in table else ({}, {})
    tensors, fold = _tensors(path, _typed(path, "tensors", table["tensors"], dict))
    return {
        "layout": _typed(path, "layout", table["layout"], str),
        "about": _typed(path, "about", table["about"], str),
        "containers": _strings(path, "containers", table["containers"]),
        "reference": _one_of(path, "reference", table.get("reference", "numpy"), REFERENCES),
        "first": _first(path, table.get("first", {})),
        "ignore": _strings(path, "ignore", table.get("ignore", [])),
        "only": _only(path, table.get("only", {})),
        "when": dict(_typed(path, "when", table.get("when", {}), dict)),
        "last_relu": _typed(path, "last_relu", table.get("last_relu", ""), str),
        "body": _typed(path, "body", table.get("body", ""), str),
        "contract": contract,
        "carried": carried,
        "units": units,
        "own": own,
        "order": order,
        "order_in": order_in,
        "tensors": tensors,
        "fold": fold,
    }


# -- key by key --------------------------------------------------------------------------------------------------------


def _known(
    path: Path, where: str, table: Mapping[str, Any], keys: Iterable[str], *, required: Iterable[str] = ()
) -> None:
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


def _one_of(path: Path, where: str, value: Any, allowed: Iterable[str]) -> str:
    """The value, if it is one of those allowed."""
    if value not in allowed:
        raise UsageError(f"{path}: {where} must be one of {', '.join(allowed)}, found {value!r}")
    return str(value)


def _first(path: Path, table: Any) -> dict[str, int]:
    """The number that the first block, layer or running number has."""
    _known(path, "first.", _typed(path, "first", table, dict), ("b", "l", "n"))
    return {key: _typed(path, f"first.{key}", value, int) for key, value in table.items()}


def _only(path: Path, table: Any) -> dict[str, tuple[Any, ...]]:
    """Number of an architecture → the values that the layout can hold."""
    _known(path, "only.", _typed(path, "only", table, dict), [entry.name for entry in fields(Architecture)])
    return {key: tuple(map(_frozen, value if isinstance(value, list) else [value])) for key, value in table.items()}


def _frozen(value: Any) -> Any:
    """A list as a tuple, such as the layers of each block."""
    return tuple(value) if isinstance(value, list) else value


def _contract(path: Path, table: Any) -> tuple[Contract, frozenset[str]]:
    """The contract, and which of its entries go with the weights from file to file: the input always does."""
    table = dict(_typed(path, "contract", table, dict))
    keys = [entry.name for entry in fields(Contract)]
    carried = _carried(path, table.pop("carried", False), keys)
    _known(path, "contract.", table, keys, required=set(keys) - {"stem_pool", "pool_rounding"})
    picture = [entry.name for entry in fields(Input)]
    _known(path, "contract.input.", _typed(path, "contract.input", table["input"], dict), picture, required=picture)
    _typed(path, "contract.epsilon", table["epsilon"], float)
    for key, allowed in CHOICES.items():
        if key in table:
            _one_of(path, f"contract.{key}", table[key], allowed)
    return Contract.from_json(table), carried


def _carried(path: Path, value: Any, keys: list[str]) -> frozenset[str]:
    """All entries for true, none for false, else those listed; and the input."""
    if isinstance(value, bool):
        return frozenset(keys if value else ["input"])
    listed = _strings(path, "contract.carried", value)
    return frozenset([*(_one_of(path, "contract.carried", key, keys) for key in listed), "input"])


def _units(path: Path, table: Mapping[str, Any]) -> tuple[dict[str, tuple[str, ...]], dict[str, dict[str, str]]]:
    """Our generic unit → the layout's patterns, the usual one first; and architecture → its own, where it has one."""
    deep = any(key in table for key in DEEP)
    plain = not deep or any(key in table for key in PLAIN)
    _known(
        path,
        "units.",
        table,
        (*PLAIN, *DEEP, *BODY),
        required=(*(PLAIN if plain else ()), *(DEEP if deep else ()), *BODY),
    )
    units: dict[str, tuple[str, ...]] = {}
    own: dict[str, dict[str, str]] = {}
    for ours, theirs in table.items():
        where = f"units.{ours!r}"
        named = theirs if isinstance(theirs, dict) else {"any": theirs}
        if "any" not in named:
            raise UsageError(f"{path}: missing key {where + '.any'!r}")
        patterns = {name: _strings(path, f"{where}.{name}", value) for name, value in named.items()}
        usual = patterns.pop("any")
        units[ours] = tuple(dict.fromkeys((*usual, *(text for value in patterns.values() for text in value))))
        own[ours] = {Architecture.named(name).name: value[0] for name, value in patterns.items()}
        for pattern in units[ours]:
            numbered = {"_n"} if ours == "head.dense" and pattern != usual[0] else set()  # a user's own head
            _check_places(path, where, pattern, required=_places(ours), allowed={*_places(ours), "n"} | numbered)
    return units, own


def _order(path: Path, table: Any) -> tuple[dict[Kind, tuple[str, ...]], tuple[str, ...]]:
    """Kind → the patterns of its running numbers, the one that is written first; and in which containers they hold."""
    table = dict(_typed(path, "order", table, dict))
    containers = _strings(path, "order.containers", table.pop("containers", []))
    _known(path, "order.", table, ROLES, required=ROLES if table else ())
    order = {kind: _strings(path, f"order.{kind}", value) for kind, value in table.items()}
    for kind, patterns in order.items():
        for place, pattern in enumerate(patterns):
            required = set() if place else {"_n"}
            _check_places(path, f"order.{kind}", pattern, required=required, allowed={"_n"})
    return cast("dict[Kind, tuple[str, ...]]", order), containers


def _tensors(path: Path, table: Mapping[str, Any]) -> tuple[dict[Kind, dict[str, Pattern]], str | None]:
    """Kind → part → pattern, and the fold of the norms."""
    _known(path, "tensors.", table, ROLES, required=ROLES)
    given = {kind: dict(_typed(path, f"tensors.{kind}", table[kind], dict)) for kind in ROLES}
    fold = given["norm"].pop("fold", None)
    if fold is not None and fold not in FOLDS:
        raise UsageError(f"{path}: unknown fold {fold!r} in tensors.norm.fold (known: {', '.join(FOLDS)})")
    patterns: dict[Kind, dict[str, Pattern]] = {}
    for kind in ROLES:
        axes = part_axes(kind, fold)
        _known(path, f"tensors.{kind}.", given[kind], axes, required=axes)
        patterns[kind] = {
            part: _pattern(path, f"tensors.{kind}.{part}", given[kind][part], ours) for part, ours in axes.items()
        }
    return patterns, fold


def part_axes(kind: Kind, fold: str | None) -> dict[str, str]:
    """The parts of a kind of unit, with our order of their axes: its roles, and what the fold of the norms adds."""
    roles: dict[str, str] = {role: our_axes(kind, role) for role in ROLES[kind]}
    return roles | (dict(FOLDS[fold].extra) if fold and kind == "norm" else {})


def our_axes(kind: Kind, role: Role) -> str:
    """The order of our axes for a role of a kind."""
    return Unit("", kind, {}).axes(role)


def _pattern(path: Path, where: str, value: Any, ours: str) -> Pattern:
    """One part's names and axes; a tensor of one axis needs none said."""
    single = " " not in ours and isinstance(value, str | list)
    table = {"name": value, "axes": ours} if single else value
    _known(path, f"{where}.", _typed(path, where, table, dict), ("name", "axes"), required=("name", "axes"))
    names, axes = _strings(path, f"{where}.name", table["name"]), _strings(path, f"{where}.axes", table["axes"])
    for name in names:
        _check_places(path, f"{where}.name", name, required={"unit"}, allowed={"unit"})
    for alternative in axes:
        try:
            compile_move(alternative, ours)
        except ValueError as error:
            raise UsageError(
                f"{path}: {where}.axes must name {ours!r} in their order, found {alternative!r}"
            ) from error
    return Pattern(names, axes)


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


# -- names and numbers -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 14)  # every table asks for the same names
def skeleton(name: str) -> str:
    """A name with every number replaced by `#`."""
    return re.sub(r"\d+", "#", name)


def regex(pattern: str) -> re.Pattern[str]:
    """A pattern with its places as groups; the same place twice must have the same number."""
    parts, seen = [], set[str]()
    for literal, name, _, _ in Formatter().parse(pattern):
        parts.append(re.escape(literal))
        if name is not None:
            parts.append(f"(?P={name})" if name in seen else PLACES[name])
            seen.add(name)
    return re.compile("".join(parts))


def generic(unit: str) -> tuple[str, dict[str, int]]:
    """`block2.layer3.norm1` → `block{b}.layer{l}.norm1` and its numbers."""
    found = re.fullmatch(r"(?:(block)(\d+)\.layer(\d+)|(transition)(\d+))\.(\w+)", unit)
    if found is None:
        return unit, {}
    if found[1]:
        return f"block{{b}}.layer{{l}}.{found[6]}", {"b": int(found[2]), "l": int(found[3])}
    return f"transition{{b}}.{found[6]}", {"b": int(found[5])}


def kind_of(unit: str) -> Kind:
    """The kind of a unit, from its last word."""
    last = unit.rpartition(".")[2]
    return "dense" if last == "dense" else "norm" if last.startswith("norm") else "conv"
