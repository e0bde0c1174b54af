"""One result in five forms: each is read back by what reads it, for a pass, for a failure, and for hostile names."""

import base64
import fcntl
import io
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from math import inf, isfinite, isinf, isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from junitparser import JUnitXml
from markdown_it import MarkdownIt
from PIL import Image
from rich.console import Console

from densenet_port.errors import DiskError
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.prove import charts, report
from densenet_port.prove.checks import Check
from densenet_port.prove.figures import Figures
from densenet_port.prove.images import Probe
from densenet_port.prove.parity import Parity, UnitError

HOSTILE = "<script>alert(1)</script> & \"x\" ']]>' | `a` \x1b[2J\x00\u202e\ud800 [b](http://x.org) $c$\n# d"
TAGS = {"h2", "h3", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}  # of a summary
VOID = {"meta", "link", "img", "br", "hr", "input"}
CLASSES = 1000


# -- results ---------------------------------------------------------------------------------------------------------


def probe(name, rng, photographs=0):
    """Noise, or photographs with smooth pixels."""
    count = photographs or 3
    images = rng.normal(size=(count, 32, 32, 3)).astype(np.float32)
    if not photographs:
        return Probe(name=name, images=images)
    pixels = np.clip(rng.normal(128, 60, size=(count, 8, 12, 3)), 0, 255).astype(np.uint8)
    pictures = pixels.repeat(28, axis=1).repeat(28, axis=2)
    return Probe(name=name, images=images, labels=("china.jpg", "flower.jpg")[:count], pictures=pictures)


def outputs(probes, rng, fault=0.0):
    """Logits of a reference in both precisions and of a port; `fault` is the port's error in deviations."""
    found = {}
    for entry in probes:
        truth = rng.normal(0, 2.2, size=(len(entry.images), CLASSES))
        noise = [truth + rng.normal(0, 2e-6, size=truth.shape) for _ in range(2)]
        found[entry.name] = {
            "reference64": truth,
            "port64": truth + fault,
            "reference32": noise[0].astype(np.float32),
            "port32": (noise[1] + fault * rng.normal(0, 2.2, size=truth.shape)).astype(np.float32),
        }
    return found


def curve(rng, fault_at=None):
    """Errors that grow with depth over the convolutions of a 121, and a fault that later units inherit."""
    names = [unit.name for unit in Architecture.named("121").units.values() if unit.kind != "norm"]
    grown = np.geomspace(4e-16, 1.5e-14, len(names)) * rng.uniform(0.7, 1.4, len(names))
    noise = np.geomspace(4e-7, 8e-6, len(names)) * rng.uniform(0.8, 1.25, len(names))
    local = rng.uniform(2e-16, 8e-16, len(names))
    if fault_at:
        here = names.index(fault_at)
        local[here] = 0.27
        grown[here:] = 0.27 * rng.uniform(0.6, 1.2, len(names) - here)
    return tuple(
        UnitError(unit=name, free=float(a), local=float(b), noise=float(c))
        for name, a, b, c in zip(names, grown, local, noise, strict=True)
    )


def ulps(rng, precision, fault):
    """How far logits lie apart."""
    center = (20 if precision == "float32" else 49) if fault else (2 if precision == "float32" else 3)
    exponents, counts = np.unique(rng.normal(center, 1.3, size=4000).round().clip(-1).astype(int), return_counts=True)
    return dict(zip(exponents.tolist(), counts.tolist(), strict=True))


def figures(probes, rng, fault=0.0):
    return tuple(
        Figures(
            probe=entry.name,
            precision=precision,
            largest=3 * fault or (9.2e-15 if precision == "float64" else 4.5e-6),
            distance=fault or (1.4e-15 if precision == "float64" else 1.1e-6),
            noise=0.0 if precision == "float64" else 1.0e-6,
            cosine=1 - fault**2 / 2 - 2e-16,
            top1=0.75 if fault else 1.0,
            top5=0.5 if fault else 1.0,
            first_disagreement=2 if fault else None,
            ulps=ulps(rng, precision, fault),
            tolerance=6.6 * fault or 2.1e-14,
        )
        for entry in probes
        for precision in ("float64", "float32")
    )


