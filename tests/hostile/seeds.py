"""A small network in every container that is read; what mutants are made of."""

import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
import torch

from densenet_port import formats
from densenet_port.conversion.convert import convert
from tests.support import bundles, mxnet_files
from tests.support.networks import checkpoint_file

ARCH = "layers=2-1,growth_rate=4,init_channels=8,classes=5"
WRITTEN = {  # what is written → a layout that comes in it
    ".pth": "torchvision",
    ".safetensors": "keras",
    ".h5": "keras",
    ".weights.h5": "keras",
    ".keras": "keras",
    ".caffemodel": "caffe",
    ".onnx": "onnx",
    ".npz": "torchvision",
}
READ = (
    *WRITTEN,
    *("stream.pth", "tar.pth", "packed.pth", "packed.keras", ".caffemodel.h5", "numpy.npz", "packed.npz"),
    *("plain.pkl", ".params"),
)


def packed(path, to):
    """A zip with its members deflated."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))


def seeds(folder: Path) -> dict[str, Path]:
    """Container → path of the network in it. Those in `WRITTEN` are ours, and carry digests."""
    source = checkpoint_file(folder, ARCH, "zip")
    paths = {ending: folder / f"x{ending}" for ending in READ}
    for ending, layout in WRITTEN.items():
        convert(source, out=paths[ending], dst=layout)
    for form in ("legacy", "tar"):
        checkpoint_file(folder, ARCH, form).rename(paths["stream.pth" if form == "legacy" else "tar.pth"])
    packed(source, paths["packed.pth"])
    packed(paths[".keras"], paths["packed.keras"])
    state = torch.load(source)
    paths["plain.pkl"].write_bytes(pickle.dumps(state))
    paths[".params"].write_bytes(mxnet_files.written({name: value for name, value in state.items() if value.ndim}))
    np.savez(paths["numpy.npz"], **state)
    np.savez_compressed(paths["packed.npz"], **state)
    with h5py.File(paths[".caffemodel.h5"], "w") as file:
        for name, item in formats.read(paths[".caffemodel"]).tensors.items():
            file[f"data/{name.replace('#', '/')}"] = item.load()
    return paths


def pairs(folder: Path, paths: dict[str, Path]) -> dict[str, Path]:
    """Ending → path, of each file of two that belong together: Caffe's text, and a checkpoint of TensorFlow."""
    entries, data = {}, b""
    for name, value in sorted(torch.load(next(folder.glob("*-zip.pth"))).items()):
        if value.ndim:
            entries[name] = bundles.entry(value.numpy(), offset=len(data))
            data += value.numpy().tobytes()
    index = bundles.put(folder, entries, data)
    return {
        ".prototxt": paths[".caffemodel"].with_suffix(".prototxt"),
        ".index": index,
        ".data-00000-of-00001": index.with_suffix(".data-00000-of-00001"),
    }
