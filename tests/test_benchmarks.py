"""Benchmarks run through, the page is what was measured, and what is said of measurements is right."""

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks import charts, growth, page, sides
from benchmarks.__main__ import main
from benchmarks.group import Group, Missing
from benchmarks.measure import Failed, in_turn, measure, ratios, told, user

ROOT = Path(__file__).parent.parent
RESULTS = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))


def sized(seconds):
    """Growth's data, of networks that take so long: one run each, MiB and seconds."""
    rows = []
    for size, taken in seconds.items():
        costs = {"tool": [[2 * taken, taken, 100.0, taken]], "floor": [[0.1, 0.1, 40.0, 0.05]]}
        rows.append({"parameters": size * 2**18, "largest": 2**20, "bytes": size * 2**20, "costs": costs})
    return {"rows": rows}


def spanned(*spans):
    """Sides' data, of one process that did so much."""
    return {"spans": [dict(zip(("process", "label", "start", "end"), ("Keras", *span), strict=True)) for span in spans]}


def runs(*seconds):
    """Costs of as many runs."""
    return [[wall, 2 * wall, 50.0] for wall in seconds]


FAULT = {"fault": "none", "float64": 0.0, "float32": 1e-6, "flips": 0, "caught": "nothing", "named": "nothing"}
MEASURED = {  # a little of what each group measures, and a row that says it
    "phases": (
        {"121": {"plan": [[0.01, 0.01], [0.03, 0.02]], "read": [[0.1, 0.1], [0.1, 0.1]]}},
        ["| read | 100.0 ms | 100.0 ms | | plan | 20.0 ms | 15.0 ms |"],
    ),
    "others": (
        {"121": {"costs": {"tool": runs(0.5), "torch": runs(5.0)}, "missing": {"kimm": "no network"}}},
        ["| 121 | a script, PyTorch | 5.00 s | 10.00 s | 50 MiB | 10.0 |", "No row of kimm's way: no network."],
    ),
    "batch": (
        {
            "files": 10,
            "bytes": 2**20,
            "costs": {"singles": runs(20, 22), "one job": runs(5, 5), "two jobs": runs(2, 2)},
        },
        ["| `batch --jobs 2` | 2.0 s (2.0–2.0) | 4.0 s | 5.0 | 50 MiB | 10.50 (10.00–11.00) | 2.50 (2.50–2.50) |"],
    ),
    "sides": (
        {
            "bytes": 2**20,
            "costs": {name: runs(n + 1) for n, name in enumerate(sides.TITLES)},
            "spans": [
                {"process": "check", "label": "process", "start": 0.0, "end": 9.0},
                {"process": "check", "label": "judge", "start": 7.0, "end": 8.0},
                {"process": "keras", "label": "float64", "start": 2.0, "end": 5.5},
            ],
        },
        [
            "| `check`: both, and the verdict | 3.0 s | 6.0 s | 50 MiB | 1.50 |",
            "| check | 1.00 | | 8.00 | 9.00 |",
            "torn down, 1.5 s.",
        ],
    ),
    "evaluate": (
        {
            "few": 10,
            "many": 30,
            "costs": {
                **{f"{way} 10": runs(1, 2) for way in ("port", "keras", "both", "torch")},
                **{f"{way} 30": runs(n, n + 1) for way, n in (("port", 3), ("keras", 2), ("both", 5), ("torch", 4))},
            },
        },
        [
            "| `evaluate PORT` | 10.0 | 0.50 (0.50–0.50) | 3.5 s (3.0–4.0) | 7.0 s | 50 MiB |",
            "| `evaluate PORT --against ORIGINAL` | 5.0 | 1.00 (1.00–1.00) |",
        ],
    ),
    "live": (
        {"filled": [2.0, 2.0], "read": [0.2, 0.2], "model": [2.2, 2.6]},
        ["| `dp.read(state).keras()` | 2.40 s (2.20–2.60) | 1.20 (1.10–1.30) |"],
    ),
    "check": (
        {"121": {"numpy": {"float64": 1e-14, "float32": 2e-6, "ratio": 1.5, "top1": 1.0}}},
        ["| network | float64: numpy | float32: numpy |", "| 121 | 1.0e-14 | 2.0e-06 (1.50×) |"],
    ),
    "noise": ({"small": {"numpy": [1.0, 3.0]}}, ["at most 3.00 times"]),
    "faults": (
        {"images": 4, "size": 64, "rows": [FAULT, {**FAULT, "caught": "float64"}]},
        ["1 fail a check, 0 are named"],
    ),
}


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_a_quick_try_measures_and_writes_a_page(tmp_path):
    """Groups that need no framework, in a folder of their own; the page says which others were not measured."""
    words = ["-m", "benchmarks", "convert", "batch", "--quick", "--out", tmp_path]

    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "convert …\nbatch …\n")
    results = json.loads((tmp_path / "results.json").read_text())
    assert [*results] == ["convert", "batch"]
    assert results["convert"]["data"]["sample"]["costs"]["tool"][0][1] > 0
    assert page.written(results)["benchmarks.md"] == (tmp_path / "benchmarks.md").read_text()
    assert "## Growth\n\nNot measured yet." in (tmp_path / "benchmarks.md").read_text()


