"""Pictures of measurements: numbers in, an SVG out, which is light or dark as its reader's system is.

The same numbers give the same bytes. Colours tell series apart, and each is named beside its marks or in the legend as
well.
"""

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10

WIDTH = 760
LABELS = 190  # user units on the left, for the names of rows
LETTER = 6.6  # that a letter takes
LIGHT = {"ink": "#1f2328", "soft": "#59636e", "grid": "#d9dee3", "page": "#ffffff"}
DARK = {"ink": "#e6edf3", "soft": "#9198a1", "grid": "#30363d", "page": "#0d1117"}
SERIES = (  # in light and in dark
    ("#2a78d6", "#5598e7"),
    ("#c2571a", "#e0823d"),
    ("#1a8a5f", "#3fb98a"),
    ("#7a4fc9", "#a78bfa"),
    ("#7d6b00", "#d4b106"),
    ("#b5357a", "#f778ba"),
    ("#5b6570", "#a3adb8"),
)


def picture(name: str, title: str) -> str:
    """The Markdown that shows a chart of the page."""
    return f"![{title}](benchmarks/{name}.svg)"


def dots(rows: Mapping[str, Mapping[str, float]], axis: str) -> str:
    """A row for each name with a dot for each series, on a logarithmic axis from a decade to a decade."""
    series = list(dict.fromkeys(name for row in rows.values() for name in row))
    values = [value for row in rows.values() for value in row.values()]
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    high = max(high, low + 1)
    top, step = 46, 34
    bottom, right = top + step * len(rows), WIDTH - 24

    def across(value: float) -> float:
        return LABELS + (right - LABELS) * (log10(value) - low) / (high - low)

    parts = legend(series)
    for power in range(low, high + 1):
        parts.append(upright(across(10.0**power), top, bottom, f"{10.0**power:g}"))
    parts.append(text((LABELS + right) / 2, bottom + 38, axis, "soft", "middle"))
    for number, (name, row) in enumerate(rows.items()):
        y = top + step * (number + 0.5)
        parts += [text(LABELS - 12, y + 4, name, "ink", "end"), line(LABELS, y, right, y, "grid")]
        parts += [
            f'<circle class="s{series.index(way)}" cx="{across(value):.1f}" cy="{y:.1f}" r="5.5"/>'
            for way, value in row.items()
        ]
    return drawn(bottom + 52, parts)


def bars(rows: Mapping[str, float], axis: str) -> str:
    """A bar for each name, from zero, with its number at its end."""
    top, step, right = 14, 34, WIDTH - 90
    bottom, largest = top + step * len(rows), max(rows.values())
    parts = [line(LABELS, top, LABELS, bottom, "grid")]
    for number, (name, value) in enumerate(rows.items()):
        y, length = top + step * number, (right - LABELS) * value / largest
        parts.append(text(LABELS - 12, y + step / 2 + 4, name, "ink", "end"))
        parts.append(f'<rect class="s0" x="{LABELS}" y="{y + 6}" width="{length:.1f}" height="{step - 12}" rx="2"/>')
        parts.append(text(LABELS + length + 8, y + step / 2 + 4, f"{value:.3g}", "ink"))
    parts.append(text((LABELS + right) / 2, bottom + 20, axis, "soft", "middle"))
    return drawn(bottom + 32, parts)


def points(
    places: Sequence[float],
    series: Mapping[str, Sequence[float]],
    across: str,
    upward: str,
    lines: Mapping[str, tuple[float, float]] | None = None,
) -> str:
    """Marks over places, both axes from zero; joined, where `lines` has no slope and start for each series."""
    left, top, right, bottom = 64, 58, WIDTH - 24, 340
    wide, tall = ticks(max(places)), ticks(max(max(values) for values in series.values()))

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * x / wide[-1], bottom - (bottom - top) * y / tall[-1]

    parts = legend(list(series))
    parts += [upright(at(tick, 0)[0], top, bottom, f"{tick:g}") for tick in wide]
    for tick in tall:
        height = at(0, tick)[1]
        parts += [line(left, height, right, height, "grid"), text(left - 8, height + 4, f"{tick:g}", "soft", "end")]
    parts += [text((left + right) / 2, bottom + 38, across, "soft", "middle"), text(8, top - 16, upward, "soft")]
    for number, (name, values) in enumerate(series.items()):
        marks = [at(*point) for point in zip(places, values, strict=True)]
        slope, start = (lines or {}).get(name, (0.0, 0.0))
        ends = [at(x, start + slope * x) for x in (0.0, max(places))] if lines else marks
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in ends)
        parts.append(f'<path class="l{number}" d="M{path}"/>')
        parts += [f'<circle class="s{number}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>' for x, y in marks]
    return drawn(bottom + 52, parts)


