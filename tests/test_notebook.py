"""docs/notebook.ipynb, run as a reader would run it."""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

DOCS = Path(__file__).parent.parent / "docs"


def test_the_notebook_prints_what_it_shows(monkeypatch):
    """PyTorch to Keras, to ONNX, and back, with the picture of the evidence; from the sample alone."""
    shown = nbformat.read(DOCS / "notebook.ipynb", as_version=4)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(DOCS.parent))

    again = NotebookClient(
        nbformat.from_dict(shown), timeout=300, resources={"metadata": {"path": str(DOCS)}}
    ).execute()

    cells = list(zip(again.cells, shown.cells, strict=True))
    assert [printed(cell) for cell, _ in cells] == [printed(cell) for _, cell in cells]
    assert (
        sum("image/svg+xml" in output.get("data", {}) for cell, _ in cells for output in cell.get("outputs", [])) == 1
    )


def printed(cell):
    """What a cell prints on stdout."""
    return "".join(output.text for output in cell.get("outputs", []) if output.get("name") == "stdout")
