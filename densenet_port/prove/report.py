"""One result, five forms: terminal, JSON, JUnit XML, Markdown, and a web page that stands alone.

All forms show the same tables, and a value is written in one way everywhere (`shown`). Names come from files that
anybody may have written: every form drops characters that could command a terminal, break XML or turn text around, and
escapes the rest in its own way. The same result gives the same bytes. The page is `templates/report.html`.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from itertools import chain
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET  # written, never read

import numpy as np

from densenet_port.about import __version__
from densenet_port.checkpoint import Array
from densenet_port.files import write_into
from densenet_port.prove import charts
from densenet_port.prove.checks import BOUND64, Check
from densenet_port.prove.figures import Figures
from densenet_port.prove.images import Probe
from densenet_port.prove.parity import Grade, Parity, UnitError
from densenet_port.prove.tables import Table, clean, drawn, plain, shown, side_by_side, templates

SCHEMA = "densenet-port/check/1"
MARKUP = re.compile(r"([\\`*_\[\]<>|~&$#@]|(?<=http):|(?<=https):|(?<=www)\.)")
FEW = 4  # units named before "and n more"
LARGE = ("probes", "logits")  # of Parity: arrays, which have a form of their own
WORDS: dict[Grade, str] = {
    "proven": "PASSED",
    "agrees": "AGREES, NOT PROVEN",
    "differs": "FAILED",
    "cannot be judged": "CANNOT BE JUDGED",
}
COLOURS: dict[Grade, str] = {"proven": "green", "agrees": "yellow", "differs": "red", "cannot be judged": "yellow"}
SUSPECTS = {
    "port": "the third opinion, numpy, agrees with the reference: the port is off",
    "reference": "the third opinion, numpy, agrees with the port: the reference is off",
    "both": "the third opinion, numpy, contradicts both sides",
}


class Verdict(NamedTuple):
    """The verdict as a word (of `WORDS`) and a sentence."""

    word: str
    sentence: str


class KeyFigure(NamedTuple):
    """One of the numbers that a reader looks for first."""

    label: str
    value: str
    detail: str
    passed: bool


class Card(NamedTuple):
    """A photograph, its thumbnail (a `data:` URI), and both sides' best classes: {"class", "logit"}, best first."""

    label: str
    thumbnail: str
    ranks: list[tuple[dict[str, Any], dict[str, Any]]]


# -- the forms ---------------------------------------------------------------------------------------------------------


def terminal(parity: Parity) -> list[Any]:
    """Strings and rich renderables, in order: verdict, checks, figures, then where and why, then the notes."""
    from rich.text import Text  # noqa: PLC0415 (rich is slow to import, and only the terminal needs it)

    word, sentence = _verdict(parity)
    checks = _checks(parity)
    tables = [Table(checks.title, checks.headings[:4], [row[:4] for row in checks.rows]), _figures(parity)]
    if parity.diagnosis:
        tables.append(_diagnosis(parity))
    parts: list[Any] = [Text.assemble((word, f"bold {COLOURS[parity.grade]}"), f": {sentence}")]
    for table in tables:
        parts += ["", drawn(table)]
    lines = [*_where_and_why(parity), *(f"note: {shown(note)}" for note in parity.notes)]
    return [*parts, "", *lines] if lines else parts


def to_json(parity: Parity) -> dict[str, Any]:
    """Everything but the large arrays, as values that strict JSON has.

    The keys are `grade`, those of `Parity`, and within them those of `Check`, `Figures` and `UnitError`; the exponents
    of `ulps` are strings. A float that is no number is "NaN", "Infinity" or "-Infinity". An array is its `shape`,
    `dtype` and `sha256` (`checkpoint.array_digest`). `probes` hold `name`, `labels`, `images` and `logits`: side → such
    an array with `top5`, a list per image of {"class", "logit"}, best first (None for a network without a head). The
    schema is `densenet-port/check/1`: keys may be added to it, and what they say stays.
    """
    entries = {entry.name: plain(getattr(parity, entry.name)) for entry in fields(parity) if entry.name not in LARGE}
    return {"grade": parity.grade, **entries, "probes": [_probe(parity, probe) for probe in parity.probes]}


