"""A file's own statistics as a witness: what they say of the wiring and of the function that the file is read as.

Where most of them agree and some do not, or where another explanation is far better than what is assumed, the file is
refused: by the tensors' names it is one network, by their numbers another. What nothing else tells they may decide.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.conversion.origins import Known
from densenet_port.errors import MisfitError
from densenet_port.layouts.heads import OLD_FIRST
from densenet_port.layouts.layout import STRUCTURE
from densenet_port.layouts.match import Ledger
from densenet_port.network.channels import Concatenation
from densenet_port.network.contract import Contract, Input, StemPool
from densenet_port.network.exchanges import Exchange, exchanged
from densenet_port.network.explanations import GOOD, STEM_POOL, Explanation, epsilons, explain, pictures, stem_pool
from densenet_port.network.graph import Graph, graph
from densenet_port.network.inheritance import Inheritance, inherit, statistics_of
from densenet_port.network.moments import Moments, Prediction, predict
from densenet_port.network.units import Slot

AS_IT_IS = "--ignore-inheritance takes the file as it is"
SAID: dict[Concatenation, str] = {"old-first": "old channels first", "new-first": "new channels first"}
OUTSIDE = 0.3  # of a picture's range: means that lie so far outside of it are of pictures prepared otherwise


@dataclass(frozen=True, kw_only=True)
class Witness:
    """What a file's statistics say.

    `inheritance` is of the wiring, `joined` how the file's table joins channels. Only where inheritance is evident,
    `explanations` are of the function, question by question, `exchanges` of modules that stand in each other's places,
    `picture` is the mean of each channel of the pictures of the training as they were prepared, and `epsilons` says by
    what share another epsilon would change a slope at most. `left` is what may be left of the norms' first variances,
    where it is too much to tell anything of the function. `notes` are what the file's owner should know of it.
    """

    inheritance: Inheritance
    joined: Concatenation = "old-first"
    explanations: tuple[Explanation, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    picture: tuple[float, ...] | None = None
    epsilons: Mapping[float, float] = field(default_factory=dict)
    left: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def line(self) -> str | None:
        """`48 of 48 norms inherit 17,664 of 17,664 numbers, old channels first`; None where there is no evidence."""
        one = self.inheritance
        if one.order is None:
            return None
        rounded = f", {one.close:,} more but for rounding" if one.close else ""
        absorbed = f", {one.absorbed} with an epsilon in their variance" if one.absorbed else ""
        numbers = f"{one.equal:,} of {one.compared:,} numbers{rounded}"
        return f"{one.inheriting} of {one.norms} norms inherit {numbers}, {SAID[one.order]}{absorbed}"

    @property
    def contradictions(self) -> tuple[str, ...]:
        """What is contradicted, in words: norms that have other numbers than their kin, exchanges, explanations."""
        explained = [_contradiction(one) for one in self.explanations if one.verdict == "contradicted"]
        return (*self.wiring, *map(str, self.exchanges), *explained)

    @property
    def wiring(self) -> tuple[str, ...]:
        """What of the wiring is contradicted: the order of channels, and norms that differ from their kin."""
        one = self.inheritance
        others = f"its table joins {SAID[self.joined]}, its statistics {SAID[one.order]}" if one.order else ""
        turned = (others,) if one.order not in (None, self.joined) else ()
        return (*turned, *map(str, one.dissents))

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        one = self.inheritance
        return {
            "verdict": one.verdict,
            "order": one.order,
            "norms": one.norms,
            "inheriting": one.inheriting,
            "compared": one.compared,
            "equal": one.equal,
            "close": one.close,
            "absorbed": one.absorbed,
            "by_chance": round(one.chance, 3),
            "anew": list(one.anew),
            "questions": [_plain(explanation) for explanation in self.explanations],
            "picture": None if self.picture is None else [round(number, 4) for number in self.picture],
            "left": None if self.left is None else round(self.left, 4),
            "epsilons": {f"{epsilon:g}": round(change, 6) for epsilon, change in self.epsilons.items()},
            "contradictions": list(self.contradictions),
        }


def _plain(one: Explanation) -> dict[str, Any]:
    """An explanation as plain JSON values; what is no finite number is null."""
    return {
        "question": one.question,
        "assumed": one.assumed,
        "residual": _rounded(one.residual),
        "alternatives": {name: _rounded(residual) for name, residual in one.alternatives.items()},
        "margin": _rounded(one.margin),
        "verdict": one.verdict,
    }


def _rounded(number: float) -> float | None:
    return round(number, 4) if isfinite(number) else None


def _contradiction(one: Explanation) -> str:
    """`activation: relu (residual 0.41), by its statistics rather elu (0.02)`."""
    rather = f", by its statistics rather {one.best} ({one.alternatives[one.best]:.2f})" if one.best else ""
    return f"{one.question}: {one.assumed} does not explain its statistics (residual {one.residual:.2f}){rather}"


def predictions(network: Graph, weights: Mapping[Slot, Array]) -> dict[str, Prediction]:
    """Norm → its channels' means as the norms before it predict them, beside those stored, for a picture of them."""
    return predict(network, weights)


