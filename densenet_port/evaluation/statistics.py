"""What is counted of a batch, and how the counts of many batches become those of all.

Nothing here is rounded when it is joined: counts are whole numbers, sums of floats are exact (`sums.Sum`), lists are in
the order of the data set, and of the largest differences the larger is kept. So the statistics of a data set are the
same to the last bit however its batches were spread, and in whatever order they came back. What a batch puts in depends
on the batch alone: its logits, and a float64 computed of each.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.evaluation.sums import Sum

SideName = Literal["port", "original"]
BINS = 15  # of confidence, as wide as each other: what most who measure calibration take
TOP = 5  # answers among which a label may be
LEAST, MOST = -40, 20  # exponents of two that the histogram of differences tells apart
EQUAL = "equal"  # and the bar of those that are not different at all


class Flip(NamedTuple):
    """A picture for which the two sides find other classes the likeliest.

    `margin` is how far the original's logit of its own answer is above that of the port's answer, in logits: what is
    near the rounding of float32 is a draw. The label is None where there is none.
    """

    number: int
    label: int | None
    original: int
    port: int
    margin: float


class Unread(NamedTuple):
    """A picture that could not be read, and why."""

    number: int
    why: str


class Unanswered(NamedTuple):
    """A picture for which a side put out NaN or infinity: it is counted as wrong, and in no sum."""

    number: int
    side: str


class Largest(NamedTuple):
    """The largest difference of two logits of one class, and the picture it is of: the first of equals."""

    difference: float
    number: int


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What is known of the pictures that were looked at.

    `counts` and `sums` are by name; where `side` is "port" or "original":

        pictures                    that were read
        labelled                    of them, those with a label
        {side} top1, {side} top5    whose label is the side's answer, or among its five best
        {side} bin 0 … 14           by the softmax's confidence in the side's answer; `right` are those of them that it
        {side} right 0 … 14         is right about, and the sum of the same name is of the confidences
        {side} answer 3 7           labelled 3 and answered with 7
        {side} values               logits, whose sums are `{side} logits` and `{side} squares`
        compared                    pictures that both sides answered
        agree                       of them, those with the same answer
        top1 both, port, original, neither      who is right about a picture, and so for top5
        values, difference equal, difference -12    pairs of logits, and how many differ by less than 2**-12, and not by
                                    less than half of that; their sums are `differences` and `squared differences`

    A count of nothing is not there; names are in the alphabet's order. Statistics are added, in any order.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    sums: Mapping[str, Sum] = field(default_factory=dict)
    flips: tuple[Flip, ...] = ()
    unread: tuple[Unread, ...] = ()
    unanswered: tuple[Unanswered, ...] = ()
    largest: Largest | None = None

    def __add__(self, other: "Statistics") -> "Statistics":
        return total([self, other])

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; the same statistics give the same text."""
        return {
            "counts": dict(self.counts),
            "sums": {name: value.to_json() for name, value in self.sums.items()},
            "flips": [list(flip) for flip in self.flips],
            "unread": [list(entry) for entry in self.unread],
            "unanswered": [list(entry) for entry in self.unanswered],
            "largest": None if self.largest is None else list(self.largest),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Statistics":
        """The statistics that `to_json` wrote."""
        return cls(
            counts=data["counts"],
            sums={name: Sum.from_json(parts) for name, parts in data["sums"].items()},
            flips=tuple(Flip(*entry) for entry in data["flips"]),
            unread=tuple(Unread(*entry) for entry in data["unread"]),
            unanswered=tuple(Unanswered(*entry) for entry in data["unanswered"]),
            largest=None if data["largest"] is None else Largest(*data["largest"]),
        )


def total(parts: Sequence[Statistics]) -> Statistics:
    """The statistics of all parts together, which have no picture in common."""
    counts: Counter[str] = Counter()
    sums: dict[str, Sum] = {}
    for part in parts:
        counts.update(part.counts)
        for name, value in part.sums.items():
            sums[name] = sums.get(name, Sum()) + value
    peaks = [part.largest for part in parts if part.largest is not None]
    return Statistics(
        counts=dict(sorted(counts.items())),
        sums=dict(sorted(sums.items())),
        flips=tuple(sorted((flip for part in parts for flip in part.flips), key=lambda flip: flip.number)),
        unread=tuple(sorted(entry for part in parts for entry in part.unread)),
        unanswered=tuple(sorted(entry for part in parts for entry in part.unanswered)),
        largest=min(peaks, key=lambda peak: (-peak.difference, peak.number), default=None),
    )


# -- of a batch --------------------------------------------------------------------------------------------------------


def of_batch(
    numbers: Sequence[int],
    labels: Sequence[int] | None,
    logits: Mapping[SideName, Array],
    unread: Sequence[Unread] = (),
    *,
    calibrated: bool = True,
) -> Statistics:
    """The statistics of pictures that were read, by their numbers in the data set; and of those that were not.

    `logits` are `n classes` of each side, `labels` one for each picture, or None. `calibrated` says that a softmax of
    the logits is what the network means by them.
    """
    counts = Counter({"pictures": len(numbers)})
    sums: dict[str, Sum] = {}
    places, known = np.array(numbers, np.int64), None if labels is None else np.array(labels, np.int64)
    values: dict[str, Array] = {side: array.astype(np.float64) for side, array in logits.items()}
    finite = {side: np.isfinite(array).all(axis=1) for side, array in values.items()}
    if known is not None:
        counts["labelled"] = len(known)
    for side, array in values.items():
        seen = finite[side]
        _count_side(side, array[seen], None if known is None else known[seen], counts, sums, calibrated=calibrated)
    flips: tuple[Flip, ...] = ()
    largest = None
    if "original" in values:
        seen = finite["port"] & finite["original"]
        pair = values["port"][seen], values["original"][seen]
        flips = tuple(_flips(*pair, places[seen], None if known is None else known[seen]))
        largest = _count_differences(*pair, places[seen], counts, sums)
        counts["compared"], counts["agree"] = int(seen.sum()), int(seen.sum()) - len(flips)
        if known is not None:
            far = max(TOP, values["port"].shape[1])  # whoever did not answer is not right
            ranks = {side: np.where(finite[side], _ranks(array, known), far) for side, array in values.items()}
            _count_pairs(ranks["port"], ranks["original"], counts)
    return Statistics(
        counts={name: count for name, count in sorted(counts.items()) if count},
        sums=dict(sorted(sums.items())),
        flips=flips,
        unread=tuple(unread),
        unanswered=tuple(sorted(Unanswered(int(n), side) for side in values for n in places[~finite[side]])),
        largest=largest,
    )


def _count_side(
    side: str, logits: Array, labels: Array | None, counts: Counter[str], sums: dict[str, Sum], *, calibrated: bool
) -> None:
    """Count what one side says, of finite logits."""
    answers = logits.argmax(axis=1)
    counts[f"{side} values"] = logits.size
    sums[f"{side} logits"], sums[f"{side} squares"] = Sum.of(logits), Sum.of(logits * logits)
    if labels is None:
        return
    ranks = _ranks(logits, labels)
    counts[f"{side} top1"], counts[f"{side} top5"] = int((ranks == 0).sum()), int((ranks < TOP).sum())
    counts.update(f"{side} answer {label} {answer}" for label, answer in zip(labels, answers, strict=True))
    if not calibrated:
        return
    confidences = 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)
    bins = np.clip(np.ceil(confidences * BINS).astype(int) - 1, 0, BINS - 1)
    for number in np.unique(bins):
        inside = bins == number
        counts[f"{side} bin {number}"] = int(inside.sum())
        counts[f"{side} right {number}"] = int((ranks[inside] == 0).sum())
        sums[f"{side} bin {number}"] = Sum.of(confidences[inside])


