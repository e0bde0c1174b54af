"""The pictures of a report as numbers: data in, an SVG's coordinates out; and photographs as small PNG files.

Nothing is drawn here (`templates/charts.html` draws), and the same data give the same coordinates on every run: in SVG
user units, from the top left corner.
"""

import base64
import re
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from math import ceil, floor, inf, isfinite, isinf, isnan, log10
from typing import Literal, NamedTuple

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.prove.parity import UnitError

LOWEST, HIGHEST = -20, 6  # decades that the depth chart shows at most; what lies beyond stands at its edge
CELL = 2  # user units: logits that fall into one cell of the scatter are one dot
SIDE = 112  # pixels of a thumbnail's longer side, at most
LETTER = 7  # user units that a letter of a chart's labels takes
SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


class Frame(NamedTuple):
    """A picture's size, and the rectangle in it that the axes bound."""

    width: int
    height: int
    left: int
    top: int
    right: int
    bottom: int


class Tick(NamedTuple):
    """A place on an axis, and what is written there."""

    at: int
    label: str


class Band(NamedTuple):
    """Units of one block, side by side; `label` is empty where nothing fits."""

    x: int
    width: int
    label: str


class Series(NamedTuple):
    """One line: its SVG path, and the places where a network gave no finite number."""

    name: Literal["noise", "free", "local"]
    path: str
    lost: tuple[int, ...]


class Spot(NamedTuple):
    """The strip of the depth chart that belongs to a unit."""

    x: int
    width: int
    unit: UnitError


class Depth(NamedTuple):
    """Error along depth. `where` is the place of the first divergence."""

    frame: Frame
    bands: list[Band]
    ticks: list[Tick]
    series: list[Series]
    bound: int
    where: int | None
    spots: list[Spot]


class Scatter(NamedTuple):
    """Reference against port: both axes have the same range, so that equal logits lie on the diagonal.

    `ticks` are numbers' distances from the frame's left, and as well from its bottom. `logits` were looked at, of which
    `lost` could not be drawn, because one side's is no number.
    """

    frame: Frame
    ticks: list[Tick]
    path: str
    logits: int
    lost: int


class Bar(NamedTuple):
    """One bar of a histogram: so many `logits` are as far apart as `label` says."""

    x: int
    y: int
    width: int
    label: str
    logits: int


class Histogram(NamedTuple):
    """How many logits lie how far apart. `ticks` are places on the horizontal axis, `shares` on the vertical one."""

    frame: Frame
    bars: list[Bar]
    ticks: list[Tick]
    shares: list[Tick]
    total: int


# -- error along depth -------------------------------------------------------------------------------------------------


def depth(units: Sequence[UnitError], where: str | None, bound: float, *, width: int, height: int) -> Depth:
    """The errors of units in order of execution, on a logarithmic scale, with the bound that `local` must keep."""
    frame = Frame(width, height, left=46, top=26, right=width - 8, bottom=height - 8)
    values = [value for unit in units for value in (unit.free, unit.local, unit.noise)]
    low, high = _decades([*values, bound])
    places = [frame.left + (frame.right - frame.left) * (n + 0.5) / len(units) for n in range(len(units))]
    names = [unit.unit for unit in units]
    return Depth(
        frame=frame,
        bands=_bands(names, frame),
        ticks=_decade_ticks(frame, low, high, zero=0 in values),
        series=[
            _series(name, places, [getattr(unit, name) for unit in units], frame, (low, high))
            for name in ("noise", "free", "local")
        ],
        bound=round(_altitude(bound, frame, (low, high))),
        where=round(places[names.index(where)]) if where in names else None,
        spots=[
            Spot(left, right - left, unit) for unit, (left, right) in zip(units, strips(len(units), frame), strict=True)
        ],
    )


def _decades(values: Iterable[float]) -> tuple[int, int]:
    """The powers of ten around every value; one more at the bottom where a value is zero and has no logarithm."""
    values = list(values)
    logs = [log10(value) for value in values if 0 < value < inf]
    low, high = max(floor(min(logs)), LOWEST), min(ceil(max(logs)), HIGHEST)
    return low - (0 in values), max(high, low + 1)


def _decade_ticks(frame: Frame, low: int, high: int, *, zero: bool) -> list[Tick]:
    """A tick at every decade, or at every second or third where they would crowd."""
    step = ceil((high - low) / 11)
    ticks = [power for power in range(low + zero, high + 1) if power % step == 0]
    marks = [Tick(round(_altitude(10.0**power, frame, (low, high))), f"1e{power}" if power else "1") for power in ticks]
    return [Tick(frame.bottom, "0"), *marks] if zero else marks


def _altitude(value: float, frame: Frame, decades: tuple[int, int]) -> float:
    """Where a value stands: zero and what is below the scale at the bottom, what is above it at the top."""
    low, high = decades
    place = (log10(value) - low) / (high - low) if value > 0 else 0.0
    return frame.bottom - min(max(place, 0.0), 1.0) * (frame.bottom - frame.top)


def _series(
    name: Literal["noise", "free", "local"],
    places: Sequence[float],
    values: Sequence[float],
    frame: Frame,
    decades: tuple[int, int],
) -> Series:
    """A line through every number; it breaks where there is none. `h0` makes a lone point visible."""
    steps: list[str] = []
    pen = "M"
    for place, value in zip(places, values, strict=True):
        if isfinite(value):
            steps.append(f"{pen}{place:.1f} {_altitude(value, frame, decades):.1f}" + ("h0" if pen == "M" else ""))
        pen = "L" if isfinite(value) else "M"
    none = [isinf(value) or (isnan(value) and name == "free") for value in values]  # a NaN elsewhere: not measured
    lost = tuple(round(place) for place, missing in zip(places, none, strict=True) if missing)
    return Series(name, "".join(steps), lost)