def checks(probes, fault=0.0):
    found = [
        Check(kind="evidence", name="logits vary", passed=True, measured=2.2, bound=None, says="a deviation of 2.2"),
        Check(kind="evidence", name="float64 was float64", passed=True, measured=None, bound=None, says="both sides"),
        Check(kind="weights", name="weights", passed=True, measured=0.0, bound=0.5, says="606 tensors as written"),
    ]
    for entry in probes:
        found += [
            Check(
                kind=precision,
                name=f"{precision}, {entry.name}",
                passed=not fault,
                measured=3 * fault or measured,
                bound=bound,
                says=f"largest difference of {len(entry.images) * CLASSES} logits in deviations",
            )
            for precision, measured, bound in (("float64", 9.2e-15, 1e-10), ("float32", 1.1, 2.0))
        ]
    return tuple(found)


def sides():
    """Both files and both implementations, told as a check tells them."""
    shared = {
        "architecture": {"name": "121", **Architecture.named("121").to_json()},
        "contract": Contract().to_json(),
        "ledger": {"used": 606, "ignored": 121, "slots": 606},
        "mapping": {"layout": "torchvision", "sha256": "55aa0f3e" * 8},
    }
    torch = {"name": "torchvision", "float64": "torchvision", "versions": {"torch": "2.14.1"}, "seconds": 8.1}
    keras = {
        "name": "keras on jax",
        "float64": "numpy",
        "versions": {"keras": "3.15.1", "jax": "0.7"},
        "seconds": 11.42,
    }
    source = {"path": "densenet121-a639ec97.pth", "layout": "torchvision", "sha256": "8d451a50" * 8, **shared}
    port = {"path": "densenet121-a639ec97.weights.h5", "layout": "keras", "sha256": "1f0c7a22" * 8, **shared}
    return {**torch, **source}, {**keras, **port}, {"reference": torch, "port": keras}


def passing(seed=7):
    """What a right port of a 121 looks like."""
    rng = np.random.default_rng(seed)
    probes = (probe("noise 224", rng), probe("photographs 224", rng, photographs=2), probe("photographs 225", rng, 2))
    source, port, implementations = sides()
    return Parity(
        passed=True,
        independent=True,
        dependence=None,
        checks=checks(probes),
        figures=figures(probes, rng),
        units=curve(rng),
        where=None,
        off=None,
        probes=probes,
        logits=outputs(probes, rng),
        source=source,
        port=port,
        sides=implementations,
        notes=("no photographs of your own were compared",),
        seconds=14.236,
    )


def agreeing():
    """The same numbers, of an original that the port's own table read."""
    return replace(passing(), independent=False, dependence="the reference (numpy) read the original by our table")


def undecided():
    """A reference that answers the same to every picture."""
    good = passing()
    mute = Check(kind="evidence", name="logits answer", passed=False, measured=inf, bound=1e3, says="the same")
    return replace(good, passed=False, undecided="its logits are constant", checks=(mute, *good.checks))


def failing(seed=7):
    """The same with a kernel flipped in the middle of the network."""
    rng = np.random.default_rng(seed)
    good = passing(seed)
    return replace(
        good,
        passed=False,
        checks=checks(good.probes, 0.27),
        figures=figures(good.probes, rng, 0.27),
        units=curve(rng, "block3.layer7.conv2"),
        where="block3.layer7.conv2",
        off="port",
        logits=outputs(good.probes, rng, 0.27),
        diagnosis=(
            {
                "mistake": "kernel-flipped",
                "says": "the kernel of block3.layer7.conv2 is turned by 180°",
                "units": ["block3.layer7.conv2"],
                "before": 0.27,
                "after": 8e-15,
                "detail": {"units": {"block3.layer7.conv2": {"share": 1.0}}},
            },
        ),
    )


def broken():
    """A port whose numbers are none: mean and variance were swapped, and some units overflow or agree to the bit."""
    bad = failing()
    units = tuple(
        replace(u, free=(nan, inf, 0.0)[n % 3], local=(inf, 0.0, nan, 1e-16)[n % 4]) for n, u in enumerate(bad.units)
    )
    logits = {name: {**found, "port32": np.full_like(found["port32"], nan)} for name, found in bad.logits.items()}
    odd = tuple(replace(f, largest=nan, distance=inf, cosine=nan, ulps={}) for f in bad.figures)
    odd_checks = tuple(replace(c, measured=nan) for c in bad.checks)
    return replace(bad, units=units, logits=logits, figures=odd, checks=odd_checks, where=units[0].unit, off="both")


