"""The GitHub Action: its shell steps run here, against stand-ins that record how they are called."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from densenet_port.prove.report import to_json
from tests.prove.test_report import passing

ROOT = Path(__file__).parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
STAND_IN = """#!/bin/bash
printf '%s\\n' "$(basename "$0")" "$@" >> "$CALLS"
if [ "$1" = check ] && [ -n "$SUMMARY" ]; then mkdir -p "$REPORT" && echo "$SUMMARY" > "$REPORT/summary.md"; fi
if [ "$1" = check ] && [ -n "$VERDICT" ]; then echo "$VERDICT" > "$REPORT/report.json"; fi
exit "${CODE:-0}"
"""


@pytest.fixture
def run(tmp_path):
    """Run a step as GitHub does: its script, bash's strict options, inputs in the environment; what it left behind."""
    for name in ("densenet-port", "python"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(STAND_IN, encoding="utf-8")
        (tmp_path / "bin" / name).chmod(0o755)
    files = {name: tmp_path / name for name in ("CALLS", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    bash = shutil.which("bash")

    def step(name, **environment):
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        given = {**os.environ, "PATH": path, **{key: str(file) for key, file in files.items()}, **environment}
        command = [bash, "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS[name]["run"]]
        done = subprocess.run(command, env=given, cwd=tmp_path, capture_output=True, text=True, check=False)
        left = {key: file.read_text(encoding="utf-8").splitlines() for key, file in files.items() if file.exists()}
        return done.returncode, left

    return step


def test_every_input_is_declared_and_used():
    """A name that nothing reads, or that nobody declared, is a mistake."""
    used = set(re.findall(r"inputs\.([\w-]+)", yaml.safe_dump(ACTION["runs"])))

    assert used == set(ACTION["inputs"])


def test_no_input_is_pasted_into_a_script():
    """Inputs go through the environment, where a shell cannot take them for commands."""
    scripts = [step["run"] for step in STEPS.values() if "run" in step]

    assert [script for script in scripts if "${{" in script] == []


def test_every_variable_of_a_script_is_given():
    """By the step's own environment, by GitHub, or by the script."""
    for step in STEPS.values():
        used = set(re.findall(r"\$\{?([A-Z_]+)", step.get("run", "")))

        assert used - {"GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"} <= set(step.get("env", {}))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_gives_the_action_what_it_takes(path):
    """Nothing it does not know, and everything it needs."""
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    calls = [step["with"] for job in jobs.values() for step in job["steps"] if step.get("uses") == "./"]

    needed = {name for name, entry in ACTION["inputs"].items() if entry.get("required")}
    assert all(needed <= set(call) <= set(ACTION["inputs"]) for call in calls)
    assert all((ROOT / call["checkpoint"]).is_file() for call in calls)


def test_the_workflows_are_there():
    """One runs what must hold before anything lands, one uses the action."""
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "parity.yml", "release.yml"]


@pytest.mark.parametrize(
    ("version", "more", "requirement"),
    [
        ("", "", "/here/it is[torch,keras]"),
        ("", "caffe,onnx", "/here/it is[torch,keras,caffe,onnx]"),
        ("0.1.0", "", "densenet-port[torch,keras]==0.1.0"),
        ("0.1.0", "onnx", "densenet-port[torch,keras,onnx]==0.1.0"),
    ],
)
def test_what_is_installed(run, version, more, requirement):
    """The action's own source, or a version that was asked for, with what the reference needs."""
    code, left = run("Install densenet-port", VERSION=version, EXTRAS="torch,keras", MORE=more, SOURCE="/here/it is")

    assert (code, left["CALLS"]) == (0, ["python", "-m", "pip", "install", requirement])


def test_a_conversion_with_every_option(run):
    """Each input is one word, whatever is in it."""
    given = {"CHECKPOINT": "a b.pth", "SRC": "$(rm x)", "ARCH": "121", "WITHIN": "my ema", "OUT": "`o`.weights.h5"}
    code, left = run("Convert", **given)

    options = ["--src", "$(rm x)", "--arch", "121", "--within", "my ema", "--out", "`o`.weights.h5", "--force"]
    assert (code, left["CALLS"]) == (0, ["densenet-port", "convert", "a b.pth", *options])


def test_a_conversion_with_no_option(run):
    """What was not given is not said."""
    code, left = run("Convert", CHECKPOINT="a.pth", SRC="", ARCH="", OUT="o.weights.h5")

    assert (code, left["CALLS"]) == (0, ["densenet-port", "convert", "a.pth", "--out", "o.weights.h5", "--force"])


def test_a_failed_conversion_ends_in_its_code(run):
    """So that nothing is checked."""
    code, _ = run("Convert", CHECKPOINT="a.pth", SRC="", ARCH="", OUT="o.weights.h5", CODE="3")

    assert code == 3


@pytest.mark.parametrize(
    ("code", "grade", "summary", "output"),
    [
        ("0", "proven", "passed", ["name=my report", "passed=true", "grade=proven"]),
        ("1", "differs", "failed", ["name=my report", "passed=false", "grade=differs"]),
        ("1", "agrees", "not proven", ["name=my report", "passed=false", "grade=agrees"]),
        ("1", "cannot be judged", "no", ["name=my report", "passed=false", "grade=cannot be judged"]),
        ("4", "", "", ["name=my report"]),
    ],
)
def test_a_check_ends_in_its_code_and_leaves_its_grade_and_summary(run, code, grade, summary, output):
    """A failed comparison too; an error has no summary and says nothing about the network."""
    report = replace(passing(), passed=grade != "differs", independent=grade != "agrees")
    report = replace(report, undecided="nothing" if grade == "cannot be judged" else None)
    verdict = json.dumps({"schema": "s", **to_json(report)}, indent=1) if grade else ""
    given = {"CHECKPOINT": "a.pth", "OUT": "o.weights.h5", "BACKEND": "jax", "REPORT": "deep/my report"}
    given |= {"SRC": "torchvision", "WITHIN": "ema"}

    found, left = run("Check", **given, CODE=code, SUMMARY=summary, VERDICT=verdict)

    words = ["check", "o.weights.h5", "--against", "a.pth", "--src", "torchvision", "--within", "ema"]
    words += ["--backend", "jax", "--report", "deep/my report"]
    assert left == {
        "CALLS": ["densenet-port", *words],
        "GITHUB_OUTPUT": output,
        **({"GITHUB_STEP_SUMMARY": [summary]} if summary else {}),
    }
    assert found == int(code)


def test_an_older_summary_is_not_taken_for_a_new_one(run, tmp_path):
    """A check that breaks off leaves nothing of the last one."""
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "summary.md").write_text("PASSED", encoding="utf-8")

    _, left = run("Check", CHECKPOINT="a", OUT="o", BACKEND="numpy", REPORT="report", CODE="4", SUMMARY="")

    assert "GITHUB_STEP_SUMMARY" not in left


def test_the_report_is_kept_whatever_the_verdict():
    """It matters most after a failure."""
    step = STEPS["Keep the report"]

    assert step["if"].startswith("always()")
    assert step["with"]["path"] == "${{ inputs.report }}"
