"""Record what the installed software calls the tensors of its DenseNets, one file for each network.

    python tests/record_keys.py

writes `data/keys/<layout>-<arch>.txt`. The first line is a comment, `# software version date`; each other line is one
tensor in the software's order: name, sizes of the axes with spaces between (none for a scalar), and type, with tabs
between. `read_keys` gives such a file back as a checkpoint, for tests that need no framework.

Each software runs in a process of its own. Nothing is trained, downloaded or loaded: torch's networks are built
without memory ("meta"), and Keras's on its lightest backend.
"""

import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from densenet_port.checkpoint import Checkpoint, Tensor

KEYS = Path(__file__).resolve().parent / "data" / "keys"
Network = tuple[str, Mapping[str, Any]]


def read_keys(path: Path) -> Checkpoint:
    """A recorded list as a checkpoint, its arrays random but the same each time (whole numbers: 0 or 1)."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    shapes = {name: (tuple(map(int, shape.split())), dtype) for name, shape, dtype in rows}
    tensors = {name: Tensor(*what, partial(_noise, name, *what)) for name, what in shapes.items()}
    return Checkpoint(path=path, container="recorded", tensors=tensors)


def _noise(name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(name.encode())).uniform(0.5, 1.5, shape).astype(dtype)


def torchvision_networks() -> Iterator[Network]:
    """The state dicts of torchvision's constructors, current names."""
    import torch
    import torchvision

    for arch in ("121", "161", "169", "201"):
        with torch.device("meta"):
            yield arch, torchvision.models.get_model(f"densenet{arch}", weights=None).state_dict()


def torchvision_dotted_networks() -> Iterator[Network]:
    """The names of torchvision before 0.3, which its published files still have; counters came later.

    No installed software writes them any more, so they are ours to spell, and torchvision's to accept: its own code for
    published files loads every one of them, strictly.
    """
    from types import SimpleNamespace

    import torch
    from networks import dotted, without_counters
    from torchvision.models import densenet, get_model

    for arch, state in torchvision_networks():
        names = dotted(without_counters(state))
        with torch.device("meta"):
            network = get_model(f"densenet{arch}", weights=None)
        published = SimpleNamespace(get_state_dict=lambda names=names, **_: dict(names))
        densenet._load_state_dict(network, published, progress=False)
        yield arch, names


def timm_networks() -> Iterator[Network]:
    """The state dicts of timm's plain DenseNets."""
    import timm
    import torch

    for arch in ("121", "161", "169", "201"):
        with torch.device("meta"):
            yield arch, timm.create_model(f"densenet{arch}", pretrained=False).state_dict()


def keras_applications_networks() -> Iterator[Network]:
    """The weights of keras.applications, `<layer>/<variable>`, in the model's order."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    for arch in ("121", "169", "201"):
        model = getattr(keras.applications, f"DenseNet{arch}")(weights=None)
        yield arch, {weight.path: weight.value for weight in model.weights}


RECORDED: dict[str, tuple[str, Callable[[], Iterator[Network]]]] = {
    "torchvision": ("torchvision", torchvision_networks),
    "torchvision_dotted": ("torchvision", torchvision_dotted_networks),
    "timm": ("timm", timm_networks),
    "keras-applications": ("keras", keras_applications_networks),
}


def record(layout: str) -> None:
    """Write the lists of one layout."""
    software, networks = RECORDED[layout]
    for arch, tensors in networks():
        lines = [f"# {software} {version(software)} {datetime.now(UTC).date().isoformat()}"]
        for name, tensor in tensors.items():
            lines.append(f"{name}\t{' '.join(map(str, tensor.shape))}\t{str(tensor.dtype).removeprefix('torch.')}")
        (KEYS / f"{layout}-{arch}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    KEYS.mkdir(parents=True, exist_ok=True)
    for given in sys.argv[1:] or RECORDED:
        if sys.argv[1:]:
            record(given)
        else:
            subprocess.run([sys.executable, __file__, given], check=True)