class _Vectors(Mapping[Slot, Array]):
    """Weights of which vectors are read once and kept: those of all norms are small, and are asked for again."""

    def __init__(self, weights: Mapping[Slot, Array]) -> None:
        """Read nothing yet."""
        self._weights = weights
        self._kept: dict[Slot, Array] = {}

    def __getitem__(self, slot: Slot) -> Array:
        """The tensor."""
        array = self._kept.get(slot)
        if array is None:
            array = self._weights[slot]
            if array.ndim == 1:
                self._kept[slot] = array
        return array

    def __iter__(self) -> Iterator[Slot]:
        """The slots in order of execution."""
        return iter(self._weights)

    def __len__(self) -> int:
        """How many slots there are."""
        return len(self._weights)


# -- the wiring --------------------------------------------------------------------------------------------------------


class Wired(NamedTuple):
    """A ledger whose order of channels the statistics agree with, and what they say of the wiring."""

    ledger: Ledger
    inheritance: Inheritance


def wired(path: Path, ledger: Ledger, weights: Mapping[Slot, Array], *, ignore: bool) -> Wired:
    """What the statistics say of a file's wiring; where no table knows the order of channels they decide it.

    `weights` are in our order, by the ledger's. Raises MisfitError where norms have not the statistics of their kin, or
    where a table says the other order, unless `ignore`.
    """
    layout = ledger.layout
    stored = _as_stored(ledger, weights)
    inheritance = inherit(graph(ledger.architecture, Contract()), stored)
    order = inheritance.order
    if order is not None and (layout.name == STRUCTURE or "concatenation" in layout.assumed):
        assumed = tuple(word for word in ledger.assumed if word != OLD_FIRST)
        ledger = replace(ledger, layout=replace(layout, concatenation=order), assumed=assumed)
    elif order is not None and order != layout.concatenation and not ignore:
        raise MisfitError(
            f"{path}: by its statistics it joins {SAID[order]}, by {layout.name}'s table {SAID[layout.concatenation]}",
            hint=f'a table of your own with concatenation = "{order}" reads it so (--mapping); {AS_IT_IS}',
        )
    if inheritance.dissents and not ignore:
        count = len(inheritance.dissents)
        norms = "1 norm has" if count == 1 else f"{count} norms have"
        raise _misfit(path, f"{norms} not the statistics that its kin share", tuple(map(str, inheritance.dissents)))
    return Wired(ledger, inheritance)


def _as_stored(ledger: Ledger, weights: Mapping[Slot, Array]) -> dict[str, tuple[Array, Array]]:
    """The mean and the variance of each norm, in the order of channels that the file has."""
    orders = ledger.layout.channel_order(ledger.architecture)
    pairs = statistics_of(graph(ledger.architecture, Contract()), weights)
    for unit in orders.keys() & pairs.keys():
        back = np.argsort(orders[unit])
        pairs[unit] = (pairs[unit][0][back], pairs[unit][1][back])
    return pairs


def _misfit(path: Path, what: str, details: tuple[str, ...]) -> MisfitError:
    """The refusal of a file whose numbers contradict what it is read as."""
    more = f"; and {len(details) - 1} more" if len(details) > 1 else ""
    hint = f"it is damaged, or its tensors are not what they are called; {AS_IT_IS}"
    return MisfitError(f"{path}: {what}\n  {details[0]}{more}", hint=hint)


