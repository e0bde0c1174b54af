"""Releases for the tests: small networks, built once a session by the numpy backend, with random weights."""

import shutil
from pathlib import Path

from densenet_port.network.architecture import Architecture
from densenet_port.release.build import Built, build
from densenet_port.release.network import Options
from tests.support.networks import checkpoint_file

QUICK = Options(backend="numpy", sizes=())  # the probe that is followed, and photographs of its size
SPECS = (
    "layers=2-2,growth_rate=4,init_channels=8,classes=6",
    "layers=1-2,growth_rate=4,init_channels=8,classes=6",
)
FIRST, SECOND = (
    f"densenet-{layers}-growth-rate-4-init-channels-8-classes-6-torchvision" for layers in ("layers-2-2", "layers-1-2")
)


def sources(folder: Path, *specs: str) -> list[Path]:
    """A checkpoint of each architecture, as torch writes it."""
    return [checkpoint_file(folder, spec, "zip") for spec in specs]


def built(folder: Path, checkpoints: list[Path], *specs: str, out: str = "release", **more) -> Built:
    """A release of the networks in `folder/out`."""
    archs = [Architecture.named(spec) for spec in specs]
    return build(folder / out, src="torchvision", archs=archs, checkpoints=checkpoints, **{"options": QUICK, **more})


def copied(release: Path, folder: Path) -> Path:
    """A copy of a release that a test may damage."""
    return shutil.copytree(release, folder / "copy")


def content(folder: Path) -> dict[str, bytes]:
    """Name → bytes of everything in a folder, deep."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