def test_the_page_and_its_pictures_are_what_was_measured():
    """docs/benchmarks.md and every picture are rendered from results.json, and no other picture lies there."""
    written = page.written(RESULTS)

    assert written == {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in written}
    drawn = {f"benchmarks/{path.name}" for path in (ROOT / "docs" / "benchmarks").glob("*.svg")}
    assert {name for name in written if name.endswith(".svg")} == drawn


def test_tables_of_other_documents_are_what_was_measured():
    """README's table, and those of the other documents, stand between their markers as they are rendered."""
    for document, tables in page.tables(RESULTS).items():
        text = (ROOT / document).read_text(encoding="utf-8")
        for name, content in tables.items():
            assert f"-->\n{content}\n<!-- /{name} -->" in text


def test_what_fails_or_is_missing_does_not_stop_the_rest(tmp_path, monkeypatch, capsys):
    """A fault is told on stderr and by the exit code, what is not there on the page; the third group is measured."""

    def broken(folder, plan):
        raise ValueError("it broke")

    def absent(folder, plan):
        raise Missing("no such command.")

    render = "{runs} runs".format_map
    groups = {"a": Group("A", broken, render), "b": Group("B", absent, render)}
    groups["c"] = Group("C", lambda folder, plan: {"runs": plan.runs}, render)
    monkeypatch.setattr(page, "GROUPS", groups)

    code = main(["--out", str(tmp_path), "--runs", "7"])

    assert code == 1
    assert "ValueError: it broke" in capsys.readouterr().err
    said = (tmp_path / "benchmarks.md").read_text()
    assert "## A\n\nNot measured yet.\n\n## B\n\nNot measured: no such command.\n\n## C\n\n7 runs\n" in said


@pytest.mark.parametrize(("others", "marked"), [(0.01, False), (0.5, True)])
def test_a_loaded_machine_is_marked(others, marked):
    """What others took of the processors meanwhile stands below a group's figures."""
    load = {"load": 0.2, "seconds": 10.0, "others": others}

    said = page.circumstances({**RESULTS["convert"], "load": load})

    assert said.startswith("<sub>**On a loaded machine.**") == marked
    assert f"{others:.1%} of the processors' time was others'" in said


@pytest.mark.parametrize("name", MEASURED)
def test_what_was_measured_is_said(name):
    """Each group renders its own data: the medians, ratios within rounds, and a picture for each that it shows."""
    data, expected = MEASURED[name]

    said = page.GROUPS[name].render(data)

    assert [line for line in expected if line not in " ".join(said.split())] == []
    shown = re.findall(r"\(benchmarks/(\S+)\.svg\)", said)
    assert shown == [*page.GROUPS[name].charts(data)]


def test_what_is_traced_is_there():
    """A function that moved or has another name would be missing from the profile of a check."""
    from benchmarks.scripts.phases import PHASES
    from benchmarks.scripts.tracing.sitecustomize import CALLS

    known = [*PHASES.values(), *((module, name) for module, calls in CALLS.items() for name in calls)]
    missing = [f"{module}.{name}" for module, name in known if not hasattr(import_module(module), name)]
    assert missing == []


# -- what is said ------------------------------------------------------------------------------------------------------


def test_a_straight_line_is_found_and_a_curve_is_told():
    """Growth by bytes is linear; growth by their square is not, by the same bound."""
    sizes = (30, 100, 300, 1200)
    line, curve = sized({x: 0.2 + x / 1024 for x in sizes}), sized({x: 0.2 + (x / 600) ** 2 for x in sizes})

    assert pytest.approx((1 / 1024, 0.2)) == growth.fitted(line, "tool", user)
    assert pytest.approx((2 / 1024, 0.4)) == growth.fitted(line, "tool")
    said = growth.verdict(line)
    assert said.startswith("It is linear in what the tool does itself, 0.20 s and 1.00 s a GiB, off by at most 0.0%")
    assert growth.verdict(curve).startswith("**It is not linear**")


