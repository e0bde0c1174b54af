"""Names of a file made into the patterns of a table: what changes with block and layer becomes a place.

A number that counts up with the blocks becomes `{b}`, one that counts the layers of a block `{l}`, one that says how
many layers a block has `{n}`, one that counts the layers of the head `{h}`; from where they count is `first`. What
counts otherwise no table says: it is refused in words.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from densenet_port.errors import MisfitError
from densenet_port.layouts.layout import TensorKey
from densenet_port.layouts.match import Claim, Ledger
from densenet_port.layouts.schema import NUMBER, generic, kind_of, regex
from densenet_port.network.units import Kind, is_head

WITHOUT = "converting needs no table of its own: `densenet-port convert` reads it as it is"
LAST_WORD = re.compile(r"(?<=.)[./:#][^./:#0-9]*$")
COUNT = "n"  # the place of a block's number of layers


class Names(NamedTuple):
    """What a table says of a file's names.

    `first` has the numbers that block, layer and layer of the head begin with, `units` generic unit → pattern, `parts`
    for each kind and part its name, with `{unit}`, and the order of its axes.
    """

    first: Mapping[str, int]
    units: Mapping[str, str]
    parts: Mapping[Kind, Mapping[str, tuple[str, str]]]


def names_of(ledger: Ledger, outside: str = "") -> Names:
    """The patterns of a file's names, without what stands `outside` of the network, before all of them.

    Raises MisfitError for names that no pattern says.
    """
    units: dict[str, str] = {}
    parts: dict[Kind, dict[str, tuple[str, str]]] = {}
    spellings = _parted({key: _spelling(ledger, claim) for key, claim in ledger.claims.items()})
    for key, claim in ledger.claims.items():
        unit, ending = spellings[key]
        name = unit.removeprefix(outside)
        if units.setdefault(key.unit, name) != name:
            raise _refusal(f"the tensors of {key.unit} have no beginning in common: {units[key.unit]}, {name}")
        pattern = _escaped(ending).join(("{unit}", "")), claim.axes
        usual = parts.setdefault(kind_of(key.unit), {}).setdefault(key.part, pattern)
        if usual != pattern:
            raise _refusal(f"{key.part} of a {kind_of(key.unit)} is called {usual[0]} and {pattern[0]} ({claim.name})")
    columns = _columns(ledger, units)
    first = _first(columns)
    return Names(first, _in_order(dict(_patterns(columns, first))), parts)


def _spelling(ledger: Ledger, claim: Claim) -> tuple[str, str]:
    """The whole name of a unit in a file, and how one of its tensors ends. Raises MisfitError where it has no name."""
    for form in dict(ledger.layout.patterns(kind_of(claim.key.unit)))[claim.key.part].names:
        ending = form.removeprefix("{unit}")
        if claim.unit_name and claim.name.endswith(claim.unit_name + ending):
            return claim.name.removesuffix(ending), ending
    start = ledger.prefix + claim.unit_name
    if not claim.unit_name or not claim.name.startswith(start):
        raise _refusal(f"the tensors of {claim.key.unit} have no beginning in common ({claim.name})")
    return start, claim.name.removeprefix(start)


def _parted(spellings: Mapping[TensorKey, tuple[str, str]]) -> dict[TensorKey, tuple[str, str]]:
    """The same; where a unit's name is all of its only tensor's, without the last word that all of its kind have.

    A convolution without a bias is such a unit: `conv0.weight` is `conv0` and `.weight`.
    """
    parted = dict(spellings)
    for kind in ("conv", "dense"):
        whole = {key: spelling for key, spelling in spellings.items() if kind_of(key.unit) == kind}
        tails = {last[0] if (last := LAST_WORD.search(unit)) else "" for unit, _ in whole.values()}
        tail = tails.pop() if len(tails) == 1 else ""
        if tail and {ending for _, ending in whole.values()} == {""}:
            parted |= {key: (unit.removesuffix(tail), tail) for key, (unit, _) in whole.items()}
    return parted


def _escaped(text: str) -> str:
    """A text as it stands in a pattern."""
    return re.sub(r"([{}])", r"\1\1", text)


def _in_order(units: Mapping[str, str]) -> dict[str, str]:
    """The lines of a table: first the names that another line's pattern has too, since the first that fits is taken."""
    numbered = [regex(pattern) for pattern in units.values() if re.search(r"\{[blhn]\}", pattern)]
    plain = {unit: pattern for unit, pattern in units.items() if not re.search(r"\{[blhn]\}", pattern)}
    both = {unit: name for unit, name in plain.items() if any(one.fullmatch(name) for one in numbered)}
    return {**both, **units}


