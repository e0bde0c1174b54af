"""What runs a network inside the worker: one module a framework, imported when its network is first asked for.

A runner takes a `frameworks.Job` and gives a `frameworks.Run`. Here stands what several of them share.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np

from densenet_port.checkpoint import Array

RUNNERS = {  # network → module and function; the same names stand in the tables as `reference`
    "torchvision": ("torch", "run_torchvision"),
    "keras": ("keras", "run_keras"),
    "keras.applications": ("keras", "run_applications"),
    "keras-hub": ("keras", "run_keras_hub"),
    "kimm": ("keras", "run_kimm"),
    "timm": ("torch", "run_timm"),
    "monai": ("torch", "run_monai"),
    "torchxrayvision": ("torch", "run_torchxrayvision"),
    "opencv": ("opencv", "run_opencv"),
    "onnxruntime": ("onnxruntime", "run_onnxruntime"),
    "numpy": ("numpy", "run_numpy"),
}


def runner(network: str) -> Callable[[Any], Any]:
    """The function that runs a network."""
    module, function = RUNNERS[network]
    found: Callable[[Any], Any] = getattr(import_module(f"densenet_port.prove.runners.{module}"), function)
    return found


def last(output: Array) -> Array:
    """Maps `n c h w` as `n h w c`; vectors as they are."""
    return output.transpose(0, 2, 3, 1) if output.ndim == 4 else output  # noqa: PLR2004 (n c h w)


def versions(*names: str) -> dict[str, str]:
    """Versions of Python, numpy and the packages named, by the packages' own word or their metadata's."""
    python = ".".join(map(str, sys.version_info[:3]))
    found = {name: str(getattr(sys.modules.get(name), "__version__", None) or version(name)) for name in names}
    return {"python": python, "numpy": np.__version__, **found}
