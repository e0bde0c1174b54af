"""Files of flyyufelix's networks rebuilt from what is known of them, with h5py alone, and their forward pass by SciPy.

Names, order, lists and attributes are those of docs/layouts/flyyufelix.md, for every Keras and backend that may have
saved a file; `data/old-keras/` has small ones that Keras 1 and 2 really saved. Arrays are random, the norms' own affine
maps as well as those of the Scale layers, as in a network that was trained further.
"""

import gzip
import json
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from scipy.signal import convolve2d, correlate2d

from densenet_port.network.architecture import Architecture
from tests.record.old_keras import EPSILON

OLD = Path(__file__).parent.parent / "data" / "old-keras"
RECORDED = json.loads((OLD / "recorded.json").read_text(encoding="utf-8"))
SMALL = Architecture.named("layers=3-1-1-1,growth_rate=4,init_channels=8,classes=5")  # as record/old_keras.py has it


class Row(NamedTuple):
    """Who saved a file: which Keras, on which backend, with kernels `o i h w` ("th") or `h w i o` ("tf").

    `second` tells that another network of the same names stood in TensorFlow's graph before it.
    """

    keras: int
    backend: str
    ordering: str
    second: bool = False

    @property
    def kernels(self):
        """How the backend convolves."""
        return "theano" if self.backend == "theano" else "tensorflow"


ROWS = {  # every line of the table in docs/layouts/flyyufelix.md
    "keras1-theano-th": Row(1, "theano", "th"),
    "keras1-theano-tf": Row(1, "theano", "tf"),
    "keras1-tensorflow-th": Row(1, "tensorflow", "th"),
    "keras1-tensorflow-tf": Row(1, "tensorflow", "tf", second=True),
    "keras2-theano": Row(2, "theano", "tf"),
    "keras2-tensorflow": Row(2, "tensorflow", "tf", second=True),
    "keras2-cntk": Row(2, "cntk", "tf"),
    "keras3": Row(3, "tensorflow", "tf"),
}
WORDS = {1: ("W", "b", "running_mean", "running_std"), 2: ("kernel", "bias", "moving_mean", "moving_variance")}
VERSIONS = {2: "2.3.1", 3: "3.15.1"}


def old_file(name, folder):
    """A file that Keras 1 or 2 saved."""
    path = folder / f"{name}.h5"
    path.write_bytes(gzip.decompress((OLD / f"{name}.h5.gz").read_bytes()))
    return path


def row_of(name):
    """Who saved a file of `data/old-keras`."""
    return ROWS[name.removesuffix("-whole")]


# -- the rebuilt form --------------------------------------------------------------------------------------------------