def timeline(rows: Sequence[tuple[str, tuple[float, float], Sequence[tuple[str, float, float]]]], axis: str) -> str:
    """A row for each process, from its start to its end, and in it its phases, named where there is room."""
    series = list(dict.fromkeys(label for _, _, phases in rows for label, _, _ in phases))
    kinds = [kind(label) for label in series]
    known = list(dict.fromkeys(kinds))
    top, step, right = 46, 44, WIDTH - 24
    bottom, marks = top + step * len(rows), ticks(max(end for _, (_, end), _ in rows))

    def at(seconds: float) -> float:
        return LABELS + (right - LABELS) * seconds / marks[-1]

    parts = legend(known)
    parts += [upright(at(tick), top, bottom, f"{tick:g}") for tick in marks]
    parts.append(text((LABELS + right) / 2, bottom + 38, axis, "soft", "middle"))
    for number, (name, (start, end), phases) in enumerate(rows):
        y = top + step * number
        parts.append(text(LABELS - 12, y + step / 2 + 4, name, "ink", "end"))
        parts.append(line(at(start), y + step / 2, at(end), y + step / 2, "soft"))
        for label, begun, ended in phases:
            x, length = at(begun), at(ended) - at(begun)
            place = known.index(kind(label))
            hint = f"<title>{escape(label)}, {ended - begun:.2f} s</title>"
            box = f'x="{x:.1f}" y="{y + 8}" width="{length:.1f}" height="{step - 16}" rx="2"'
            parts.append(f'<rect class="s{place}" {box}>{hint}</rect>')
            short = label.removeprefix("import ")
            if len(short) * LETTER + 8 <= length:
                parts.append(text(x + length / 2, y + step / 2 + 4, short, "page", "middle"))
    return drawn(bottom + 52, parts)


def kind(label: str) -> str:
    """What a phase is, of which there are few: an import is one whatever it imports."""
    return "import" if label.startswith("import ") else label


# -- pieces ------------------------------------------------------------------------------------------------------------


def ticks(largest: float) -> list[float]:
    """About five round numbers from zero, the last not below the largest value."""
    unit = 10.0 ** floor(log10(largest / 5))
    step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= largest / 5)
    return [round(n * step, 10) for n in range(ceil(largest / step - 1e-9) + 1)]


def legend(series: Sequence[str]) -> list[str]:
    """A dot and a name for each, in one line at the top."""
    parts, x = [], 8.0
    for number, name in enumerate(series):
        parts += [f'<circle class="s{number}" cx="{x + 5:.1f}" cy="14" r="5"/>', text(x + 15, 18, name, "ink")]
        x += 33 + LETTER * len(name)
    return parts


def upright(x: float, top: float, bottom: float, label: str) -> str:
    """A line of the grid, and its number below."""
    return line(x, top, x, bottom, "grid") + text(x, bottom + 18, label, "soft", "middle")


def line(x: float, y: float, to_x: float, to_y: float, colour: str) -> str:
    """A thin line."""
    return f'<line class="{colour}" x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"/>'


def text(x: float, y: float, words: str, colour: str, anchor: str = "start") -> str:
    """A few words."""
    return f'<text class="t-{colour}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def drawn(height: float, parts: Sequence[str]) -> str:
    """The whole picture, with its colours for light and for dark."""
    shades = [f".t-{name}{{fill:var(--{name})}}line.{name}{{stroke:var(--{name})}}" for name in LIGHT] + [
        f".s{number}{{fill:var(--s{number})}}.l{number}{{fill:none;stroke:var(--s{number});stroke-width:2}}"
        for number in range(len(SERIES))
    ]
    light, dark = (
        "".join(f"--{name}:{value};" for name, value in [*plain.items(), *series])
        for plain, series in (
            (LIGHT, [(f"s{number}", pair[0]) for number, pair in enumerate(SERIES)]),
            (DARK, [(f"s{number}", pair[1]) for number, pair in enumerate(SERIES)]),
        )
    )
    style = f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
    style += "text{font:12px system-ui,sans-serif}" + "".join(shades)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}">',
        f"<style>{style}</style>",
        '<rect width="100%" height="100%" fill="var(--page)"/>',
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