def _ranks(logits: Array, labels: Array) -> Array:
    """How many classes come before each picture's label: larger logits, and equal ones of lower numbers."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    before = (logits > own) | ((logits == own) & (np.arange(logits.shape[1]) < labels[:, None]))
    ranks: Array = before.sum(axis=1)
    return ranks


def _flips(port: Array, original: Array, numbers: Array, labels: Array | None) -> Iterator[Flip]:
    """The pictures that the sides answer otherwise."""
    answers, theirs = port.argmax(axis=1), original.argmax(axis=1)
    for row in np.flatnonzero(answers != theirs):
        mine, other = int(answers[row]), int(theirs[row])
        label = None if labels is None else int(labels[row])
        yield Flip(int(numbers[row]), label, other, mine, float(original[row, other] - original[row, mine]))


def _count_differences(
    port: Array, original: Array, numbers: Array, counts: Counter[str], sums: dict[str, Sum]
) -> Largest | None:
    """Count how far the sides' logits are apart; the largest difference, None where there is no picture."""
    differences = port - original
    sums["differences"], sums["squared differences"] = Sum.of(differences), Sum.of(differences * differences)
    counts["values"] = differences.size
    distances = np.abs(differences)
    equal = distances == 0
    counts[f"difference {EQUAL}"] = int(equal.sum())
    exponents = np.clip(np.frexp(distances[~equal])[1], LEAST, MOST)
    for exponent, count in zip(*np.unique(exponents, return_counts=True), strict=True):
        counts[f"difference {exponent}"] = int(count)
    if not distances.size:
        return None
    row = int(distances.max(axis=1).argmax())
    return Largest(float(distances[row].max()), int(numbers[row]))


def _count_pairs(port: Array, original: Array, counts: Counter[str]) -> None:
    """Count who is right about each picture."""
    for name, limit in (("top1", 1), ("top5", TOP)):
        ours, theirs = port < limit, original < limit
        for who, pictures in (
            ("both", ours & theirs),
            ("port", ours & ~theirs),
            ("original", ~ours & theirs),
            ("neither", ~ours & ~theirs),
        ):
            counts[f"{name} {who}"] = int(pictures.sum())