def hostile():
    """A result in which every text was written by an enemy."""
    bad = failing()
    return replace(
        bad,
        checks=tuple(replace(c, name=f"{n} {HOSTILE}", says=HOSTILE) for n, c in enumerate(bad.checks)),
        figures=tuple(replace(f, probe=HOSTILE) for f in bad.figures),
        units=tuple(replace(u, unit=f"{HOSTILE}.{n}") for n, u in enumerate(bad.units)),
        where=f"{HOSTILE}.58",
        probes=tuple(replace(p, name=HOSTILE, labels=(HOSTILE,) * 2) for p in bad.probes),
        logits={HOSTILE: bad.logits["photographs 224"]},
        source={"path": HOSTILE, HOSTILE: {HOSTILE: [HOSTILE]}},
        port={"path": HOSTILE},
        sides={HOSTILE: {"versions": {HOSTILE: HOSTILE}}},
        notes=(HOSTILE,),
        diagnosis=({HOSTILE: HOSTILE, "says": HOSTILE, "units": [HOSTILE] * 200},),
    )


def empty():
    """A result that stopped before it measured anything."""
    return Parity(
        passed=False,
        independent=False,
        dependence="nothing was compared",
        checks=(),
        figures=(),
        units=(),
        where=None,
        off=None,
        probes=(),
        logits={},
        source={},
        port={},
        sides={},
    )


def headless():
    """Networks without a head: the last map stands for the logits."""
    good = passing()
    rng = np.random.default_rng(3)
    maps = {
        p.name: {s: rng.normal(size=(2, 7, 7, 16)).astype("f4") for s in ("reference32", "port32")} for p in good.probes
    }
    return replace(good, logits=maps)


RESULTS = {made.__name__: made for made in (passing, agreeing, undecided, failing, broken, hostile, empty, headless)}


@pytest.fixture(params=RESULTS)
def result(request):
    return RESULTS[request.param]()


# -- terminal --------------------------------------------------------------------------------------------------------


