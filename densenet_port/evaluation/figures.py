"""What statistics come to: shares with their intervals, calibration, differences; and what they look like.

All of it is computed of whole numbers and exact sums, so the same statistics give the same figures.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from fractions import Fraction
from math import sqrt
from typing import Any

from densenet_port.evaluation.intervals import CONFIDENCE, difference, mcnemar, wilson
from densenet_port.evaluation.statistics import BINS, EQUAL, LEAST, MOST, TOP, SideName, Statistics

METHOD = {
    "confidence": CONFIDENCE,
    "share": "Wilson's score interval",
    "difference": "Newcombe's interval of paired shares (1998, method 10)",
    "p": "McNemar's exact test, two-sided",
    "calibration": f"expected calibration error over {BINS} bins of equal width",
}
ALIKE = 0.9  # of the pictures: sides that agree so often are one network's, or nearly
WRONG = 0.5  # of the labels: whoever trained a network got more of them right
MOSTLY = 0.6  # of the pictures: what explains so many of them is worth to be said
FEW = 3  # pictures of a class: of fewer the most frequent answer is one by chance


def figures(statistics: Statistics, classes: int) -> dict[str, Any]:
    """The figures of statistics, as plain JSON values.

    `sides` has for each side its share of right answers (`top1`, and `top5` where there are more than five classes),
    `calibration` with its `bins`, and the `deviation` of its logits. `pair` has the `agreement` of two sides, the
    `difference` of their right answers, the port's minus the original's, and of their logits `rms`, `mean`, `largest`
    and the `histogram`: how many differ by less than 2**exponent and no less than half of that. What there are no
    labels for is None.
    """
    sides: list[SideName] = ["port", "original"]
    names = [side for side in sides if f"{side} values" in statistics.counts]
    return {
        "pictures": statistics.counts.get("pictures", 0),
        "labelled": statistics.counts.get("labelled", 0),
        "unread": len(statistics.unread),
        "sides": {side: _side(statistics, side, classes) for side in names},
        "pair": _pair(statistics, classes) if "compared" in statistics.counts else None,
        "method": METHOD,
    }


def _side(statistics: Statistics, side: SideName, classes: int) -> dict[str, Any]:
    """One side's figures."""
    counts, labelled = statistics.counts, statistics.counts.get("labelled", 0)
    values = counts[f"{side} values"]
    mean = statistics.sums[f"{side} logits"].fraction / values
    variance = statistics.sums[f"{side} squares"].fraction / values - mean * mean
    tops = ["top1", "top5"] if classes > TOP else ["top1"]
    return {
        **{top: share(counts.get(f"{side} {top}", 0), labelled) if labelled else None for top in tops},
        "unanswered": sum(entry.side == side for entry in statistics.unanswered),
        "calibration": _calibration(statistics, side),
        "deviation": sqrt(variance),
    }


def share(count: int, whole: int) -> dict[str, Any]:
    """A share, and its interval."""
    return {"count": count, "of": whole, "share": count / whole, "interval": list(wilson(count, whole))}


def _calibration(statistics: Statistics, side: SideName) -> dict[str, Any] | None:
    """The expected calibration error, and its bins; None where no confidence was counted."""
    bins, error, whole = [], Fraction(0), 0
    for number in range(BINS):
        count = statistics.counts.get(f"{side} bin {number}", 0)
        if count:
            right = statistics.counts.get(f"{side} right {number}", 0)
            confidence = statistics.sums[f"{side} bin {number}"].fraction
            error, whole = error + abs(right - confidence), whole + count
            ends = {"from": number / BINS, "to": (number + 1) / BINS}
            bins.append({**ends, "pictures": count, "right": right / count, "confidence": float(confidence / count)})
    return {"error": float(error / whole), "bins": bins} if whole else None


