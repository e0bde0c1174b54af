"""Every full-size network: converted, loaded by every backend, the same variables and the same logits.

The files are torch's own, with random weights and statistics that keep activations of order one. Torch and Keras run in
processes of their own; numpy is the third opinion.
"""

import atexit
import hashlib
import shutil
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
import torchvision

from densenet_port.checkpoint import array_digest
from densenet_port.conversion.convert import convert, verify
from densenet_port.conversion.load import read
from densenet_port.network.architecture import NAMED
from densenet_port.network.numpy import forward
from densenet_port.prove.checks import BOUND64, FACTOR32
from densenet_port.prove.job import Job
from densenet_port.prove.worker import run_all
from tests.support.networks import FORMS, checkpoint_file, images

ARCHS = ("121", "161", "169", "201")
PROBES = {224: images(1, 224, seed=4), 225: images(1, 225, seed=5)}
ORDERS = ("channels_last", "channels_first")
WAYS = {  # of images into Keras on TensorFlow
    "121": [*product(PROBES, ORDERS)],
    "161": [(224, "channels_last")],
    "169": [(225, "channels_first")],
    "201": [(225, "channels_last")],
}


@cache
def written_by_torch(arch):
    """A file of a network, made once."""
    folder = Path(mkdtemp(prefix="densenet-port-networks-"))
    atexit.register(shutil.rmtree, folder)
    return checkpoint_file(folder, arch, "zip")


@pytest.fixture(scope="module", params=ARCHS)
def network(request, tmp_path_factory):
    """Name, torch's file, and our conversion of it."""
    folder = tmp_path_factory.mktemp(request.param)
    source = written_by_torch(request.param)
    convert(source, out=folder / "out.weights.h5")
    return request.param, source, folder / "out.weights.h5"


@cache
def torch_logits(arch):
    """Torch's logits of a network, of which every file holds the same: (dtype, size) → array."""
    path, keys = written_by_torch(arch), [(dtype, size) for dtype in ("float64", "float32") for size in PROBES]
    jobs = [
        Job(network="torchvision", images=PROBES[size], path=path, architecture=NAMED[arch], dtype=dtype)
        for dtype, size in keys
    ]
    return {key: run.logits for key, run in zip(keys, run_all(jobs), strict=True)}


def torch_digests(path, dtype="float32"):
    """Slot → digest of torch's own tensor, turned by hand into our axes."""
    state = [v for name, v in torch.load(path, weights_only=True).items() if not name.endswith("num_batches_tracked")]
    turned = [(v.permute(2, 3, 1, 0) if v.ndim == 4 else v.T if v.ndim == 2 else v).numpy() for v in state]
    slots = [str(slot) for slot in read(path).architecture.slots]  # torch's order is read
    return {
        slot: hashlib.sha256(np.ascontiguousarray(array, dtype).tobytes()).hexdigest()
        for slot, array in zip(slots, turned, strict=True)
    }


def distance(logits, truth):
    """Largest difference in deviations of the truth."""
    return float(np.abs(logits - truth).max() / truth.std())


def test_numpy_agrees_with_torch_in_float64(network):
    """The third opinion, on an even and an odd size; of the others on an odd one, which tells more."""
    arch, _, out = network
    told, truth = read(out), torch_logits(arch)

    apart = [
        distance(forward(told.architecture, told.contract, told.weights, PROBES[size]), truth["float64", size])
        for size in (PROBES if arch == "121" else (225,))
    ]

    assert max(apart) <= BOUND64
    assert set(verify(out).tensors) == set(verify(out).record["tensors"])