def printed(parity, width=120):
    """What a terminal shows, as the command line prints it."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    for part in report.terminal(parity):
        console.print(part, markup=False) if isinstance(part, str) else console.print(part)
    return console.file.getvalue()


def test_a_pass_fits_a_screen():
    """Verdict first, then checks, figures and notes, and nothing about units."""
    lines = printed(passing()).splitlines()

    assert lines[0] == (
        "PASSED: densenet121-a639ec97.weights.h5 is the same network as densenet121-a639ec97.pth (9 checks, 14.2 s)"
    )
    assert [line.split() for line in lines[2:5]] == [
        ["check", "measured", "bound", "result"],
        ["logits", "vary", "2.2", "–", "ok"],
        ["float64", "was", "float64", "–", "–", "ok"],
    ]
    assert lines[-1] == "note: no photographs of your own were compared"
    assert len(lines) <= 30


def test_an_agreement_that_proves_nothing_says_so():
    """First and last before the notes, in every form; a CI server sees a failure."""
    parity = agreeing()

    lines, suite = printed(parity, width=200).splitlines(), read_junit(report.junit(parity))["checks"]
    page = Page(report.html(parity))

    names = ("densenet121-a639ec97.weights.h5", "densenet121-a639ec97.pth")
    sentence = "give the same logits, which is no proof (9 checks, 14.2 s)"
    reason = "the reference (numpy) read the original by our table"
    assert lines[0] == f"AGREES, NOT PROVEN: {' and '.join(names)} {sentence}"
    assert lines[-2] == f"not independent: {reason}"
    assert [(c.name, c.result[0].text) for c in suite if not c.is_passed] == [("independent reference", reason)]
    assert report.markdown(parity).startswith("## densenet-port: AGREES, NOT PROVEN\n\n")
    assert (page.texts("h1"), page.texts("h2")[0]) == (["AGREES, NOT PROVEN"], "Where and why")
    assert (report.to_json(parity)["dependence"], report.to_json(parity)["grade"]) == (reason, "agrees")


def test_what_cannot_be_judged_says_so():
    """It is neither a pass nor a difference, and the reason stands first."""
    parity = undecided()

    lines, suite = printed(parity, width=200).splitlines(), read_junit(report.junit(parity))["checks"]
    page = Page(report.html(parity))

    port, original = "densenet121-a639ec97.weights.h5", "densenet121-a639ec97.pth"
    sentence = (
        f"whether {port} is the same network as {original}, these runs do not tell (1 of 10 checks failed, 14.2 s)"
    )
    assert lines[0] == f"CANNOT BE JUDGED: {sentence}"
    assert "cannot be judged: its logits are constant" in lines
    assert [case.name for case in suite if not case.is_passed] == ["logits answer"]
    assert report.markdown(parity).startswith("## densenet-port: CANNOT BE JUDGED\n\n")
    assert (page.texts("h1"), page.texts("h2")[0]) == (["CANNOT BE JUDGED"], "Where and why")
    assert (report.to_json(parity)["grade"], report.to_json(parity)["undecided"]) == (
        "cannot be judged",
        "its logits are constant",
    )


@pytest.mark.parametrize("made", [passing, agreeing, undecided, failing])
def test_junit_has_the_grade(made):
    """As a property of each suite."""
    parity = made()

    suites = read_junit(report.junit(parity)).values()

    assert [[(entry.name, entry.value) for entry in suite.properties()] for suite in suites] == [
        [("grade", parity.grade)]
    ] * 2


def test_a_failure_says_where_and_why():
    """The first divergence, the side that is off, the mistake that explains it, and every failed check."""
    lines = printed(failing(), width=200).splitlines()

    local, free = "0.27 (bound 1e-10)", f"{next(u.free for u in failing().units if u.local == 0.27):.4g}"
    assert lines[0].startswith(
        "FAILED: densenet121-a639ec97.weights.h5 is not the same network as densenet121-a639ec97"
    )
    assert lines[-12:-7] == [
        "",
        "first divergence: block3.layer7.conv2",
        f"block3.layer7.conv2 given the reference's own input: {local}; from the images: {free}",
        "the third opinion, numpy, agrees with the reference: the port is off",
        "why: the kernel of block3.layer7.conv2 is turned by 180°",
    ]
    assert [line.partition(";")[2] for line in lines if line.startswith("failed: ")] == [
        f" measured 0.81, bound {bound}" for bound in ("1e-10", "2") * 3
    ]


def test_a_terminal_is_sent_no_commands(result):
    """Escape sequences, and characters that turn text around, come from no file."""
    assert set(re.findall("[^\n -~–−→°×·´’\ufffd]", printed(result))) == set()


# -- JSON ------------------------------------------------------------------------------------------------------------


def refuse(constant):
    raise AssertionError(constant)


def test_json_is_strict(result):
    """No NaN, no Infinity, no lone surrogate, no object without a JSON form; and it comes back as it went."""
    data = report.to_json(result)

    text = json.dumps(data, allow_nan=False, ensure_ascii=False).encode().decode()

    assert json.loads(text, parse_constant=refuse) == data


def test_json_has_the_documented_keys():
    """Programs rely on these."""
    data = report.to_json(passing())

    assert {
        key: sorted(entry[0]) for key, entry in data.items() if key in ("checks", "figures", "units", "probes")
    } == {
        "checks": ["bound", "kind", "measured", "name", "passed", "says"],
        "figures": sorted(Figures.__dataclass_fields__),
        "units": ["free", "local", "noise", "unit"],
        "probes": ["images", "labels", "logits", "name"],
    }
    assert set(data) == set(Parity.__dataclass_fields__) - {"logits"} | {"grade"}


def test_json_shortens_logits_to_a_digest_and_the_best_five():
    """Best first, by class number, with the logits themselves."""
    parity = passing()
    port = parity.logits["photographs 225"]["port32"]

    told = report.to_json(parity)["probes"][2]["logits"]["port32"]

    best = np.argsort(-port[1])[:5]
    assert (told["shape"], told["dtype"], len(told["sha256"])) == ([2, CLASSES], "float32", 64)
    assert told["top5"][1] == [{"class": int(n), "logit": float(port[1, n])} for n in best]


def test_values_that_are_no_numbers_are_told_as_words():
    """A strict parser reads them, and nobody takes them for zero."""
    data = report.to_json(broken())

    assert [data["units"][n]["free"] for n in range(3)] == ["NaN", "Infinity", 0.0]
    assert data["figures"][0]["cosine"] == "NaN"


def test_nan_is_never_among_the_best():
    """Neither in front, where a naive order puts it, nor in place of a number."""
    row = np.array([[nan, 1.0, 3.0, nan, 2.0, 3.0]], np.float32)
    parity = replace(passing(), logits={"noise 224": {"port32": row}})

    told = report.to_json(parity)["probes"][0]["logits"]["port32"]["top5"]

    assert [entry["class"] for entry in told[0]] == [2, 5, 4, 1, 0]


# -- JUnit -----------------------------------------------------------------------------------------------------------


def read_junit(content):
    return {suite.name: suite for suite in JUnitXml.fromstring(content)}


def test_junit_has_a_case_for_every_check_and_unit():
    """And says of each failure what was measured."""
    parity = failing()

    suites = read_junit(report.junit(parity))

    failed = [case.name for suite in suites.values() for case in suite if not case.is_passed]
    assert [(suite.tests, suite.failures) for suite in suites.values()] == [(9, 6), (121, 1)]
    assert failed == [*(check.name for check in parity.checks[3:]), "block3.layer7.conv2"]
    assert next(case for case in suites["checks"] if not case.is_passed).result[0].text == (
        "largest difference of 3000 logits in deviations; measured 0.81, bound 1e-10"
    )


def test_junit_of_a_pass_has_no_failure():
    """Errors above the bound in units are no fault where nothing diverged: a fold may round."""
    good = passing()
    rounded = replace(good, units=tuple(replace(unit, local=3e-8) for unit in good.units))

    suites = read_junit(report.junit(rounded))

    assert [(suite.tests, suite.failures, suite.errors) for suite in suites.values()] == [(9, 0, 0), (121, 0, 0)]


def test_junit_is_read_whatever_the_names(result):
    """What XML forbids is replaced, and the case keeps the rest of its name."""
    suites = read_junit(report.junit(result))

    cases = len(result.checks) + (not result.independent)
    assert [len(list(suite)) for suite in suites.values()] == [cases, len(result.units)]


def test_a_unit_that_is_no_number_fails():
    """Infinity is not within the bound; a unit that was not judged alone is held to its error from the images on."""
    parity = broken()

    faults = {case.name for case in read_junit(report.junit(parity))["units"] if not case.is_passed}

    assert faults == {u.unit for u in parity.units if not (u.free if isnan(u.local) else u.local) <= 1e-10}
    assert {u.unit for u in parity.units if isinf(u.local)} < faults


# -- Markdown --------------------------------------------------------------------------------------------------------


def rendered(text):
    """GitHub's tables and links, as a CommonMark renderer of the same rules makes HTML of them."""
    return MarkdownIt("gfm-like", {"linkify": False}).render(text)


