"""The charts of an evaluation's report as numbers, in an SVG's user units, in the frames of `prove.charts`."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

from densenet_port.evaluation.intervals import wilson
from densenet_port.prove.charts import LETTER, SUPERSCRIPT, Bar, Frame, Histogram, Tick, strips


class Point(NamedTuple):
    """A bin of the reliability diagram: where it stands, what is said of it, and how wide the interval is."""

    x: int
    y: int
    low: int
    high: int
    text: str


class Reliability(NamedTuple):
    """Confidence against how often it is right: on the diagonal both are the same."""

    frame: Frame
    ticks: list[Tick]
    points: list[Point]
    path: str


def histogram(equal: int, counts: Sequence[tuple[int, int]], *, width: int, height: int) -> Histogram:
    """How many logits differ by less than a power of two: (exponent, count) in order, and how many are equal."""
    frame = Frame(width, height, left=46, top=8, right=width - 8, bottom=height - 46)
    bars: list[Bar] = []
    columns = [(None, equal), *counts]
    total, highest = sum(count for _, count in columns), max(count for _, count in columns)
    for (exponent, count), (left, right) in zip(columns, strips(len(columns), frame), strict=True):
        tall = round((frame.bottom - frame.top) * count / highest) if highest else 0
        tall = max(tall, 1) if count else 0  # one logit of thousands still shows
        text = "with equal bits" if exponent is None else f"less than {_power(exponent)} apart"
        bars.append(Bar(left + 1, frame.bottom - tall, max(right - left - 2, 1), text, count))
    every = ceil(len(bars) * 4 * LETTER / (frame.right - frame.left))
    labels = ["0" if exponent is None else _power(exponent) for exponent, _ in columns]
    ticks = [Tick(bar.x + bar.width // 2, labels[n]) for n, bar in enumerate(bars) if n % every == 0]
    shares = [Tick(frame.bottom, "0"), Tick(frame.top, f"{highest / total:.0%}" if total else "")]
    return Histogram(frame, bars, ticks, shares, total)


def _power(exponent: int) -> str:
    """A power of two: `2⁻²⁰`."""
    return "2" + str(exponent).replace("-", "⁻").translate(SUPERSCRIPT)


def reliability(bins: Sequence[Mapping[str, Any]], *, side: int) -> Reliability:
    """Bins with their mean confidence, how often they are right, and how many pictures they have (`figures`)."""
    frame = Frame(side, side, left=46, top=8, right=side - 20, bottom=side - 58)
    length = frame.right - frame.left

    def at(share: float) -> int:
        return round(share * length)

    points = []
    for entry in bins:
        interval = wilson(round(entry["right"] * entry["pictures"]), entry["pictures"])
        text = f"{entry['pictures']} pictures of confidence {entry['confidence']:.1%}: {entry['right']:.1%} right"
        place = frame.left + at(entry["confidence"]), frame.bottom - at(entry["right"])
        points.append(Point(*place, frame.bottom - at(interval.low), frame.bottom - at(interval.high), text))
    path = "".join(f"{'L' if n else 'M'}{point.x} {point.y}" for n, point in enumerate(points))
    ticks = [Tick(at(tenths / 10), f"{tenths / 10:.0%}") for tenths in range(0, 11, 2)]
    return Reliability(frame, ticks, points, path)
