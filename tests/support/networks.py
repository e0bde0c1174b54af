"""Networks, checkpoint files and images for every test: written by torch, with weights that make mistakes visible.

A network's weights are random and its activations of order one: torchvision's initialisation, scales U(0.5, 1.5),
shifts N(0, 0.2), statistics from one pass in training mode over images like the tests', then moved a little. Constants
would hide a swapped tensor, and logits of order 50 would hide everything.

Random networks are kept in a folder of the system's temporary one, by everything they depend on, because the large ones
take seconds; tests that run side by side share them.
"""

import hashlib
import inspect
import os
import pickle
import re
import struct
import tarfile
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import safetensors.torch
import torch
from filelock import FileLock
from torch import Tensor, nn
from torchvision.models.densenet import DenseNet

from densenet_port.network.architecture import Architecture

State = dict[str, Tensor]
CACHE = Path(tempfile.gettempdir()) / "densenet-port-tests"


def images(n: int, size: int = 64, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Noise (n, size, size, channels) float32, smooth over four pixels, of mean 0 and deviation 1 a value."""
    white = np.random.default_rng(seed).standard_normal((n, size, size, channels))
    smooth = sum(np.roll(white, (i, j), (1, 2)) for i in range(4) for j in range(4))
    return (smooth / 4).astype(np.float32)


def torchvision_network(arch: str | Architecture, seed: int, classes: int | None = None) -> DenseNet:
    """Torchvision's own network with random weights, evaluating.

    `arch` is a name ("121"), a spec ("layers=2-3,growth_rate=8,init_channels=16,classes=10") or an Architecture with
    the ImageNet stem, a bottleneck and a reduction of one half; `classes`, if given, replaces its number of classes.
    """
    architecture = _architecture(arch, classes)
    with torch.device("meta"):
        network = _plain(architecture)
    network.load_state_dict(_cached_state(architecture, seed), assign=True)
    return network.eval().requires_grad_(False)


def checkpoint_file(
    folder: Path, arch: str | Architecture, form: str, seed: int = 0, classes: int | None = None
) -> Path:
    """Write `torchvision_network(arch, seed, classes)` in one of `FORMS`, once for each folder; give its path."""
    architecture = _architecture(arch, classes)
    path = folder / f"{architecture.spec}-{seed}-{form}.{'safetensors' if form == 'safetensors' else 'pth'}"
    if not path.exists():
        unfinished = path.with_suffix(f".{os.getpid()}")
        FORMS[form](_cached_state(architecture, seed), unfinished)
        unfinished.replace(path)
    return path


# -- the networks ----------------------------------------------------------------------------------------------------


def _architecture(arch: str | Architecture, classes: int | None) -> Architecture:
    architecture = Architecture.named(arch) if isinstance(arch, str) else arch
    return architecture if classes is None else replace(architecture, classes=classes)


def _plain(architecture: Architecture) -> DenseNet:
    """Torchvision's network as initialised; its class fixes three channels, so another stem stands in for others."""
    assert (architecture.stem, architecture.reduction) == ("imagenet", 0.5)
    network = DenseNet(
        architecture.growth_rate,
        architecture.layers,
        architecture.init_channels,
        bn_size=architecture.bottleneck,
        num_classes=architecture.classes,
    )
    if architecture.channels != 3:
        network.features.conv0 = nn.Conv2d(architecture.channels, architecture.init_channels, 7, 2, 3, bias=False)
    return network


def _cached_state(architecture: Architecture, seed: int) -> State:
    """The state dict of a random network, made at most once on this machine."""
    recipe = "".join(inspect.getsource(part) for part in (images, _plain, _randomised))
    key = f"{recipe} {torch.__version__} {architecture.spec} {seed}"
    path = CACHE / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.pth"
    CACHE.mkdir(exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            torch.save(_randomised(architecture, seed).state_dict(), path.with_suffix(".new"))
            path.with_suffix(".new").replace(path)
    return torch.load(path)


def _randomised(architecture: Architecture, seed: int) -> DenseNet:
    """A network with random weights and statistics near those of `images`, by the recipe above."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = _plain(architecture)
        norms = [unit for unit in network.modules() if isinstance(unit, nn.BatchNorm2d)]
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.2)
            norm.momentum = None  # the statistics become exactly those of the one pass
        network.classifier.bias.normal_(0, 0.2)
        network.train()
        network(torch.from_numpy(images(8, 128, architecture.channels, seed)).permute(0, 3, 1, 2))
        for norm in norms:
            norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.7, 1.4)
    return network


# -- the files -------------------------------------------------------------------------------------------------------


def dotted(state: State) -> State:
    """The names of torchvision before 0.3: `denselayer1.norm.1.weight` for `denselayer1.norm1.weight`."""
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", name): value for name, value in state.items()}


def without_counters(state: State) -> State:
    """A state dict as torch wrote it before 0.4.1."""
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def _wrapped(state: State) -> dict[str, object]:
    """A training checkpoint, with the momenta of an optimiser that really took a step (of length 0)."""
    parameters = [nn.Parameter(value.clone()) for value in without_counters(state).values()]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimiser = torch.optim.SGD(parameters, lr=0.0, momentum=0.9)
    optimiser.step()
    return {"epoch": 7, "state_dict": state, "optimizer": optimiser.state_dict()}


def _write_legacy(thing: object, path: Path, pickler: object = pickle) -> None:
    torch.save(thing, path, pickle_module=pickler, _use_new_zipfile_serialization=False)


class _OldPickler(pickle.Pickler):
    """Writes tensors as the first torch releases did: storage, offset, size and stride, nothing more."""

    def reducer_override(self, thing: object) -> object:
        if not isinstance(thing, Tensor):
            return NotImplemented
        parts = (thing._typed_storage(), thing.storage_offset(), tuple(thing.size()), thing.stride())
        return torch._utils._rebuild_tensor, parts


OLD_PICKLE = SimpleNamespace(__name__="pickle", Pickler=_OldPickler, dump=pickle.dump)


def _write_tar(state: State, path: Path) -> None:
    """The oldest container, which torch still reads but no longer writes: a tar of four members.

    `storages` holds a count and, for each, (key, location, class), its length and its elements, then a list of views;
    `tensors` a count and, for each, (key, key of its storage, class), then int32 axes, 4 bytes of nothing, int64 sizes,
    strides and offset; `pickle` the object, with a tensor's key in the place of each tensor.
    """
    storages, tensors, keys = BytesIO(), BytesIO(), {}
    pickle.dump(len(state), storages, 2)
    pickle.dump(len(state), tensors, 2)
    for number, value in enumerate(state.values(), start=1):
        kind = value.type().removeprefix("torch.").removesuffix("Tensor")
        pickle.dump((number, "cpu", getattr(torch, f"{kind}Storage")), storages, 2)
        storages.write(struct.pack("<q", value.numel()) + value.contiguous().numpy().tobytes())
        pickle.dump((1000000 + number, number, getattr(torch, f"{kind}Tensor")), tensors, 2)
        strides = value.contiguous().stride()
        tensors.write(struct.pack(f"<i4x{2 * value.dim()}qq", value.dim(), *value.shape, *strides, 0))
        keys[id(value)] = 1000000 + number
    pickle.dump([], storages, 2)

    class TarPickler(pickle.Pickler):
        def persistent_id(self, thing: object) -> int | None:
            return keys.get(id(thing)) if isinstance(thing, Tensor) else None

    member = BytesIO()
    TarPickler(member, 2).dump(OrderedDict(state))
    members = {
        "sys_info": pickle.dumps({"protocol_version": 1000, "little_endian": True, "type_sizes": {}}, 2),
        "pickle": member.getvalue(),
        "tensors": tensors.getvalue(),
        "storages": storages.getvalue(),
    }
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, BytesIO(content))


FORMS: dict[str, Callable[[State, Path], object]] = {
    "zip": torch.save,
    "legacy": _write_legacy,
    "tar": _write_tar,
    # a network with the old names that was trained on and saved again
    "dotted": lambda state, path: torch.save(dotted(state), path),
    # as the published files are: the old names, no counters, the legacy container, tensors of four parts
    "hosted": lambda state, path: _write_legacy(OrderedDict(dotted(without_counters(state))), path, OLD_PICKLE),
    "parallel": lambda state, path: torch.save({f"module.{name}": value for name, value in state.items()}, path),
    "wrapped": lambda state, path: torch.save(_wrapped(state), path),
    "safetensors": safetensors.torch.save_file,
    "half": lambda state, path: torch.save(
        {name: value.half() if value.is_floating_point() else value for name, value in state.items()}, path
    ),
}