def test_a_summary_holds_verdict_reasons_and_tables():
    """In this order."""
    text = report.markdown(failing())

    assert text.startswith("## densenet-port: FAILED\n\ndensenet121-a639ec97.weights.h5 is not the same network")
    assert re.findall("^### (.*)", text, re.MULTILINE) == ["Diagnosis", "Checks", "Figures", "Files", "Implementations"]
    assert "- first divergence: block3.layer7.conv2\n" in text


def test_a_summary_renders_as_tables(result):
    """Every row has the cells of its heading, and no name became markup, link or script."""
    text = report.markdown(result)

    page = rendered(text)

    tables = [[len(re.findall("<t[hd]>", row)) for row in rows.split("<tr>")[1:]] for rows in page.split("<table>")[1:]]
    assert len(tables) == text.count("\n### ")
    assert [set(widths) for widths in tables] == [{widths[0]} for widths in tables]
    assert len(result.checks) + 1 in [len(widths) for widths in tables] or not result.checks
    assert set(re.findall(r"<(\w+)", page)) <= TAGS


# -- the page --------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """A page's elements, its text, and whether each element is closed in its turn."""

    def __init__(self, text):
        """Read all of it."""
        super().__init__()
        self.open, self.elements, self.words, self.places = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        """What the parser met."""
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        """What the parser met."""
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        """What the parser met."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """What the parser met."""
        if self.open and self.open[-1] != "style":
            self.words.append((self.open[-1], data))

    def texts(self, tag):
        """The texts that stand in elements of a kind."""
        return [data for name, data in self.words if name == tag]


def test_the_page_is_well_formed(result):
    """Every element closes where it should, and every id is there once."""
    page = Page(report.html(result))

    ids = [given["id"] for _, given in page.elements if "id" in given]
    assert (page.open, len(ids)) == ([], len(set(ids)))


def test_the_page_needs_nothing_else(result):
    """No script, and no address but those of data inside the page."""
    text = report.html(result)

    page = Page(text)

    addresses = [
        value for _, given in page.elements for name, value in given.items() if name in ("src", "href", "data")
    ]
    assert [address for address in addresses if not address.startswith(("data:", "#"))] == []
    assert "script" not in {tag for tag, _ in page.elements}
    assert {name for _, given in page.elements for name in given if name.startswith("on") or name == "style"} == set()
    assert re.findall(r"url\(|@import|image-set", text) == []


def test_what_a_label_refers_to_is_there(result):
    """Charts and tables are named by elements of the page."""
    page = Page(report.html(result))

    ids = {given["id"] for _, given in page.elements if "id" in given}
    named = {part for _, given in page.elements for part in given.get("aria-labelledby", "").split()}
    assert named <= ids


def test_every_chart_has_a_name_and_a_description():
    """Depth in two widths, scatter, and a histogram a precision."""
    page = Page(report.html(passing()))

    charts_found = [given for tag, given in page.elements if tag == "svg" and given.get("role") == "img"]
    assert [chart["aria-labelledby"].split() for chart in charts_found] == [
        [f"{name}-title", f"{name}-desc"]
        for name in ("depth-narrow", "depth-wide", "scatter", "ulps-float32", "ulps-float64")
    ]


def test_a_pass_says_so():
    """In the heading and the title, with no section on trouble."""
    page = Page(report.html(passing()))

    assert (page.texts("h1"), page.texts("title")[0]) == (["PASSED"], "PASSED: densenet-port parity report")
    assert page.texts("h2") == [
        "Checks", "Figures", "Error along depth", "Logits", "Photographs", "Files", "Implementations", "Notes"
    ]  # fmt: skip


def test_a_failure_says_where_and_why_before_anything_else():
    """The word, the place, the side and the mistake."""
    page = Page(report.html(failing()))

    assert (page.texts("h1"), page.texts("h2")[:3]) == (["FAILED"], ["Where and why", "Diagnosis", "Checks"])
    assert "first divergence: block3.layer7.conv2" in page.texts("li")
    assert "the kernel of block3.layer7.conv2 is turned by 180°" in page.texts("td")


def test_hostile_names_stay_text():
    """They are shown as they are, but for what no page may hold."""
    page = Page(report.html(hostile()))

    shown = "<script>alert(1)</script> & \"x\" ']]>' | `a` �[2J���"
    assert [text for text in page.texts("h4") if not text.startswith(shown)] == []
    assert len(page.texts("h4")) == 4


def test_the_same_result_gives_the_same_page():
    """No time, no random number."""
    assert report.html(passing()) == report.html(passing())


def test_photographs_stand_side_by_side():
    """A card for each photograph of each probe, classes of both sides, differences marked."""
    page = Page(report.html(failing()))

    pictures = [given["src"] for tag, given in page.elements if tag == "img"]
    assert (len(pictures), page.texts("h4")) == (4, ["china.jpg", "flower.jpg"] * 2)
    assert any(text.endswith("≠") for text in page.texts("td"))


# -- charts ----------------------------------------------------------------------------------------------------------


def decode(file):
    """The pixels of a PNG, by the book and not by our writer."""
    return np.asarray(Image.open(io.BytesIO(file)))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_a_png_holds_its_pixels(height, width, seed):
    """Any size, every value."""
    pixels = np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)

    assert np.array_equal(decode(charts.png(pixels)), pixels)


@pytest.mark.parametrize("size", [(224, 336), (1, 500), (500, 1), (3, 2), (113, 112)])
def test_a_thumbnail_is_small_and_keeps_the_colours(size):
    """Means of blocks, so that a plain picture stays as it is."""
    picture = np.broadcast_to(np.array([200, 30, 7], np.uint8), (*size, 3))

    pixels = decode(base64.b64decode(charts.thumbnail(picture).partition(",")[2]))

    assert max(pixels.shape[:2]) <= charts.SIDE
    assert np.array_equal(np.unique(pixels.reshape(-1, 3), axis=0), [[200, 30, 7]])


def ink(path):
    """Points of a path that are drawn."""
    return [tuple(map(float, found)) for found in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path)]


def test_the_depth_chart_shows_the_fault_above_the_bound():
    """The local error crosses the bound at one unit only, and the mark stands there."""
    parity = failing()

    chart = charts.depth(parity.units, parity.where, 1e-10, width=1060, height=320)

    local = next(series for series in chart.series if series.name == "local")
    above = [x for x, y in ink(local.path) if y < chart.bound]
    assert [round(x) for x in above] == [chart.where]
    assert [band.label for band in chart.bands if band.label] == ["block1", "block2", "block3", "block4"]


@given(
    st.lists(
        st.tuples(*[st.floats(min_value=0) | st.just(nan) for _ in range(3)]),
        min_size=1,
        max_size=9,
    )
)
@settings(max_examples=200, deadline=None)
def test_every_error_has_a_place_in_the_depth_chart(errors):
    """Whatever the values, all ink is inside the axes, and nothing is left out but what was not measured."""
    units = [UnitError(unit=f"block{n}.x", free=a, local=b, noise=c) for n, (a, b, c) in enumerate(errors)]

    chart = charts.depth(units, None, 1e-10, width=340, height=320)

    frame = chart.frame
    points = [point for series in chart.series for point in ink(series.path)]
    lost = sum(len(series.lost) for series in chart.series)
    unmeasured = sum(isnan(value) for unit in units for value in (unit.local, unit.noise))
    assert all(frame.left <= x <= frame.right and frame.top <= y <= frame.bottom for x, y in points)
    assert len(points) + lost + unmeasured == 3 * len(units)
    assert all(frame.top <= tick.at <= frame.bottom for tick in chart.ticks)


@given(st.lists(st.tuples(*[st.floats(width=32)] * 2), max_size=30))
@settings(max_examples=200, deadline=None)
def test_every_logit_has_a_place_in_the_scatter(values):
    """Points stay inside the axes; what is no number is counted."""
    reference, port = np.array(values, np.float32).reshape(-1, 2).T

    chart = charts.scatter(reference, port, side=380)

    frame = chart.frame
    finite = sum(isfinite(a) and isfinite(b) for a, b in values)
    points = ink(chart.path)
    assert (chart.logits, chart.lost) == (len(values), len(values) - finite)
    assert (len(points) > 0) == (finite > 0)
    assert all(frame.left <= x <= frame.right and frame.top <= y <= frame.bottom for x, y in points)


def test_equal_logits_lie_on_the_diagonal():
    """Both axes have one scale."""
    logits = np.random.default_rng(1).normal(size=500).astype(np.float32)

    chart = charts.scatter(logits, logits, side=380)

    assert {x - chart.frame.left + y - chart.frame.bottom for x, y in ink(chart.path)} == {0}


def test_a_histogram_keeps_every_count():
    """One bar an exponent, gaps included, and a single logit still shows."""
    chart = charts.histogram({-1: 5000, 0: 1, 3: 40}, width=380, height=190)

    assert [(bar.label, bar.logits, bar.y < chart.frame.bottom) for bar in chart.bars] == [
        ("with equal bits", 5000, True),
        ("at most 1 ULP apart", 1, True),
        ("at most 2 ULP apart", 0, False),
        ("at most 4 ULP apart", 0, False),
        ("at most 8 ULP apart", 40, True),
    ]
    assert [tick.label for tick in chart.ticks] == ["0", "1", "2", "4", "8"]


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_report_is_four_files(result, tmp_path):
    """In a folder that did not exist; the JSON says its schema."""
    paths = report.write(result, tmp_path / "new" / "report")

    assert sorted(path.name for path in (tmp_path / "new" / "report").iterdir()) == sorted(paths)
    assert set(paths) == {"report.json", "junit.xml", "summary.md", "report.html"}
    assert json.loads(paths["report.json"].read_bytes()) == {
        "schema": "densenet-port/check/1",
        **report.to_json(result),
    }


def test_a_report_replaces_an_older_one(tmp_path):
    """The newest result is the one that stands there."""
    report.write(failing(), tmp_path)

    paths = report.write(passing(), tmp_path)

    assert json.loads(paths["report.json"].read_bytes())["passed"] is True


def test_a_folder_that_cannot_be_made_is_a_disk_error(tmp_path):
    """Say which."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(DiskError, match=r"file/report: cannot be made: Not a directory"):
        report.write(passing(), tmp_path / "file" / "report")


