"""What it costs to read an object in memory into a Keras model, beside building and filling one."""

from pathlib import Path
from typing import Any

from benchmarks.group import Data, Group, Plan, flowed, sections, table
from benchmarks.measure import script, told


def measured(_folder: Path, plan: Plan) -> dict[str, Any]:
    """Processor seconds of each, on one thread."""
    return dict(script("live", plan.runs, KERAS_BACKEND="tensorflow", OMP_NUM_THREADS="1", TF_CPP_MIN_LOG_LEVEL="3"))


def times(data: Data, name: str = "model") -> list[float]:
    """Seconds of one over those of building and filling, run by run."""
    return [one / floor for one, floor in zip(data[name], data["filled"], strict=True)]


def render(data: Data) -> str:
    """The section."""
    titles = {
        "filled": "keras.applications' 121, built and filled with arrays",
        "read": "`dp.read(state)`",
        "model": "`dp.read(state).keras()`",
    }
    rows = [[title, told(data[name], 2, " s"), told(times(data, name))] for name, title in titles.items()]
    words = """A state dict of torchvision's 121 in memory becomes a Keras model, on TensorFlow: processor seconds of
        one process, in turn."""
    return sections(flowed(words), table(["121", "processor", "times building and filling"], rows))


GROUP = Group("Objects in memory", measured, render, runs=5)