# -- columns -----------------------------------------------------------------------------------------------------------


class Column(NamedTuple):
    """A number that the names of one generic unit have at the same place: as it is written in each of them.

    `places` gives for each place that it may be by how much it is larger than our number, which is 0 for `{n}`.
    """

    texts: tuple[str, ...]
    places: Mapping[str, int]

    @property
    def is_fixed(self) -> bool:
        """Whether all names have the same number."""
        return len(set(self.texts)) == 1


class Family(NamedTuple):
    """The names of one generic unit: their words, and between these columns of numbers.

    `places` are those that its pattern must have.
    """

    unit: str
    words: tuple[str, ...]
    columns: tuple[Column, ...]
    places: tuple[str, ...]


def _columns(ledger: Ledger, names: Mapping[str, str]) -> list[Family]:
    """The names of a file by generic unit, in order of execution. Raises MisfitError where their words differ."""
    groups: dict[str, dict[str, dict[str, int]]] = {}
    for unit in names:
        unnumbered, numbers = generic(unit)
        groups.setdefault(unnumbered, {})[unit] = numbers
    layers = ledger.architecture.layers
    body = [_family(unit, units, names, layers) for unit, units in groups.items() if not is_head(unit)]
    return [*body, *_head({unit: units for unit, units in groups.items() if is_head(unit)}, names)]


def _head(groups: Mapping[str, Mapping[str, dict[str, int]]], names: Mapping[str, str]) -> list[Family]:
    """The names of a head's layers: as patterns where one number counts them all, otherwise each by itself."""
    try:
        families = [_family(unit, units, names, ()) for unit, units in groups.items()]
        if all(len(units) > 1 for unit, units in groups.items() if "{h}" in unit):
            list(_patterns(families, _first(families)))
            return families
    except MisfitError:
        pass
    return [_family(unit, {unit: {}}, names, ()) for units in groups.values() for unit in units]


def _family(
    unnumbered: str, units: Mapping[str, dict[str, int]], names: Mapping[str, str], layers: Sequence[int]
) -> Family:
    """The names of one generic unit. Raises MisfitError where their words differ."""
    split = {unit: re.split(r"([0-9]+)", names[unit]) for unit in units}
    first = next(iter(split))
    for unit, pieces in split.items():
        if pieces[::2] != split[first][::2]:
            raise _refusal(
                f"{first} is called {names[first]}, {unit} {names[unit]}: they differ in more than in numbers, "
                "which is all that a pattern counts"
            )
    counts = [{**numbers, **_count(numbers, layers)} for numbers in units.values()]
    columns = zip(*(pieces[1::2] for pieces in split.values()), strict=True)
    return Family(
        unnumbered,
        tuple(split[first][::2]),
        tuple(Column(texts, _places(texts, counts)) for texts in columns),
        tuple(counts[0].keys() - {COUNT}),
    )


def _count(numbers: Mapping[str, int], layers: Sequence[int]) -> dict[str, int]:
    """The number of layers in a unit's block."""
    return {COUNT: layers[numbers["b"] - 1]} if "b" in numbers else {}