def test_a_file_that_cannot_be_replaced_is_a_disk_error(tmp_path):
    """And nothing half written is left."""
    (tmp_path / "junit.xml").mkdir()

    with pytest.raises(DiskError, match=r"junit\.xml: cannot be written"):
        report.write(passing(), tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["junit.xml", "report.json"]


# -- in a browser ----------------------------------------------------------------------------------------------------


class Browser:
    """Headless Chromium without a network, spoken to in its own protocol over two pipes."""

    NAMES = ("chromium", "chromium-browser", "google-chrome")
    FLAGS = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --hide-scrollbars --proxy-server=127.0.0.1:9 "
        "--remote-debugging-pipe about:blank"
    )

    def __init__(self, profile):
        """Start it with an empty profile; it reads commands from its file 3 and answers in its file 4."""
        binary = next(filter(None, map(shutil.which, self.NAMES)), None)
        assert binary, f"the browser tests need one of {', '.join(self.NAMES)} (Debian: apt-get install chromium)"
        here_read, there_write = os.pipe()
        there_read, here_write = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (there_read, there_write)]
        shell = [shutil.which("bash"), "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "bash"]
        self.process = subprocess.Popen(
            [*shell, binary, f"--user-data-dir={profile}", *self.FLAGS.split()],
            pass_fds=ends,
            stderr=subprocess.DEVNULL,
        )
        for end in (there_read, there_write, *ends):
            os.close(end)
        self.inward, self.outward = os.fdopen(here_read, "rb"), os.fdopen(here_write, "wb", buffering=0)
        self.events, self.count, self.session = [], 0, None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **parameters):
        """Send a command and wait for its answer; what happens meanwhile is kept."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        self.outward.write(
            json.dumps({**message, **({"sessionId": self.session} if self.session else {})}).encode() + b"\0"
        )
        while (answer := self.hear()).get("id") != self.count:
            self.events.append(answer)
        return answer["result"]

    def hear(self):
        """The next message."""
        piece = bytearray()
        while (byte := self.inward.read(1)) not in (b"\0", b""):
            piece += byte
        return json.loads(piece)

    def show(self, path, width, scheme="light", height=900):
        """Open a file in a window of some width and colour scheme."""
        self.events.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.hear())

    def value(self, expression):
        """What a JavaScript expression is in the page."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def complaints(self):
        """Errors and warnings on the console, and whatever was asked of a network."""
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Network.loadingFailed")
        asked = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        foreign = [url for url in asked if not url.startswith(("file:", "data:"))]
        return [event for event in self.events if event.get("method") in kinds] + foreign

    def close(self):
        """Hang up, which ends it."""
        self.outward.close()
        self.inward.close()
        self.process.wait(timeout=20)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


