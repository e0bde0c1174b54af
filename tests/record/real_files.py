"""Writes `docs/real-files.md`: trained files that strangers published, and what becomes of each.

    python -m tests.record.real_files

Each file is converted as it stands, and with each way that its refusal names. Beside some files lie float64 logits of
the network's own function, computed by a forward pass that knows nothing of this project.
"""

import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.errors import PortError
from tests.support.real import REAL

PAGE = Path(__file__).parents[2] / "docs" / "real-files.md"
BOUND = 1e-10  # of the logits' deviation, in float64: what rounding leaves
ENDINGS = (".pth", ".tar", ".h5", ".onnx")
HEAD = """# Files of strangers, and what becomes of each

Trained DenseNets, and networks that are none, from public repositories. Names are the least reliable thing in them;
their shapes and their own statistics say what they are. *Distance* is that of the port's float64 logits from the
network's own, in deviations of those, where they are known. `python -m tests.record.real_files` writes this page from
what the tool does; the tests hold it to it.

| file | words | becomes | distance | what is said |
| --- | --- | --- | --- | --- |
"""


class Outcome(NamedTuple):
    """What became of a file: the network that it is, None where it is refused; its distance if known; what was said."""

    network: str | None
    apart: float | None
    text: str


def files() -> list[Path]:
    """The files, by name; none where the folder is not there."""
    return sorted(path for path in REAL.iterdir() if path.name.endswith(ENDINGS)) if REAL else []


def outcome(path: Path, folder: Path, **words: Any) -> Outcome:
    """Convert a file, read the port, and compare it with the answer beside the file."""
    port = folder / f"{path.name}.weights.h5"
    try:
        done = convert(path, out=port, dtype="float64", force=True, **words)
    except PortError as error:
        return Outcome(None, None, _line("; ".join(filter(None, (error.message, error.hint))), path))
    said = "; ".join(filter(None, (done.assumption, *done.notes)))
    kept = path.with_name(f"{path.name.partition('.')[0]}.npz")
    if not kept.exists():
        return Outcome(_name(done.source), None, _line(said, path))
    with np.load(kept) as answer:
        pictures, logits = answer["x"], answer["y"]
    apart = float(np.abs(read(port)(pictures) - logits).max() / logits.std())
    return Outcome(_name(done.source), apart, _line(said, path))


def _name(network: Any) -> str:
    """A network in a few words."""
    return f"{network.layout} {network.architecture.name}"


def ways(text: str) -> list[dict[str, Any]]:
    """The options that a refusal names, each as words of `read`."""
    found = []
    for way in re.findall(r"(?:--within \S+ --no-top|--within \S+|--no-top)(?= takes)", text):
        within = re.search(r"--within (\S+)", way)
        found.append(({"within": within[1]} if within else {}) | ({"no_top": True} if "--no-top" in way else {}))
    return found


def row(path: Path, result: Outcome, **words: Any) -> str:
    """A line of the page."""
    options = " ".join("--no-top" if key == "no_top" else f"--{key} {value}" for key, value in words.items())
    apart = "" if result.apart is None else f"{result.apart:.0e}"
    return f"| {path.name} | {options} | {result.network or 'refused'} | {apart} | {result.text} |"


def rows(path: Path, folder: Path) -> list[str]:
    """The lines of a file: as it stands, and in each way that its refusal names."""
    result = outcome(path, folder)
    lines = [row(path, result)]
    for words in ways(result.text) if result.network is None else []:
        lines.append(row(path, outcome(path, folder, **words), **words))
    return lines


def _line(text: str, path: Path) -> str:
    """A message without the folder, in one line."""
    return " ".join(text.replace(f"{path.parent}/", "").split())


def main() -> None:
    """Write the page."""
    if REAL is None:
        raise SystemExit("there is no folder of real files: name it in DENSENET_PORT_REAL")
    with tempfile.TemporaryDirectory() as folder:
        lines = [line for path in files() for line in rows(path, Path(folder))]
    PAGE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