def junit(parity: Parity) -> bytes:
    """JUnit XML as CI servers read it: a suite of the checks and a suite of the units, a case for each."""
    faulty = _faulty(parity)
    checks = [
        (f"densenet-port.{check.kind}", check.name, None if check.passed else f"{check.says}; {_measured(check)}")
        for check in parity.checks
    ]
    units = [
        ("densenet-port.unit", unit.unit, _unit_line(unit) if unit.unit in faulty else None) for unit in parity.units
    ]
    root = ET.Element("testsuites", name="densenet-port check", time=f"{parity.seconds:.3f}")
    if not parity.independent:
        checks.append(("densenet-port.evidence", "independent reference", parity.dependence))
    for name, cases in (("checks", checks), ("units", units)):
        root.append(_suite(name, cases, parity.grade))
    for count in ("tests", "failures", "errors"):
        root.set(count, str(sum(int(suite.attrib[count]) for suite in root)))
    ET.indent(root)
    content: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def markdown(parity: Parity) -> str:
    """GitHub's Markdown, for a CI job's summary."""
    word, sentence = _verdict(parity)
    tables = [_md_table(table) for table in _tables(parity) if table.rows]
    lists = ["\n".join(f"- {_md(line)}" for line in lines) for lines in (_where_and_why(parity), parity.notes)]
    parts = [f"## densenet-port: {word}", _md(sentence), lists[0], *tables, lists[1]]
    return "\n\n".join(filter(None, parts)) + "\n"


def html(parity: Parity) -> str:
    """One web page that needs nothing else: styles, charts and photographs are in it, and no script."""
    word, sentence = _verdict(parity)
    return (
        templates("densenet_port.prove")
        .get_template("report.html")
        .render(
            parity=parity,
            word=word,
            kind=parity.grade.replace(" ", "-"),
            sentence=sentence,
            lines=_where_and_why(parity),
            key_figures=_key_figures(parity),
            tables={table.title: table for table in _tables(parity)},
            units=_units(parity),
            depths=[_depth(parity, size) for size in (340, 1060)] if parity.units else [],
            scatter_chart=_scatter(parity),
            histograms=_histograms(parity),
            photographs=[
                (probe.name, list(_cards(parity, probe))) for probe in parity.probes if probe.pictures is not None
            ],
            bound=BOUND64,
            version=__version__,
        )
    )


def write(parity: Parity, folder: Path) -> dict[str, Path]:
    """Write `report.json`, `junit.xml`, `summary.md` and `report.html` into a folder, made where it is missing.

    Each file appears whole or not at all. Gives name → path. Raises DiskError.
    """
    data = json.dumps({"schema": SCHEMA, **to_json(parity)}, indent=1, allow_nan=False) + "\n"
    contents = {
        "report.json": data.encode(),
        "junit.xml": junit(parity),
        "summary.md": markdown(parity).encode(),
        "report.html": html(parity).encode(),
    }
    return write_into(folder, contents)


# -- what every form says ----------------------------------------------------------------------------------------------


def _verdict(parity: Parity) -> Verdict:
    port, source = shown(parity.port.get("path", "the port")), shown(parity.source.get("path", "the original"))
    count, took = f"{len(parity.checks)} checks", f", {parity.seconds:.1f} s" if parity.seconds else ""
    failed = f"{sum(not check.passed for check in parity.checks)} of {count} failed"
    sentences: dict[Grade, str] = {
        "proven": f"{port} is the same network as {source} ({count}{took})",
        "agrees": f"{port} and {source} give the same logits, which is no proof ({count}{took})",
        "differs": f"{port} is not the same network as {source} ({failed}{took})",
        "cannot be judged": f"whether {port} is the same network as {source}, these runs do not tell ({failed}{took})",
    }
    return Verdict(WORDS[parity.grade], sentences[parity.grade])


def _where_and_why(parity: Parity) -> list[str]:
    """The first place that is wrong, which side it is, what explains it, and what failed; nothing for a proof."""
    if parity.proven:
        return []
    if parity.grade == "agrees":
        return [f"not independent: {shown(parity.dependence)}"]
    lines = []
    if parity.undecided is not None:
        lines.append(f"cannot be judged: {parity.undecided}")
    if parity.where is not None:
        lines.append(f"first divergence: {parity.where}")
    lines += [_unit_line(unit) for unit in parity.units if unit.unit == parity.where]
    if parity.off:
        lines.append(SUSPECTS[parity.off])
    lines += [f"why: {shown(finding['says'])}" for finding in parity.diagnosis if "says" in finding]
    lines += [f"failed: {check.name}: {check.says}; {_measured(check)}" for check in parity.checks if not check.passed]
    return [shown(line) for line in lines]


