"""Which vector of a norm is which: by the words that end their names, by their order in the file, by their values.

A word that a table has for a part is that part. Other words are held against each dialect's: a word that two endings
share there, they share here (`moving`), and so do kernels and norms. Where names say nothing, software saves a norm's
vectors in the order of its table, or in alphabetical order. What is left is tried on the values: a variance is never
negative, and a scale is less often so than a shift, since it starts from 1 and the shift from 0.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np

from densenet_port.checkpoint import Tensor
from densenet_port.errors import MisfitError
from densenet_port.layouts.dialects import Dialect, dialects, vocabulary, words

LOOKED_AT = 8  # of the widest norms, whose values are looked at

Key = Hashable  # the words of an ending, or a place in the file's order
Roles = Mapping[Key, str]


class Vectors(NamedTuple):
    """The vectors of one norm: what their names begin with, and the names in file order."""

    name: str
    tensors: tuple[str, ...]


class Reading(NamedTuple):
    """What the vectors of the norms were taken for: the dialect, norm by norm its parts, and what is assumed in it."""

    dialect: Dialect
    parts: tuple[Mapping[str, str], ...]
    assumption: str | None


def told(norms: Sequence[Vectors], tensors: Mapping[str, Tensor], kernels: set[tuple[str, ...]]) -> Reading:
    """Which vector of each norm is which. `kernels` are the words that end the names of kernels.

    Raises MisfitError where it stays open.
    """
    keys = _keys(norms)
    widest = max(zip(norms, keys, strict=True), key=lambda norm: max(tensors[name].shape for name in norm[0].tensors))
    single = {key for key, name in zip(widest[1], widest[0].tensors, strict=True) if tensors[name].shape == (1,)}
    ordered = all(row == keys[0] for row in keys)
    named = isinstance(keys[0][0], tuple)
    if named and (known := _by_vocabulary(keys[0], single)):
        return _reading(known, norms, keys, None)
    choices = list(_by_words(keys[0], single, kernels)) if named else []
    told_by_words = len(choices) == 1
    if not choices or (ordered and len(choices) > 1):
        in_order = list(_by_order(keys[0], single)) if ordered else []
        choices = [one for one in in_order if not choices or one in choices] or choices
    if not choices:
        raise MisfitError(f"which of {', '.join(norms[0].tensors)} is which stays open", hint=HINT)
    decided = _by_values(choices, norms, keys, tensors)
    if len(decided) > 1 and not ordered:
        raise MisfitError(
            f"which of {', '.join(norms[0].tensors)} is which stays open: names, order and values do not tell",
            hint=HINT,
        )
    return _reading(decided[0], norms, keys, None if told_by_words else ASSUMED)


HINT = "a table of your own says it (--mapping, see docs/add-a-layout.md)"
ASSUMED = "which vector of a norm is which by their order and values"


def _keys(norms: Sequence[Vectors]) -> list[list[Key]]:
    """For each norm what tells its vectors apart: the words of their endings, or their places where these differ."""
    endings = [[words(name[len(norm.name) :]) for name in norm.tensors] for norm in norms] if norms[0].name else []
    if endings and all(set(row) == set(endings[0]) and len(set(row)) == len(row) for row in endings):
        return [[*row] for row in endings]
    return [[*range(len(norm.tensors))] for norm in norms]


def _dialects_of(count: int, single: set[Key]) -> Iterator[Dialect]:
    """The dialects whose norms have so many vectors, of which so many are single numbers."""
    for dialect in dialects():
        ones = [part for part in dialect.parts if dialect.tensors["norm"][part].axes[0] == "1"]
        if len(dialect.parts) == count and len(ones) == len(single):
            yield dialect


def _is_single(dialect: Dialect, part: str) -> bool:
    return dialect.tensors["norm"][part].axes[0] == "1"


def _by_vocabulary(keys: Sequence[Key], single: set[Key]) -> Roles | None:
    """The parts that the last words of the endings mean, where each means one of its own."""
    for dialect in _dialects_of(len(keys), single):
        roles: dict[Key, str] = {}
        for key in keys:
            assert isinstance(key, tuple)  # noqa: S101 (the caller asks of words alone)
            last = key[-1] if key else ""
            parts = {part for part in vocabulary().get(last, set()) if part in dialect.parts}
            if len(parts) == 1 and not last.isdigit():
                roles[key] = parts.pop()
        if sorted(roles.values()) == sorted(dialect.parts):
            return roles
    return None


def _by_words(keys: Sequence[Key], single: set[Key], kernels: set[tuple[str, ...]]) -> Iterator[Roles]:
    """The ways to take the endings for a dialect's, word for word, so that endings share what they share there."""
    seen: list[Roles] = []
    for dialect in _dialects_of(len(keys), single):
        endings = dialect.spelled("norm")
        kernel = dialect.spelled("conv")["kernel"]
        for order in permutations(dialect.parts):
            roles = dict(zip(keys, order, strict=True))
            if any((key in single) != _is_single(dialect, part) for key, part in roles.items()) or roles in seen:
                continue
            pairs = [(key, endings[part]) for key, part in roles.items()] + [(one, kernel) for one in kernels]
            if _alike(pairs):
                seen.append(roles)
                yield roles