def test_tensorflow_agrees_with_torch(network):
    """In float64, 121 at both sizes in both orders of axes, the others in one way; the variables bit by bit."""
    arch, source, out = network
    keys = WAYS[arch]
    exact = [
        Job(network="keras", images=PROBES[size], path=out, dtype="float64", data_format=order) for size, order in keys
    ]
    single = Job(network="keras", images=PROBES[224], path=out)

    runs = run_all([*exact, single] if arch == "121" else exact)

    truth = torch_logits(arch)
    wide = dict(zip(keys, runs[: len(keys)], strict=True))
    assert {run.computed_in for run in wide.values()} == {"float64"}
    assert max(distance(run.logits, truth["float64", size]) for (size, _), run in wide.items()) <= BOUND64
    assert runs[-1].variables == torch_digests(source, "float32" if arch == "121" else "float64")


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_the_other_backends_agree_with_torch(network, backend):
    """Variables bit by bit, float32 logits within torch's own rounding, 121 on torch in either order of axes.

    For the time that they take: JAX, which compiles for a minute, runs 121 alone, torch 121 and 201.
    """
    arch, source, out = network
    if arch not in {"jax": ("121",), "torch": ("121", "201")}[backend]:
        pytest.skip("others, for the time that this backend takes")
    keys = list(zip(PROBES, ORDERS, strict=True))[: 2 if (arch, backend) == ("121", "torch") else 1]
    jobs = [
        Job(network="keras", images=PROBES[size], path=out, backend=backend, data_format=order) for size, order in keys
    ]

    runs = run_all(jobs)

    truth = torch_logits(arch)
    for (size, _), result in zip(keys, runs, strict=True):
        own = distance(truth["float32", size], truth["float64", size])
        assert distance(result.logits, truth["float64", size]) <= FACTOR32 * own
    assert [result.variables for result in runs] == [torch_digests(source)] * len(keys)


@pytest.mark.parametrize("arch", ["121", "201"])
def test_keras_applications_loads_what_is_written_for_it(arch, tmp_path):
    """`keras.applications.DenseNet121(weights=PATH)` takes the file, and is the same function in float64.

    The file holds what absorbed the other epsilon rounded to float32, so here it is written in float64: the unrounded
    mapping meets the bound. Half an ULP of each written tensor is tested where the absorption is. 169's names are
    recorded from there.
    """
    convert(written_by_torch(arch), dst="keras-applications", out=tmp_path / "apps.h5", dtype="float64")

    [run] = run_all(
        [
            Job(
                network="keras.applications",
                images=PROBES[224],
                path=tmp_path / "apps.h5",
                architecture=NAMED[arch],
                dtype="float64",
            )
        ]
    )

    assert run.computed_in == "float64"
    assert distance(run.logits, torch_logits(arch)["float64", 224]) <= BOUND64


def test_every_form_converts_to_the_same_tensors(tmp_path):
    """Zip, legacy, tar, old names, prefixed, wrapped, safetensors: one network; half precision is one of its own."""
    arch = "121"
    wanted = dict(convert(written_by_torch(arch), out=tmp_path / "zip.weights.h5").record["tensors"])

    found = {}
    for form in FORMS:
        source = checkpoint_file(tmp_path, arch, form)
        found[form] = dict(convert(source, out=tmp_path / "form.safetensors", force=True).record["tensors"])
        source.unlink()

    half = found.pop("half")
    assert [form for form, tensors in found.items() if tensors != wanted] == []
    assert (list(half), half != wanted) == (list(wanted), True)


def test_there_and_back_gives_torch_its_own_tensors(network, tmp_path):
    """Torchvision → ours → torchvision: every floating-point tensor bit by bit, and a strict load."""
    arch, source, out = network
    convert(out, dst="torchvision", out=tmp_path / "back.pth")

    before, after = torch.load(source, weights_only=True), torch.load(tmp_path / "back.pth", weights_only=True)

    assert [name for name in before if not name.endswith("num_batches_tracked")] == list(after)
    assert [name for name, value in after.items() if not torch.equal(value, before[name])] == []
    getattr(torchvision.models, f"densenet{arch}")(weights=None).load_state_dict(after, strict=True)


def test_the_digests_are_of_the_bytes(network):
    """A digest in the manifest is that of the array that is read back."""
    _, _, out = network
    checkpoint = verify(out)
    name = "head_dense/kernel"

    assert array_digest(checkpoint.tensors[name].load()) == checkpoint.record["tensors"][name]
