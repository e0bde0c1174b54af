"""What the tests of the containers share: random tensors that are watched, comparisons of whole files, damage."""

import json
import tracemalloc

import numpy as np
from hypothesis import strategies as st

from densenet_port.checkpoint import Tensor
from densenet_port.errors import PortError
from densenet_port.layouts.layout import Layout
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract

SMALL = Architecture(layers=(2, 1), growth_rate=4, init_channels=8, classes=5)
VARIABLES = {
    "kernel": "kernel",
    "bias": "bias",
    "scale": "gamma",
    "shift": "beta",
    "mean": "moving_mean",
    "variance": "moving_variance",
}


def content(tensors):
    """Name → type, shape and bytes of each tensor, in order; a value that can be compared."""
    return [(name, tensor.dtype, tensor.shape, tensor.load().tobytes()) for name, tensor in tensors.items()]


def true(arrays, dtype=None):
    """The same of arrays, which may stand for another type."""
    return [(name, dtype or array.dtype.name, array.shape, array.tobytes()) for name, array in arrays.items()]


def tensor(array, dtype=None):
    """A tensor that is an array."""
    return Tensor(array.shape, dtype or array.dtype.name, lambda: array)


def weights(arch=SMALL, dtype="float32", seed=0):
    """Random tensors of an architecture, named after our units in Keras's words, in memory's other order."""
    rng = np.random.default_rng(seed)
    return {
        f"{slot.unit.replace('.', '_')}/{VARIABLES[slot.role]}": tensor(
            np.asfortranarray(rng.uniform(0.5, 1.5, shape).astype(dtype))
        )
        for slot, shape in arch.slots.items()
    }


def telling(arch=SMALL, contract=None):
    """A manifest of constant length that says how often it was asked for."""
    calls = iter(range(1000, 10_000))
    told = {"architecture": arch.to_json(), "contract": (contract or Contract()).to_json()}
    return lambda: json.dumps({**told, "calls": next(calls), "text": 'Grüße "aus" \\ Zürich'}).encode()


def blueprint(arch=SMALL, contract=None):
    """What our own layout makes of an architecture and a contract: the tensors are those of `weights`."""
    return Layout.load("keras").blueprint(arch, contract or Contract())


def watched(tensors, seen):
    """The tensors, which note their names in `seen` when they are loaded."""

    def load(name, tensor):
        seen.append(name)
        return tensor.load()

    return {
        name: Tensor(tensor.shape, tensor.dtype, lambda name=name, tensor=tensor: load(name, tensor))
        for name, tensor in tensors.items()
    }


def peak(action):
    """Bytes of Python's and numpy's memory that an action takes at most."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def large():
    """Forty kernels of a megabyte, made when they are loaded."""
    shape = (1, 1, 512, 512)
    return {f"layer_{n}/kernel": Tensor(shape, "float32", lambda n=n: np.full(shape, n, "f4")) for n in range(40)}


@st.composite
def damaged(draw, data):
    """A file's bytes with a few of them changed, mostly where its structures stand, or its end cut off."""
    broken = bytearray(data)
    spots = st.one_of(st.integers(0, len(data) - 1), st.integers(0, min(len(data), 3000) - 1))
    for spot, value in draw(st.lists(st.tuples(spots, st.integers(0, 255)), min_size=1, max_size=12)):
        broken[spot] = value
    return bytes(broken[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])


def outcome(read, path, data):
    """What becomes of a file: "read" if all of it can be, or the kind of error, which is of our family."""
    path.write_bytes(data)
    try:
        for found in read(path).tensors.values():
            found.load()
    except PortError as error:
        return error.kind
    return "read"
