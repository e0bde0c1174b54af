"""The forms in which people bring DenseNets: what they are, and where their files stand.

`inputs_torch` and `inputs_keras` write them, each in a process of its own, because the frameworks do not bear each
other. Beside a file `NAME.ENDING` stands `NAME.npz` where the framework has an answer: `x` (`n h w c`) as the file's
own network takes it, and `y`, its logits.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from densenet_port.prove.worker import environment
from tests.support import warm

SIZE = 64  # pixels


class Form(NamedTuple):
    """A form: what it is, in a line, the ending of its file, and the function that writes it."""

    about: str
    ending: str
    write: Callable[[Path], Any]


FORMS: dict[str, Form] = {}  # of the module that was imported


class Written(NamedTuple):
    """A form that was written: its name, its file, and what it is."""

    name: str
    path: Path
    about: str


def form(about: str, ending: str) -> Callable[[Callable[[Path], Any]], Callable[[Path], Any]]:
    """Registers a function that writes a form under the function's name."""

    def register(write: Callable[[Path], Any]) -> Callable[[Path], Any]:
        FORMS[write.__name__] = Form(about, ending, write)
        return write

    return register


def noise(channels: int = 3, size: int = SIZE, scale: float = 1.0) -> np.ndarray:
    """Two images (2, size, size, channels) float64."""
    return np.random.default_rng(1).standard_normal((2, size, size, channels)) * scale


def write_all(module: str, folder: Path) -> None:
    """Write every form of a module, and print a line for each: its name, its file's and what it is."""
    import_module(module)
    for name, entry in FORMS.items():
        path = folder / f"{name}{entry.ending}"
        entry.write(path)
        sys.stdout.write(f"{name}\t{path.name}\t{entry.about}\n")


def written(module: str, folder: Path) -> list[Written]:
    """Every form of a module, written into a folder by a process of its own."""
    imports = warm.TORCH if module.endswith("torch") else warm.KERAS
    code, printed = warm.run(__name__, [module, folder], environment("tensorflow"), imports)
    lines = printed.decode().splitlines()
    assert code == 0, lines
    rows = [line.split("\t") for line in lines if line.count("\t") == 2]  # frameworks print, too
    return [Written(name, folder / file, about) for name, file, about in rows]


if __name__ == "__main__":
    import_module("tests.support.inputs").write_all(sys.argv[1], Path(sys.argv[2]))  # where forms register
