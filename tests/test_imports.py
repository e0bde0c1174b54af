"""Conversion needs no framework: the package is imported in a process of its own, and nothing heavy comes along."""

import json
import subprocess
import sys
from pathlib import Path

import densenet_port

FRAMEWORKS = {"torch", "torchvision", "tensorflow", "keras", "jax", "cv2", "onnx", "onnxruntime", "timm"}
PACKAGE = Path(densenet_port.__file__).parent
MODULES = sorted(
    ".".join(("densenet_port", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__main__"
)


def loaded_after(code):
    """The top-level modules in a fresh interpreter after running some code."""
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_every_module_is_looked_at():
    """The list is not empty and has the deep ones."""
    assert {"densenet_port.cli.app", "densenet_port.formats.torch.pth", "densenet_port.models"} <= set(MODULES)


def test_importing_everything_imports_no_framework():
    """Even `model` and `frameworks` import theirs only when called."""
    loaded = loaded_after("\n".join(f"import {name}" for name in MODULES))

    assert loaded & FRAMEWORKS == set()


def test_the_probe_sees_a_framework():
    """The test above can fail: a module that imports one is noticed."""
    assert loaded_after("import jax") & FRAMEWORKS == {"jax"}


def test_the_command_line_starts_lean():
    """Neither HDF5, rich nor a HTTP client is paid for by a command that does not need them."""
    loaded = loaded_after(
        "import densenet_port.cli.app, densenet_port.conversion.convert, densenet_port.layouts.layout"
    )

    assert loaded & {"h5py", "rich", "safetensors", "platformdirs", "urllib3", "filelock"} == set()
