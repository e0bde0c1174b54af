"""Writes `docs/inputs.md`: the forms in which people bring DenseNets, and what becomes of each.

    python -m tests.record.inputs

Each form is written by the framework itself, converted, and where it converts the port's float64 logits are compared
with the framework's own. What a file says of its preparation of pictures is applied; nothing else is.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.errors import PortError
from densenet_port.network.contract import Input
from tests.support.inputs import Written, written

PAGE = Path(__file__).parents[2] / "docs" / "inputs.md"
GROUPS = {"tests.support.inputs_torch": "PyTorch and ONNX", "tests.support.inputs_keras": "Keras and TensorFlow"}
BOUND = 1e-5  # of the largest logit: Keras and ONNX Runtime answered in float32
HEAD = """# What people bring, and what becomes of it

Each line is a file that the framework itself wrote, of a small random network. *Converts* means that the port's logits
are the framework's own, to {bound:g} of the largest; what the file does not say, and is therefore assumed, follows. A
file that is refused is not written; the message says what it is, and the next step. `python -m tests.record.inputs`
writes this page from what the tool does; the tests hold it to it.
"""


class Outcome(NamedTuple):
    """What became of a file: its port's distance from the framework's logits, None where it is refused or unknown."""

    is_converted: bool
    text: str
    apart: float | None


def outcome(path: Path, folder: Path, **words: object) -> Outcome:
    """Convert a file and compare the port with the framework's answer."""
    port = folder / f"{path.name}.weights.h5"
    try:
        conversion = convert(path, out=port, force=True, **words)
    except PortError as error:
        text = "; ".join(filter(None, (error.message, error.hint)))
        return Outcome(is_converted=False, text=shortened(text, path), apart=None)
    notes = "; ".join(filter(None, (conversion.assumption, *conversion.notes)))
    is_prepared = any("taken for the normalisation of pictures" in note for note in conversion.notes)
    return Outcome(is_converted=True, text=shortened(notes, path), apart=apart(port, path, is_prepared=is_prepared))


def shortened(text: str, path: Path) -> str:
    """A message without the folder, in one line."""
    return " ".join(text.replace(f"{path.parent}/", "").split())


def apart(port: Path, path: Path, *, is_prepared: bool = False) -> float | None:
    """The largest distance of the port's logits from the framework's, as a share of the largest; None without any.

    The file's own preparation of pictures is applied: its graph's, or by numbers beside the weights (`is_prepared`).
    """
    kept = path.with_name(f"{path.name.partition('.')[0]}.npz")
    if not kept.exists() or kept == path:
        return None
    with np.load(kept) as answer:
        x, logits = answer["x"], answer["y"]
    network = read(port)
    if is_prepared or network.origins["input"] == "graph":
        x = prepared(x, network.contract.input)
    if x.shape[-1] != network.architecture.channels:  # of what stands in front of the network, too
        return None
    y = network(x)
    if y.ndim == 4:  # a body alone
        y = y.mean((1, 2))
    if network.contract.output == "relu":
        y = np.maximum(y, 0)
    if y.shape != logits.shape:  # of what stands behind the body, too
        return None
    return float(np.abs(y - logits).max() / np.abs(logits).max())


def prepared(x: np.ndarray, picture: Input) -> np.ndarray:
    """Images as the network takes them, whatever prepares them."""
    turned = x[..., ::-1] if picture.order == "bgr" else x
    return (turned / picture.scale - np.array(picture.mean)) / np.array(picture.std)


def line(form: Written, result: Outcome) -> str:
    """A row of the table."""
    if not result.is_converted:
        word = "refused"
    elif result.apart is None:
        word = "converts (no answer to compare with)"
    elif result.apart <= BOUND:
        word = "converts"
    else:
        word = "**converts by an assumption that is wrong here**"
    return f"| {form.about} | {word} | {result.text.replace('|', '∣')} |"


def section(module: str, folder: Path) -> str:
    """The forms of one group, as Markdown."""
    rows = [line(form, outcome(form.path, folder)) for form in written(module, folder)]
    heading = ["| what is brought | what becomes of it | and what is said |", "| --- | --- | --- |"]
    return "\n".join([f"## {GROUPS[module]}", "", *heading, *rows])


def main() -> None:
    """Write the page."""
    with tempfile.TemporaryDirectory() as scratch:
        sections = [section(module, Path(scratch)) for module in GROUPS]
    PAGE.write_text("\n\n".join([HEAD.format(bound=BOUND).rstrip(), *sections]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