def _alike(pairs: Sequence[tuple[Key, tuple[str, ...]]]) -> bool:
    """Whether one word for each word makes the first of every pair the second."""
    there: dict[str, str] = {}
    back: dict[str, str] = {}
    for key, ending in pairs:
        if not isinstance(key, tuple) or len(key) != len(ending):
            return False
        for word, other in zip(key, ending, strict=True):
            if there.setdefault(word, other) != other or back.setdefault(other, word) != word:
                return False
    return True


def _by_order(keys: Sequence[Key], single: set[Key]) -> Iterator[Roles]:
    """The parts in the order of each table, then in the alphabetical order of its endings."""
    for sort in (False, True):
        for dialect in _dialects_of(len(keys), single):
            patterns = dialect.tensors["norm"]
            order = sorted(dialect.parts, key=lambda part: patterns[part].names[0]) if sort else dialect.parts
            roles = dict(zip(keys, order, strict=True))
            if all((key in single) == _is_single(dialect, part) for key, part in roles.items()):
                yield roles


def _by_values(
    choices: Sequence[Roles], norms: Sequence[Vectors], keys: Sequence[Sequence[Key]], tensors: Mapping[str, Tensor]
) -> list[Roles]:
    """The choices that the values do not contradict, the likely ones where there are any; without repetitions."""
    distinct = [one for place, one in enumerate(choices) if one not in choices[:place]]
    if len(distinct) == 1:
        return distinct
    widest = sorted(range(len(norms)), key=lambda norm: -max(tensors[name].shape[0] for name in norms[norm].tensors))
    columns: dict[Key, list[np.ndarray]] = {}
    for norm in widest[:LOOKED_AT]:
        for key, name in zip(keys[norm], norms[norm].tensors, strict=True):
            columns.setdefault(key, []).append(tensors[name].load())
    values = {key: np.concatenate(column) for key, column in columns.items()}
    possible = [one for one in distinct if not (values[_key(one, "variance")] < 0).any()] or distinct
    likely = [one for one in possible if _positive(values[_key(one, "scale")]) > _positive(values[_key(one, "shift")])]
    return likely or possible


def _key(roles: Roles, part: str) -> Key:
    return next(key for key, meaning in roles.items() if meaning == part)


def _positive(values: np.ndarray) -> float:
    return float(np.mean(values > 0))


def _reading(roles: Roles, norms: Sequence[Vectors], keys: Sequence[Sequence[Key]], assumption: str | None) -> Reading:
    """The parts of every norm, and the first dialect that has such."""
    parts = tuple(
        {roles[key]: name for key, name in zip(row, norm.tensors, strict=True)}
        for row, norm in zip(keys, norms, strict=True)
    )
    dialect = next(one for one in dialects() if set(one.parts) == set(roles.values()))
    return Reading(dialect, parts, assumption)