# -- the function ------------------------------------------------------------------------------------------------------


class Heard(NamedTuple):
    """A contract with what the statistics decide of it, and the witness."""

    known: Known
    witness: Witness


def heard(path: Path, one: Wired, known: Known, weights: Mapping[Slot, Array], *, is_told: bool, ignore: bool) -> Heard:
    """What the statistics say of the function that a file is read as, and the contract with what they decide.

    `is_told` says that the file's own graph or record tell the function: a contradiction is a note then, as it is where
    the user knows better. Raises MisfitError for a contradiction otherwise, unless `ignore`.
    """
    weights = _Vectors(weights)
    if one.inheritance.order is None or one.ledger.folded:  # what was folded away is not what was measured
        return Heard(known, Witness(inheritance=one.inheritance, joined=one.ledger.layout.concatenation))
    moments, read_as = Moments(graph(one.ledger.architecture, known.contract), weights), known
    known = _pooled(path, moments, known, ignore=ignore)
    if known is not read_as:
        moments = Moments(graph(one.ledger.architecture, known.contract), weights)
    witness = _witness(one, moments)
    wrong = witness.contradictions[len(witness.wiring) :]
    untold = tuple(text for text in wrong if not text.startswith(STEM_POOL))
    if untold and not is_told and not ignore:
        raise _misfit(path, "its statistics do not go with what it is read as", untold)
    negative = [slot.unit for slot in weights if slot.role == "variance" and bool((weights[slot] < 0).any())]
    if negative and not ignore:
        details = tuple(f"{name}: a variance is negative, which none is" for name in negative)
        raise _misfit(path, "its norms have not what is measured", details)
    told = [f"from {norm} on its statistics are others, as where training went on" for norm in one.inheritance.anew]
    if witness.left is not None:
        few = f"no variance is below {witness.left:.2f}, as after a few steps of training"
        told.append(f"{few}: its statistics tell nothing of its function")
    notes = (*told, *wrong, *_strange_pictures(witness.picture, known.contract.input))
    return Heard(known, replace(witness, notes=notes))


def _witness(one: Wired, moments: Moments) -> Witness:
    """All that evident statistics say."""
    fit = pictures(moments)
    return Witness(
        inheritance=one.inheritance,
        joined=one.ledger.layout.concatenation,
        explanations=explain(moments, trained=True),
        exchanges=exchanged(moments),
        picture=tuple(map(float, fit.mean)) if fit and fit.residual <= GOOD and moments.settled else None,
        epsilons=epsilons(moments),
        left=None if moments.settled else moments.lowest,
    )


def _pooled(path: Path, moments: Moments, known: Known, *, ignore: bool) -> Known:
    """The contract with the stem's pool by its statistics, where it is an assumption.

    Raises MisfitError where the software of the file's layout has another, unless `ignore`.
    """
    pool, origin = stem_pool(moments), known.origins.get("stem_pool")
    if pool is None or pool.verdict == "open" or origin not in ("assumed", "software"):
        return known
    if origin == "software":
        if pool.verdict == "contradicted" and not ignore:
            raise MisfitError(
                f"{path}: {_contradiction(pool)}", hint=f"--stem-pool {pool.best} reads it so; {AS_IT_IS}"
            )
        return known
    way = pool.best if pool.verdict == "contradicted" else pool.assumed
    contract = replace(known.contract, stem_pool=cast("StemPool", way))
    return Known(contract, {**known.origins, "stem_pool": "statistics"})


def _strange_pictures(mean: tuple[float, ...] | None, picture: Input) -> list[str]:
    """A note where the pictures of the training were not as the contract has them."""
    if mean is None or len(mean) != len(picture.mean):
        return []
    pixels = [
        (value * std + center) * picture.scale / 255
        for value, std, center in zip(mean, picture.std, picture.mean, strict=True)
    ]
    if all(-OUTSIDE <= pixel <= 1 + OUTSIDE for pixel in pixels):
        return []
    shown = "/".join(f"{value:.3g}" for value in mean)
    return [f"its statistics are of pictures whose channels have the means {shown}, not of such as its input says"]