def _faulty(parity: Parity) -> set[str]:
    """Units with an error of their own, or with any error where they were not judged alone.

    There are none without a first divergence: what a conversion had to round is no fault.
    """
    if parity.where is None:
        return set()
    errors = {unit.unit: unit.free if isnan(unit.local) else unit.local for unit in parity.units}
    return {parity.where, *(unit for unit, error in errors.items() if not error <= BOUND64)}


def _unit_line(unit: UnitError) -> str:
    alone = f"given the reference's own input: {shown(_known(unit.local))} (bound {shown(BOUND64)})"
    return f"{unit.unit} {alone}; from the images: {shown(unit.free)}"


def _known(error: float) -> float | None:
    """A local error or a noise: NaN says that there is none, infinity that a network gave no number."""
    return None if isnan(error) else error


def _measured(check: Check) -> str:
    return f"measured {shown(check.measured)}, bound {shown(check.bound)}"


def _key_figures(parity: Parity) -> list[KeyFigure]:
    """The worst check of each kind, and how often the best class is the same."""
    figures = []
    for kind in ("float64", "float32", "weights"):
        checks = [check for check in parity.checks if check.kind == kind and check.measured is not None]
        if checks:
            worst = max(checks, key=lambda check: (not check.passed, check.measured))
            detail = f"bound {shown(worst.bound)}; {worst.says}"
            figures.append(KeyFigure(kind, shown(worst.measured), detail, worst.passed))
    if parity.figures:
        same = min(figure.top1 for figure in parity.figures)
        detail = "of the images, in the worst probe and precision"
        figures.append(KeyFigure("same best class", f"{same:.0%}", detail, same == 1))
    return figures


# -- tables ------------------------------------------------------------------------------------------------------------


def _tables(parity: Parity) -> list[Table]:
    """The tables of a document, in order."""
    known = set(chain.from_iterable(parity.sides.values()))  # what a side's column says is not said again of its file
    files = {
        name: {key: fact for key, fact in facts.items() if key not in known}
        for name, facts in (("original", parity.source), ("port", parity.port))
    }
    return [
        _diagnosis(parity),
        _checks(parity),
        _figures(parity),
        side_by_side("Files", files),
        side_by_side("Implementations", parity.sides),
    ]


def _checks(parity: Parity) -> Table:
    headings = ("check", "measured", "bound", "result", "what it says")
    rows = [
        (check.name, check.measured, check.bound, "ok" if check.passed else "FAILED", check.says)
        for check in parity.checks
    ]
    return Table("Checks", headings, rows)


def _figures(parity: Parity) -> Table:
    headings = "probe, precision, largest, distance, noise, 1 − cosine, top-1, top-5, first disagreement, tolerance"
    return Table("Figures", tuple(headings.split(", ")), [_figure_row(figures) for figures in parity.figures])


def _figure_row(figures: Figures) -> tuple[Any, ...]:
    distances = (figures.largest, figures.distance, figures.noise, 1 - figures.cosine)
    agreement = (f"{figures.top1:.1%}", f"{figures.top5:.1%}", figures.first_disagreement)
    return (figures.probe, figures.precision, *distances, *agreement, figures.tolerance)


def _units(parity: Parity) -> Table:
    faulty = _faulty(parity)
    headings = ("unit", "free", "local", "noise", "result")
    rows = [
        (unit.unit, unit.free, _known(unit.local), _known(unit.noise), "FAILED" if unit.unit in faulty else "ok")
        for unit in parity.units
    ]
    return Table("Units", headings, rows)


def _diagnosis(parity: Parity) -> Table:
    """A row for each finding; its nested details are for programs."""
    nested = {key for entry in parity.diagnosis for key, fact in entry.items() if isinstance(fact, Mapping)}
    keys = [key for key in dict.fromkeys(chain.from_iterable(parity.diagnosis)) if key not in nested]
    rows = [tuple(_few(entry.get(key)) for key in keys) for entry in parity.diagnosis]
    return Table("Diagnosis", tuple(keys), rows)