OPENED = "document.querySelectorAll('details').forEach(node => node.open = true)"
STICKING_OUT = """
[...document.querySelectorAll("main *")].filter(node => !node.parentElement.closest(".scroll, svg"))
  .filter(node => node.getBoundingClientRect().right > node.parentElement.getBoundingClientRect().right + 0.5)
  .map(node => node.outerHTML)
"""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 700, 1400])
def test_a_browser_shows_the_page(browser, result, tmp_path, width, scheme):
    """At every width the page itself never scrolls sideways; nothing is complained of or fetched."""
    path = report.write(result, tmp_path)["report.html"]

    browser.show(path, width, scheme)
    browser.value(OPENED)

    assert browser.complaints() == []
    assert browser.value("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert browser.value(STICKING_OUT) == []


BAD_PAGE = """<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,"><main>
<p style="width: 2000px">wide</p><img src="https://example.org/a.png"><script>console.error("bad")</script></main>"""


@pytest.mark.browser
def test_a_bad_page_is_noticed(browser, tmp_path):
    """The test above can fail, on all of its points."""
    (tmp_path / "bad.html").write_text(BAD_PAGE, encoding="utf-8")

    browser.show(tmp_path / "bad.html", 700)

    told = [event if isinstance(event, str) else event["method"] for event in browser.complaints()]
    assert {"Runtime.consoleAPICalled", "Network.loadingFailed", "https://example.org/a.png"} <= set(told)
    assert browser.value("document.documentElement.scrollWidth") > 700
    assert browser.value(STICKING_OUT) == ['<p style="width: 2000px">wide</p>']


CONTRAST = """
(() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const lightness = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = parts(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const ratios = [...document.querySelectorAll("h1,h2,h3,h4,p,li,dt,dd,small,th,td,b,figcaption,summary,footer,text")]
    .filter(node => [...node.childNodes].some(child => child.nodeType == 3 && child.data.trim()))
    .map(node => {
      const style = getComputedStyle(node);
      const [one, two] = [parts(node.tagName == "text" ? style.fill : style.color), behind(node)].map(lightness);
      return (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    });
  return [ratios.length > 100, Math.min(...ratios)];
})()
"""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(browser, tmp_path, scheme):
    """At least 4.5 to 1, as WCAG 2 asks of text at level AA."""
    browser.show(report.write(failing(), tmp_path)["report.html"], 1400, scheme)

    many, least = browser.value(CONTRAST)

    assert (many, least >= 4.5) == (True, True), least


@pytest.mark.browser
def test_one_depth_chart_shows_at_each_width(browser, tmp_path):
    """The narrow one on a telephone, the wide one on a desk."""
    path = report.write(passing(), tmp_path)["report.html"]
    seen = (
        "[...document.querySelectorAll('svg.chart')].filter(x => x.clientWidth > 0).map(x => x.viewBox.baseVal.width)"
    )
    found = {}

    for width in (360, 1400):
        browser.show(path, width)
        found[width] = browser.value(seen)

    assert found == {360: [340, 380, 380, 380], 1400: [1060, 380, 380, 380]}