def _bands(names: Sequence[str], frame: Frame) -> list[Band]:
    """The stretches of units whose names begin alike, such as `block1` and `transition1`."""
    places = strips(len(names), frame)
    bands = []
    for title, members in groupby(range(len(names)), key=lambda n: names[n].partition(".")[0]):
        inside = list(members)
        left, right = places[inside[0]][0], places[inside[-1]][1]
        bands.append(Band(left, right - left, _fitting(title, right - left)))
    return bands


def strips(count: int, frame: Frame) -> list[tuple[int, int]]:
    """The frame's width, divided among so many units."""
    edges = [round(frame.left + (frame.right - frame.left) * n / count) for n in range(count + 1)]
    return list(pairwise(edges))


def _fitting(title: str, width: int) -> str:
    """A title, its short form (`b2`), or nothing."""
    short = re.sub(r"^([a-z])[a-z]*(\d+)$", r"\1\2", title)
    return next((text for text in (title, short) if len(text) * LETTER <= width), "")


# -- reference against port --------------------------------------------------------------------------------------------


def scatter(reference: Array, port: Array, *, side: int) -> Scatter:
    """Two arrays of one shape, value against value, in a square.

    Values that share a cell of two user units are drawn once: the picture is the same, and its size has a limit.
    """
    frame = Frame(side, side, left=46, top=8, right=side - 8, bottom=side - 46)
    pairs = np.stack([reference.ravel(), port.ravel()], axis=1).astype(np.float64)
    drawn = pairs[np.isfinite(pairs).all(axis=1)]
    low, high = _range(drawn)
    length = frame.right - frame.left
    cells = np.unique(np.rint((drawn - low) / (high - low) * (length / CELL)).astype(int), axis=0) * CELL
    path = "".join(f"M{frame.left + x} {frame.bottom - y}h0" for x, y in cells.tolist())
    ticks = [Tick(round((mark - low) / (high - low) * length), label) for mark, label in _marks(low, high)]
    return Scatter(frame, ticks, path, len(pairs), len(pairs) - len(drawn))


def _range(values: Array) -> tuple[float, float]:
    """Smallest and largest value, never the same."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    around = 0.0 if low < high else max(abs(low), 1.0)
    return low - around, high + around


def _marks(low: float, high: float) -> list[tuple[float, str]]:
    """About five round numbers between two."""
    rough = (high - low) / 5
    unit = 10.0 ** floor(log10(rough))
    step = next((unit * n for n in (1, 2, 5) if unit * n >= rough), unit * 10)
    return [(n * step, f"{n * step:.6g}") for n in range(ceil(low / step), floor(high / step) + 1)]


# -- units of the last place -------------------------------------------------------------------------------------------


def histogram(counts: Mapping[int, int], *, width: int, height: int) -> Histogram:
    """Counts by distance: exponent of two → logits at most so many ULP apart, and more than half; -1 is equal bits."""
    frame = Frame(width, height, left=46, top=8, right=width - 8, bottom=height - 46)
    total = sum(counts.values())
    exponents = range(-1, max(counts, default=0) + 1)
    highest = max(counts.values(), default=0)
    bars = []
    for exponent, (left, right) in zip(exponents, strips(len(exponents), frame), strict=True):
        count = counts.get(exponent, 0)
        tall = round((frame.bottom - frame.top) * count / highest) if highest else 0
        tall = max(tall, 1) if count else 0  # one logit of thousands still shows
        bars.append(Bar(left + 1, frame.bottom - tall, max(right - left - 2, 1), _ulps(exponent), count))
    every = ceil(len(bars) * 4 * LETTER / (frame.right - frame.left))
    ticks = [Tick(bar.x + bar.width // 2, _power(n - 1)) for n, bar in enumerate(bars) if n % every == 0]
    shares = [(frame.bottom, "0"), (frame.top, f"{highest / total:.0%}" if total else "")]
    return Histogram(frame, bars, ticks, [Tick(*share) for share in shares], total)


def _power(exponent: int) -> str:
    """The largest distance of a bar: `0`, `1`, `2` … `512`, `2¹⁰`."""
    if exponent < 0:
        return "0"
    return str(2**exponent) if exponent < 10 else "2" + str(exponent).translate(SUPERSCRIPT)  # digits


def _ulps(exponent: int) -> str:
    """A bar in words."""
    return "with equal bits" if exponent < 0 else f"at most {2**exponent:,} ULP apart"


# -- photographs -------------------------------------------------------------------------------------------------------


def thumbnail(picture: Array) -> str:
    """A picture (`h w 3` uint8) as a `data:` URI of a small PNG: the mean of square blocks of pixels."""
    block = max(1, ceil(max(picture.shape[:2]) / SIDE))
    height, width = (max(1, size // block) for size in picture.shape[:2])
    whole = picture[: height * block, : width * block].astype(np.float64)
    small = whole.reshape(height, min(block, picture.shape[0]), width, min(block, picture.shape[1]), 3).mean(
        axis=(1, 3)
    )
    return "data:image/png;base64," + base64.b64encode(png(np.rint(small).astype(np.uint8))).decode("ascii")


def png(pixels: Array) -> bytes:
    """Pixels (`h w 3` uint8) as a PNG file (ISO/IEC 15948): header, one compressed run of unfiltered rows, end."""
    height, width = pixels.shape[:2]
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0)))  # each row begins with its filter: 0, none
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, the only methods there are
    pieces = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in pieces)


def _chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk: length, kind, data, and the CRC of kind and data."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
