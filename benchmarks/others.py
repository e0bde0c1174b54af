"""The same conversion by what people do otherwise: a script with both frameworks, and kimm's way."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import charts
from benchmarks.group import Data, Group, Plan, flowed, sections, table
from benchmarks.measure import (
    ROOT,
    SCRIPTS,
    TOOL,
    Failed,
    cpu,
    in_turn,
    measure,
    peak,
    ratios,
    surroundings,
    told,
    wall,
    walls,
)
from benchmarks.networks import NAMED, SMALL, TENFOLD, checkpoints

KIMM = "kimm==0.2.5"
WAYS = {
    "tool": "densenet-port",
    "tensorflow": "a script, TensorFlow",
    "torch": "a script, PyTorch",
    "kimm": "kimm's way",
}


def measured(folder: Path, plan: Plan) -> dict[str, Any]:
    """Each network by every way there is, in turn; what kimm cannot do says why."""
    shapes, rows = SMALL if plan.quick else {**NAMED, **TENFOLD}, {}
    kimm, missing = kimm_python() if any(name in NAMED for name in shapes) else (None, "")
    for number, (name, (file,)) in enumerate(checkpoints(folder, shapes).items()):
        source, out, shape = Path(file["path"]), folder / "out.weights.h5", shapes[name]
        script = partial(measure, sys.executable, SCRIPTS / "naive.py", *shape, source, out)
        tasks = {
            "tool": partial(measure, TOOL, "convert", source, "--out", out, "--force"),
            "tensorflow": partial(script, KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3"),
            "torch": partial(script, KERAS_BACKEND="torch"),
        }
        reason = missing if name in NAMED else "kimm has no such network"
        if not reason:
            words = (kimm, SCRIPTS / "kimm_way.py", name, source, out)
            tasks["kimm"] = partial(measure, *words, KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
        costs = in_turn(tasks, plan.runs, warm=number == 0)  # what is warmed up are the frameworks, once for all
        rows[name] = {"costs": costs, "missing": {"kimm": reason} if reason else {}}
    return rows


def kimm_python() -> tuple[Path, str]:
    """The interpreter of an environment that has kimm beside this one's packages, made once; or why there is none."""
    folder = ROOT / ".venv-kimm"
    python = folder / "bin" / "python"
    try:
        if not (folder / "ready").exists():
            run(sys.executable, "-m", "venv", "--clear", folder)
            packages = run(sys.executable, "-c", "import site; print(*site.getsitepackages(), sep='\\n')")
            inside = run(python, "-c", "import site; print(site.getsitepackages()[0])").strip()
            Path(inside, "beside.pth").write_text(packages)
            run(python, "-m", "pip", "install", "--quiet", "--no-deps", KIMM)
            (folder / "ready").touch()
        run(python, "-c", "from importlib.metadata import version; version('kimm'); version('timm')")
    except Failed as error:
        return python, f"{KIMM} could not be had: {error}"
    return python, ""


def run(*command: Any) -> str:
    """What a command prints. Raises Failed, with its last line."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=surroundings(), check=False)
    if done.returncode:
        raise Failed((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1])
    return done.stdout


def render(data: Data) -> str:
    """The section."""
    rows, missing = [], {}
    for name, row in data.items():
        for way, costs in row["costs"].items():
            times = "" if way == "tool" else told(ratios(costs, row["costs"]["tool"]), 1)
            figures = [walls(costs), f"{cpu(costs):.2f} s", f"{peak(costs):.0f} MiB", times]
            rows.append([name, WAYS[way], *figures])
        missing |= {reason: way for way, reason in row["missing"].items()}
    words = f"""The script is `benchmarks/scripts/naive.py`: both networks built, weights set, file saved, with Keras
        on TensorFlow or on PyTorch. kimm's way is to build timm's model and kimm's own, and to copy weight by weight:
        {KIMM}'s own helpers, in a loop that stands for its conversion tool, which the package does not ship; without
        the tool's forward pass through both, on TensorFlow (`benchmarks/scripts/kimm_way.py`)."""
    left_out = "".join(f"No row of {WAYS[way]}: {reason}.\n" for reason, way in missing.items())
    columns = ["network", "way", "wall", "processor", "peak", "times densenet-port"]
    return sections(flowed(words), table(columns, rows), left_out.strip(), charts.picture("others", "Seconds by way"))


def pictures(data: Data) -> dict[str, str]:
    """Seconds by network and way, on a logarithmic axis."""
    rows = {name: {WAYS[way]: wall(costs) for way, costs in row["costs"].items()} for name, row in data.items()}
    return {"others": charts.dots(rows, "seconds of a whole conversion, logarithmic")}


GROUP = Group("Other ways", measured, render, pictures, runs=2)