def layers_of(arch):
    """Every layer in order: name → kind and sizes, None for a layer without weights. Stages are numbered from 2."""
    found, width = {"data": None, "conv1_zeropadding": None}, arch.init_channels

    def norm(name, channels, relu):
        found.update({f"{name}_bn": ("bn", channels), f"{name}_scale": ("scale", channels), relu: None})

    found["conv1"] = ("conv", 7, arch.channels, width)
    norm("conv1", width, "relu1")
    found |= {"pool1_zeropadding": None, "pool1": None}
    for stage, count in enumerate(arch.layers, start=2):
        for number in range(1, count + 1):
            at, middle = f"{stage}_{number}", 4 * arch.growth_rate
            norm(f"conv{at}_x1", width, f"relu{at}_x1")
            found[f"conv{at}_x1"] = ("conv", 1, width, middle)
            norm(f"conv{at}_x2", middle, f"relu{at}_x2")
            found[f"conv{at}_x2_zeropadding"] = None
            found[f"conv{at}_x2"] = ("conv", 3, middle, arch.growth_rate)
            found[f"concat_{at}"] = None
            width += arch.growth_rate
        norm(f"conv{stage}_blk", width, f"relu{stage}_blk")
        if stage <= len(arch.layers):
            found |= {f"conv{stage}_blk": ("conv", 1, width, width // 2), f"pool{stage}": None}
            width //= 2
    return found | {"pool5": None, "fc6": ("fc", width, arch.classes), "prob": None}


def rebuilt(path, arch, row, seed=0):
    """Write a file as `row` would have saved it, float32."""
    random, layers = np.random.default_rng(seed), layers_of(arch)
    with h5py.File(path, "w") as file:
        if row.keras > 1:
            file.attrs["backend"] = row.backend if row.keras == 3 else row.backend.encode()
            file.attrs["keras_version"] = VERSIONS[row.keras] if row.keras == 3 else VERSIONS[row.keras].encode()
        file.attrs["layer_names"] = _listed([*layers], row)
        for layer, what in layers.items():
            group = file.create_group(layer)
            arrays = dict(_arrays(layer, what, row, random)) if what else {}
            group.attrs["weight_names"] = _listed([*arrays], row)
            for name, array in arrays.items():
                group[name] = array.astype(np.float32)
    return path


def _listed(names, row):
    """A list as h5py kept it: fixed-length bytes, or floats where it is empty; Keras 3 gives it Python's strings."""
    return names if row.keras == 3 else [name.encode() for name in names] and np.array([n.encode() for n in names])


def _arrays(layer, what, row, random):
    """Name and random array of each weight, in Keras's order; activations stay of order one."""
    kernel, bias, mean, variance = WORDS[min(row.keras, 2)]
    kind, *sizes = what
    if kind == "conv":
        side, inputs, outputs = sizes
        shape = (outputs, inputs, side, side) if row.ordering == "th" else (side, side, inputs, outputs)
        yield _named(layer, kernel, row), random.standard_normal(shape) * np.sqrt(2 / (side * side * inputs))
    elif kind == "fc":
        yield _named(layer, kernel, row), random.standard_normal(sizes) * np.sqrt(2 / sizes[0])
        yield _named(layer, bias, row), random.normal(0, 0.3, sizes[1])
    else:
        own = f"{layer}_" if row.keras == 2 and kind == "scale" else ""
        yield _named(layer, f"{own}gamma", row), random.uniform(0.5, 1.5, sizes)
        yield _named(layer, f"{own}beta", row), random.normal(0, 0.3, sizes)
        if kind == "bn":
            yield _named(layer, mean, row), random.normal(0, 0.3, sizes)
            yield _named(layer, variance, row), random.uniform(0.5, 1.5, sizes)


def _named(layer, variable, row):
    """`conv1_W` of Keras 1, `conv1/kernel` of later ones; TensorFlow's variables end in `:0` up to Keras 2.

    Of a second network, TensorFlow counts the names of variables, and in Keras 2 of the layers around them.
    """
    end = ":0" if row.backend == "tensorflow" and row.keras < 3 else ""
    count = "_1" if row.second else ""
    return f"{layer}_{variable}{count}{end}" if row.keras == 1 else f"{layer}{count}/{variable}{end}"


# -- the forward pass --------------------------------------------------------------------------------------------------


def logits_by_scipy(path, images, row):
    """Logits `n classes` in float64 of images `n h w c`, layer by layer, with a file's arrays as they are stored.

    Theano's kernels are truly convolved, the others correlated; BatchNormalization and Scale are two steps.
    """
    slide = convolve2d if row.kernels == "theano" else correlate2d
    arrays = _stored(path)

    def conv(x, name, stride=1):
        kernel = arrays[name][0]
        kernel = kernel if row.ordering == "th" and row.keras == 1 else kernel.transpose(3, 2, 0, 1)
        edge = kernel.shape[-1] // 2
        x = np.pad(x, ((0, 0), (0, 0), (edge, edge), (edge, edge)))
        if not edge:
            return np.einsum("nihw,oi->nohw", x, kernel[:, :, 0, 0], optimize=True)
        found = [[sum(map(slide, one, filters, ["valid"] * len(one))) for filters in kernel] for one in x]
        return np.array(found)[:, :, ::stride, ::stride]

    def norm(x, name):
        (gamma, beta, mean, variance), (second, shift) = (
            [array[:, None, None] for array in arrays[f"{name}_{part}"]] for part in ("bn", "scale")
        )
        x = (x - mean) / np.sqrt(variance + EPSILON) * gamma + beta
        return np.maximum(second * x + shift, 0)

    x = norm(conv(images.astype(np.float64).transpose(0, 3, 1, 2), "conv1", 2), "conv1")
    x = _pooled(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), 3, np.max)
    for stage in (2, 3, 4, 5):
        number = 1
        while (name := f"conv{stage}_{number}") + "_x1" in arrays:
            y = norm(conv(norm(x, f"{name}_x1"), f"{name}_x1"), f"{name}_x2")
            x = np.concatenate([x, conv(y, f"{name}_x2")], axis=1)
            number += 1
        x = norm(x, f"conv{stage}_blk")
        if stage < 5:
            x = _pooled(conv(x, f"conv{stage}_blk"), 2, np.mean)
    kernel, bias = arrays["fc6"]
    return x.mean(axis=(2, 3)) @ kernel + bias


def _stored(path):
    """Layer → its arrays in the order of its list, float64."""
    with h5py.File(path) as file:
        root = file.get("model_weights", file)
        text = [name if isinstance(name, str) else name.decode() for name in root.attrs["layer_names"]]
        return {
            name: [root[name][key][()].astype(np.float64) for key in root[name].attrs["weight_names"]] for name in text
        }


def _pooled(x, side, how):
    """Windows of stride 2; what does not fill one is left out."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(2, 3))
    return how(windows[:, :, ::2, ::2], axis=(4, 5))