def _pair(statistics: Statistics, classes: int) -> dict[str, Any]:
    """The figures of two sides together."""
    counts, values = statistics.counts, statistics.counts["values"]
    squares = statistics.sums["squared differences"].fraction / values
    tops = ["top1", "top5"] if classes > TOP else ["top1"]
    exponents = [exponent for exponent in range(LEAST, MOST + 1) if f"difference {exponent}" in counts]
    spread = range(exponents[0], exponents[-1] + 1) if exponents else range(0)
    return {
        "agreement": share(counts.get("agree", 0), counts["compared"]),
        "flips": len(statistics.flips),
        "difference": {top: _difference(counts, top) for top in tops} if counts.get("labelled") else None,
        "rms": sqrt(squares),
        "mean": float(statistics.sums["differences"].fraction / values),
        "largest": None if statistics.largest is None else statistics.largest._asdict(),
        "equal": counts.get(f"difference {EQUAL}", 0),
        "values": values,
        "histogram": [[exponent, counts.get(f"difference {exponent}", 0)] for exponent in spread],
    }


def _difference(counts: Mapping[str, int], top: str) -> dict[str, Any]:
    """The difference of two shares of right answers."""
    both, port, original, neither = (counts.get(f"{top} {who}", 0) for who in ("both", "port", "original", "neither"))
    return {
        "share": (port - original) / (both + port + original + neither),
        "interval": list(difference(both, port, original, neither)),
        "port_alone": port,
        "original_alone": original,
        "p": mcnemar(port, original),
    }


# -- what it looks like ------------------------------------------------------------------------------------------------


def hints(statistics: Statistics) -> list[str]:
    """Known mistakes that the statistics look like, each as a sentence or two."""
    return [*_of_labels(statistics), *_of_sides(statistics)]


def _of_labels(statistics: Statistics) -> Iterator[str]:
    """What the labels look like, by the answers of the original, or of the port alone; nothing where they are right."""
    counts, labelled = statistics.counts, statistics.counts.get("labelled", 0)
    side = "original" if "original values" in counts else "port"
    if not labelled or counts.get(f"{side} top1", 0) > WRONG * labelled:
        return
    answers = _table(counts, f"{side} answer ")
    for shift, cause in ((-1, "are the labels numbered from 1?"), (1, "does another class come first in the labels?")):
        shifted = sum(seen[label + shift] for label, seen in answers.items())
        if shifted > MOSTLY * labelled:
            word = "smaller" if shift < 0 else "larger"
            yield f"{shifted / labelled:.1%} of the answers are the label's number, one {word}: {cause}"
            return
    if example := _renumbered(answers, labelled):
        yield f"the labels look like another numbering of the same classes: {example}; is --labels in another order?"
        return
    pair = counts.get("compared", 0)
    if pair and counts.get("agree", 0) > ALIKE * pair:
        yield (
            f"agreement is {counts['agree'] / pair:.1%} but accuracy {counts.get(f'{side} top1', 0) / labelled:.1%}: "
            "both sides may get pictures that are prepared wrongly, or the labels are of other pictures"
        )


def _of_sides(statistics: Statistics) -> Iterator[str]:
    """What the flips look like."""
    compared = statistics.counts.get("compared", 0)
    answers: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for flip in statistics.flips:
        answers[flip.original][flip.port] += 1
    if len(statistics.flips) > MOSTLY * compared > 0 and (example := _renumbered(answers, len(statistics.flips))):
        yield f"the port's classes look like the original's in another order: {example}"


def _table(counts: Mapping[str, int], prefix: str) -> dict[int, Counter[int]]:
    """Label → answer → how often, of counts by name."""
    answers: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for name, count in counts.items():
        if name.startswith(prefix):
            label, answer = map(int, name.removeprefix(prefix).split())
            answers[label][answer] = count
    return answers


def _renumbered(answers: Mapping[int, Counter[int]], whole: int) -> str | None:
    """An example of a number that stands for another where most do, each for one of its own; None where they do not."""
    best = {label: seen.most_common(1)[0] for label, seen in answers.items() if seen}
    most = sum(count for _, count in best.values())
    others = {answer for answer, _ in best.values()}
    if (
        not best
        or whole < FEW * len(best)
        or most < MOSTLY * whole
        or len(others) < MOSTLY * len(best)
        or len(best) < 2
    ):
        return None
    label, (answer, count) = max(best.items(), key=lambda entry: (entry[0] != entry[1][0], entry[1][1], -entry[0]))
    return f"{label} is answered with {answer} {count} times of {answers[label].total()}"
