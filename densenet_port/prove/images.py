"""Images: the probes, prepared images that both sides of a comparison see.

Seeded noise of several sizes, and scikit-learn's two photographs where it is installed or the user's own pictures,
prepared as the contract says.
"""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.conversion.load import Network
from densenet_port.errors import DiskError, UsageError
from densenet_port.network.contract import Contract, Resize
from densenet_port.network.graph import graph
from densenet_port.network.pictures import decoded, preprocess, resized

SIZES = (224, 225, 256)  # even, odd, and a multiple of 32
FOLLOWED = 64  # pixels of the probe that is followed through the network: small, so that every activation can be kept
BATCH = 2


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Prepared images `n h w c` float32 that both sides see.

    `name` is unique in a check (`noise 224`, `photographs 225`). `labels` name the pictures; `pictures` are the pixels
    (`n h w 3` uint8) that a report shows, or None for noise.
    """

    name: str
    images: Array
    labels: tuple[str, ...] = ()
    pictures: Array | None = None


def make_probes(
    source: Network, sizes: tuple[int, ...], batch: int, folder: Path | None, seed: int, *, followed: int = FOLLOWED
) -> tuple[Probe, ...]:
    """The images both sides see: first the small noise that is followed through the network, then noise, then pictures.

    Noise is smooth over four pixels, of mean 0 and deviation 1 a value, which is what prepared photographs are like:
    `batch` images of each of `sizes`, in pixels, and `followed` of the small one; where a head fixes the size, all have
    that. The pictures are those in `folder`, without it scikit-learn's two. Raises UsageError for images that show
    nothing or do not fit, and what reading pictures raises.
    """
    network = graph(source.architecture, source.contract)
    least, fixed = network.smallest_side, network.fixed_side
    if fixed is not None:
        sizes, followed = (fixed,) if sizes == SIZES else sizes, fixed
    if small := [size for size in sizes if size < least]:
        raise UsageError(f"images of {small[0]} pixels are too small", hint=f"this network needs at least {least}")
    if other := [size for size in sizes if not network.takes(size)]:
        hint = f"its head reads every place of the last map: {fixed} by {fixed} pixels fit"
        raise UsageError(f"images of {other[0]} pixels are none that the network takes", hint=hint)
    if batch < BATCH:
        raise UsageError(f"--batch must be at least {BATCH}: one image cannot show that logits depend on it")
    channels = source.architecture.channels
    followed = max(followed, least)
    noise = [
        Probe(name=f"noise {size}", images=_noise(batch, size, channels, seed + number))
        for number, size in enumerate(dict.fromkeys((followed, *sizes)))
    ]
    return (*noise, *_photographs(source.contract, channels, sizes[0] if sizes else followed, folder))


def _noise(count: int, size: int, channels: int, seed: int) -> Array:
    """Seeded noise (count, size, size, channels) float32."""
    white = np.random.default_rng(seed).standard_normal((count, size, size, channels))
    smooth = sum(np.roll(white, (i, j), (1, 2)) for i in range(4) for j in range(4))
    noise: Array = np.asarray(smooth / 4, np.float32)
    return noise


def _photographs(contract: Contract, channels: int, size: int, folder: Path | None) -> list[Probe]:
    """Real pictures, prepared as the contract says; none where neither a folder nor scikit-learn's are to be had."""
    pictures = _own_pictures(folder) if folder else _sample_pictures()
    if not pictures or channels not in (1, 3):
        return []
    resize = replace(contract.resize or Resize(), size=(size, size))
    shown = [resized(picture, resize, contract.input) for picture in pictures.values()]
    images = preprocess(pictures.values(), contract, size=resize, channels=channels)
    return [Probe(name=f"photographs {size}", images=images, labels=tuple(pictures), pictures=np.stack(shown))]


def _own_pictures(folder: Path) -> dict[str, Array]:
    """The pictures in a folder, name → `h w 3` uint8. Raises DiskError, CorruptError or UsageError."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise DiskError(f"{folder}: cannot be read: {error.strerror}") from error
    pictures = {path.name: next(decoded(path, 3)) for path in paths}
    if not pictures:
        raise UsageError(f"{folder}: holds no pictures")
    return pictures


def _sample_pictures() -> dict[str, Array]:
    """Scikit-learn's two photographs, where it and Pillow are installed; it is not imported, which takes a second."""
    found = find_spec("sklearn")
    if found is None or found.origin is None or find_spec("PIL") is None:
        return {}
    folder = Path(found.origin).parent / "datasets" / "images"
    return {path.name: next(decoded(path, 3)) for path in sorted(folder.glob("*.jpg"))}