def _places(texts: Sequence[str], counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The places that a column may be, each with how much larger than ours its numbers are."""
    if not all(re.fullmatch(NUMBER, text) for text in texts):
        return {}
    places = {}
    for place in counts[0]:
        shifts = {int(text) - numbers[place] for text, numbers in zip(texts, counts, strict=True)}
        if len(shifts) == 1 and (place != COUNT or shifts == {0}):
            places[place] = shifts.pop()
    return places


# -- patterns ----------------------------------------------------------------------------------------------------------


def _first(families: Sequence[Family]) -> dict[str, int]:
    """The number that the first of each place has, which all names agree in. Raises MisfitError where they do not."""
    first: dict[str, int] = {}
    for place in dict.fromkeys(place for family in families for place in sorted(family.places)):
        counting = [family for family in families if place in family.places]
        shifts = [_shifts(family, place) for family in counting]
        shared = set(shifts[0]).intersection(*shifts[1:])
        if not shared:
            raise _apart(place, counting, shifts)
        first[place] = 1 + next(shift for shift in shifts[0] if shift in shared)
    return first


def _shifts(family: Family, place: str) -> list[int]:
    """By how much the numbers of a place are larger than ours, if it is any of a family's columns: what counts, first.

    Raises MisfitError where no column can be it.
    """
    columns = sorted((column for column in family.columns if place in column.places), key=lambda one: one.is_fixed)
    counting = [column.places[place] for column in columns if not column.is_fixed]
    if not columns:
        raise _uncounted(family, place)
    return counting or [column.places[place] for column in columns]


def _patterns(families: Sequence[Family], first: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Generic unit → its pattern. Raises MisfitError for a number that counts nothing."""
    for family in families:
        left = set(family.places)
        pieces = [_escaped(family.words[0])]
        for column, word in zip(family.columns, family.words[1:], strict=True):
            place = _place_of(family, column, first, left)
            left.discard(place or "")
            pieces += [f"{{{place}}}" if place else column.texts[0], _escaped(word)]
        if left:
            raise _uncounted(family, min(left))
        yield family.unit, "".join(pieces)


def _place_of(family: Family, column: Column, first: Mapping[str, int], left: set[str]) -> str | None:
    """The place that a column is; None for a number that all names have. `left` are those that have no column yet."""
    fitting = [place for place, shift in column.places.items() if place == COUNT or shift == first[place] - 1]
    if column.is_fixed:
        alone = {place for place in left & {*fitting} if not _is_counted(family, place)}
        return min(alone, default=None)
    if not fitting:
        raise _uncounted(family, "l" if "l" in family.places else family.places[0], column)
    return fitting[0]


def _is_counted(family: Family, place: str) -> bool:
    """Whether a number of a family's names changes with a place."""
    return any(place in column.places and not column.is_fixed for column in family.columns)


# -- what no pattern says ----------------------------------------------------------------------------------------------

WORDS = {"b": "blocks", "l": "layers", "h": "layers of the head"}


def _apart(place: str, families: Sequence[Family], shifts: Sequence[Sequence[int]]) -> MisfitError:
    """The error for names that count from different numbers."""
    other = next(index for index, one in enumerate(shifts) if not set(one) & set(shifts[0]))
    return _refusal(
        f"its {WORDS[place]} count from {1 + shifts[0][0]} in {families[0].unit} and from {1 + shifts[other][0]} in "
        f"{families[other].unit}: a table has one first number for both"
    )


def _uncounted(family: Family, place: str, column: Column | None = None) -> MisfitError:
    """The error for names in which nothing counts the blocks or layers, or in which a number counts something else."""
    changing = column or next((one for one in family.columns if not one.is_fixed and not one.places), None)
    if changing is None:
        return _refusal(f"no number in the names of {family.unit} counts the {WORDS[place]}: {_example(family)}")
    shown = list(dict.fromkeys(changing.texts))
    listed = ", ".join(shown[:8]) + (" …" if len(shown) > 8 else "")
    return _refusal(
        f"{family.unit} has the numbers {listed} in {_example(family)}: a table counts blocks, and the layers of each "
        "block, one by one from the same first number"
    )


def _example(family: Family) -> str:
    """The first name of a family."""
    numbers = [column.texts[0] for column in family.columns]
    return family.words[0] + "".join(map("".join, zip(numbers, family.words[1:], strict=True)))


def _refusal(why: str) -> MisfitError:
    return MisfitError(f"no table can say its names\n  {why}", hint=WITHOUT)