def test_ratios_are_taken_within_each_round():
    """A machine that was twice as slow in one round gives the same ratio there."""
    assert told(ratios([[1, 0, 0], [4, 0, 0]], [[0.5, 0, 0], [2, 0, 0]])) == "2.00 (2.00–2.00)"


def test_tasks_run_in_turn_after_a_warm_up():
    """The first round is not kept."""
    calls = []
    tasks = {name: lambda name=name: calls.append(name) or (len(calls), 0.0, 0.0, 0.0) for name in "ab"}

    costs = in_turn(tasks, 2)

    assert list("ababab") == calls
    assert costs == {"a": [(3, 0, 0, 0), (5, 0, 0, 0)], "b": [(4, 0, 0, 0), (6, 0, 0, 0)]}


@pytest.mark.parametrize("start", ["run", "Popen"], ids=["waited for", "left alone"])
def test_a_process_is_measured_with_all_that_it_starts(start):
    """The memory of a grandchild and its time are in the cost, whether its parent waits for it or not."""
    inner = "x = bytearray(100 * 2**20); sum(range(3_000_000))"
    words = f"import subprocess, sys; subprocess.{start}([sys.executable, '-c', {inner!r}])"

    cost, alone = (measure(sys.executable, "-c", each) for each in (words, "import subprocess"))

    assert cost.peak > 100 > alone.peak
    assert cost.cpu > 1.5 * alone.cpu


def test_a_process_that_fails_says_why():
    """Its exit code and its last words."""
    with pytest.raises(Failed, match=r"ended with 3:\nit broke"):
        measure(sys.executable, "-c", "import sys; print('it broke'); sys.exit(3)")


def test_phases_of_a_process():
    """What is built and imported within a run is cut out of it; imports within imports are not seen twice."""
    data = spanned(
        ("process", 0.0, 9.0),
        ("import numpy", 0.1, 0.5),
        ("float64", 0.5, 6.0),
        ("import keras", 0.5, 2.0),
        ("import tensorflow", 0.6, 1.0),
        ("import jax", 1.0, 1.9),
        ("build and fill", 2.0, 4.0),
        ("import torchvision", 2.5, 3.5),
        ("float64", 6.0, 7.0),
        ("float32", 7.0, 8.0),
    )
    expected = [
        ("import numpy", 0.1, 0.5),
        ("import keras", 0.5, 2.0),
        ("build and fill", 2.0, 2.5),
        ("import torchvision", 2.5, 3.5),
        ("build and fill", 3.5, 4.0),
        ("float64", 4.0, 7.0),
        ("float32", 7.0, 8.0),
    ]
    assert {"Keras": expected} == sides.phases(data)


@pytest.mark.parametrize(
    "drawn",
    [
        charts.bars({"a & b": 1.0, "c": 20.0}, "files a second"),
        charts.dots({"121": {"a": 0.2, "b": 9.0}, "161": {"a": 0.3}}, "seconds"),
        charts.points([1, 2, 4], {"a": [1, 2, 4]}, "MiB", "seconds", {"a": (1.0, 0.0)}),
        charts.timeline([("Keras", (0.0, 9.0), [("import keras", 0.0, 3.0), ("float64", 3.0, 8.0)])], "seconds"),
    ],
    ids=["bars", "dots", "points", "timeline"],
)
def test_pictures_are_svg_with_both_their_colours(drawn):
    """Well-formed, and nothing lies outside the picture."""
    picture = ET.fromstring(drawn)  # noqa: S314 (our own)
    _, _, width, height = map(float, picture.get("viewBox").split())

    assert "prefers-color-scheme:dark" in drawn
    for mark in picture.iter():
        for key, limit in (("x", width), ("cx", width), ("x2", width), ("y", height), ("cy", height), ("y2", height)):
            if key in mark.attrib:
                assert 0 <= float(mark.get(key)) <= limit


def test_files_that_are_measured_are_networks(tmp_path):
    """A checkpoint of any width is read, and its norms share their statistics as a trained network's do."""
    import densenet_port as dp
    from benchmarks.scripts.checkpoints import files

    (file,) = files(tmp_path, 1, "2-3-2/8/16")
    network = dp.read(file["path"])

    assert file["parameters"] == sum(array.size for array in network.weights.values())
    assert file["largest"] == max(array.nbytes for array in network.weights.values())
    assert network.witness.line.startswith("7 of 7 norms inherit 320 of 320 numbers")