def _few(fact: Any) -> Any:
    """The first of a long list, and how many more there are."""
    if not isinstance(fact, list | tuple) or len(fact) <= FEW + 1:
        return fact
    return [*fact[:FEW], f"and {len(fact) - FEW} more"]


def _md_table(table: Table) -> str:
    rule = "| --- " * len(table.headings) + "|"
    head, *rows = (f"| {' | '.join(map(_md, row))} |" for row in (table.headings, *table.rows))
    return "\n".join((f"### {table.title}", "", head, rule, *rows))


# -- values ------------------------------------------------------------------------------------------------------------


def _md(value: Any) -> str:
    """A value inside a line of Markdown: nothing in it is markup, a cell's end, a link or a new line."""
    return MARKUP.sub(r"\\\1", shown(value))


def _suite(name: str, cases: Iterable[tuple[str, str, str | None]], grade: Grade) -> ET.Element:
    """A JUnit suite of (class name, name, what failed or None), with the verdict's grade as a property."""
    suite = ET.Element("testsuite", name=name, errors="0", skipped="0")
    ET.SubElement(ET.SubElement(suite, "properties"), "property", name="grade", value=grade)
    for group, title, failure in cases:
        case = ET.SubElement(suite, "testcase", classname=shown(group), name=shown(title))
        if failure is not None:
            ET.SubElement(case, "failure", message=shown(failure), type="parity").text = clean(failure)
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    return suite


# -- logits, charts and photographs ------------------------------------------------------------------------------------


def _probe(parity: Parity, probe: Probe) -> dict[str, Any]:
    """A probe as JSON, with the logits that it gave."""
    logits = {side: {**plain(array), "top5": _top5(array)} for side, array in parity.logits.get(probe.name, {}).items()}
    return {**{key: plain(getattr(probe, key)) for key in ("name", "labels", "images")}, "logits": logits}


def _top5(logits: Array) -> list[list[dict[str, Any]]] | None:
    """For each image the five best classes and their logits (`n classes`); NaN is never among the best."""
    if logits.ndim != 2:  # n classes
        return None
    return [[{"class": n, "logit": plain(row[n])} for n in _best(row)] for row in logits]


def _best(row: Array) -> list[int]:
    """The five largest values' places, the first of equals first."""
    order = np.argsort(-np.where(np.isnan(row), -np.inf, row), kind="stable")
    return [int(n) for n in order[:5]]


def _depth(parity: Parity, width: int) -> charts.Depth:
    return charts.depth(parity.units, parity.where, BOUND64, width=width, height=320)


def _pairs(parity: Parity) -> list[tuple[Array, Array]]:
    """Both sides' float32 logits, probe by probe."""
    return [
        (logits["reference32"], logits["port32"])
        for logits in parity.logits.values()
        if {"reference32", "port32"} <= set(logits)
    ]


def _scatter(parity: Parity) -> charts.Scatter | None:
    pairs = _pairs(parity)
    if not pairs:
        return None
    reference, port = (np.concatenate([side.ravel() for side in sides]) for sides in zip(*pairs, strict=True))
    return charts.scatter(reference, port, side=380)


def _histograms(parity: Parity) -> list[tuple[str, charts.Histogram]]:
    """Precision and histogram, all probes together."""
    histograms = []
    for precision in ("float32", "float64"):
        counts: Counter[int] = Counter()
        for figures in parity.figures:
            if figures.precision == precision:
                counts.update(figures.ulps)
        if counts:
            histograms.append((precision, charts.histogram(counts, width=380, height=190)))
    return histograms


def _cards(parity: Parity, probe: Probe) -> Iterator[Card]:
    """A card for each photograph."""
    logits = parity.logits.get(probe.name, {})
    reference, port = (_top5(logits[side]) or [] if side in logits else [] for side in ("reference32", "port32"))
    for n, picture in enumerate(probe.pictures if probe.pictures is not None else ()):
        label = probe.labels[n] if n < len(probe.labels) else f"image {n + 1}"
        ranks = list(zip(reference[n], port[n], strict=False)) if reference and port else []
        yield Card(label, charts.thumbnail(picture), ranks)
