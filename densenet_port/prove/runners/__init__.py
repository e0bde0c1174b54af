"""What runs a network inside the worker: one module a framework, imported when its network is first asked for.

A runner takes a `Job` and gives a `Run`; `extras.SOFTWARE` says which function runs what. Here stands what several of
them share.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.extras import SOFTWARE
from densenet_port.network.contract import Input
from densenet_port.prove.job import Job, Run


def runner(software: str) -> Callable[[Job], Run]:
    """The function that runs a software's networks."""
    module, name = SOFTWARE[software].runner
    function: Callable[[Job], Run] = getattr(import_module(f"densenet_port.prove.runners.{module}"), name)
    return function


def last(output: Array) -> Array:
    """Maps `n c h w` as `n h w c`; vectors as they are."""
    return output.transpose(0, 2, 3, 1) if output.ndim == 4 else output  # n c h w


def pixels(images: Array, picture: Input) -> Array:
    """The pictures, in float64, of which a preparation makes these images: `(x · std + mean) · scale`."""
    values: Array = (images.astype(np.float64) * np.array(picture.std) + np.array(picture.mean)) * picture.scale
    return values


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, numpy and the packages, by the packages' own word or their metadata's."""
    python = ".".join(map(str, sys.version_info[:3]))
    numbers = {name: str(getattr(sys.modules.get(name), "__version__", None) or version(name)) for name in packages}
    return {"python": python, "numpy": np.__version__, **numbers}
