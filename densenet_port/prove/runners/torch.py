"""Networks that run in torch: torchvision's, timm's, MONAI's and torchxrayvision's own classes.

Each is built with the architecture's numbers and filled strictly with the tensors of the file under its own names, so
that a wrong name or shape in our tables, or in what we wrote, is that class's error. What torch itself reads, it reads
here, with `weights_only=True`. What it reads only by running code (whole modules, training checkpoints with objects of
strange classes, tar files) is not unpickled: the network gets the tensors that our own reader found, which makes the
reference independent of the tables, the conversion and the network, but not of that reader.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from densenet_port import formats
from densenet_port.checkpoint import Array, array_digest
from densenet_port.errors import CorruptError, DiskError, MisfitError, PortError, UsageError
from densenet_port.extras import SOFTWARE, framework
from densenet_port.formats import npz
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.prove.job import Job, Reading, Run
from densenet_port.prove.runners import last, runner, versions
from densenet_port.prove.runners.torch_whole import run_whole

Build = Callable[[Job], Any]  # a network with the job's numbers, as initialised
# What torch says of files that it reads only by running code: its oldest, programs, and exported programs.
RUNNING = ("legacy .tar", "TorchScript", "data.pkl")


def run_torchvision(job: Job) -> Run:
    """Torchvision's DenseNet; its own loader knows the names of before 0.3."""
    return _run(job, _torchvision)


def run_timm(job: Job) -> Run:
    """The DenseNet of timm, with its plain or its deep stem, and the stem's pool as the contract says."""
    return _run(job, _timm)


def run_monai(job: Job) -> Run:
    """MONAI's DenseNet of two spatial dimensions."""
    return _run(job, _monai)


def run_torchxrayvision(job: Job) -> Run:
    """The DenseNet of torchxrayvision, without thresholds and sigmoid: its output is the logits of its classifier."""
    return _run(job, _torchxrayvision)


def _torchvision(job: Job) -> Any:
    torch, densenet, numbers = *_libraries("torchvision.models.densenet"), _numbers(job)
    network = densenet.DenseNet(
        numbers.growth_rate,
        numbers.layers,
        numbers.init_channels,
        bn_size=numbers.bottleneck,
        num_classes=numbers.classes or 1,
    )
    if numbers.channels != 3:  # the only count that the class can build
        body = next(network.children())
        body[0] = torch.nn.Conv2d(numbers.channels, numbers.init_channels, 7, stride=2, padding=3, bias=False)
    return network


def _timm(job: Job) -> Any:
    (_, densenet), numbers = _libraries("timm.models.densenet"), _numbers(job)
    blurred = job.contract is not None and job.contract.stem_pool == "blur"
    return densenet.DenseNet(
        growth_rate=numbers.growth_rate,
        block_config=numbers.layers,
        num_classes=numbers.classes or 1,
        in_chans=numbers.channels,
        bn_size=numbers.bottleneck,
        stem_type="deep" if numbers.stem == "deep" else "",
        aa_layer=framework("timm.layers").BlurPool2d if blurred else None,
    )


def _monai(job: Job) -> Any:
    (_, nets), numbers = _libraries("monai.networks.nets"), _numbers(job)
    return nets.DenseNet(
        spatial_dims=2,
        in_channels=numbers.channels,
        out_channels=numbers.classes or 1,
        init_features=numbers.init_channels,
        growth_rate=numbers.growth_rate,
        block_config=numbers.layers,
        bn_size=numbers.bottleneck,
    )


def _torchxrayvision(job: Job) -> Any:
    (_, models), numbers = _libraries("torchxrayvision.models"), _numbers(job)
    return models.DenseNet(
        growth_rate=numbers.growth_rate,
        block_config=numbers.layers,
        num_init_features=numbers.init_channels,
        bn_size=numbers.bottleneck,
        num_classes=numbers.classes or 1,
        in_channels=numbers.channels,
    )


def _libraries(name: str) -> tuple[Any, Any]:
    """Torch, and a module of the software that owns the network."""
    return framework("torch"), framework(name)


def _numbers(job: Job) -> Architecture:
    assert job.architecture is not None  # noqa: S101 (`Job.require_runnable` saw to it)
    return job.architecture


# -- running -----------------------------------------------------------------------------------------------------------


def _run(job: Job, build: Build) -> Run:
    """A network on the images, with a hook at every tap: the file's own module, or else the class filled from it."""
    if job.whole:
        if answer := run_whole(job, tapped):
            return answer
        if (job := _refilled(job)).network == "numpy":
            return runner("numpy")(job)
    torch = framework("torch")
    network, digests = _filled(job.bare(), build)
    taps: dict[str, Array] = {}
    hooks = [tapped(network, name).register_forward_hook(_keeper(taps, unit)) for unit, name in job.taps.items()]
    images = torch.from_numpy(job.images.astype(job.dtype, copy=False)).permute(0, 3, 1, 2).contiguous()
    with torch.inference_mode():
        headless = _numbers(job).classes is None
        output = torch.relu(next(network.children())(images)) if headless else network(images)
    for hook in hooks:
        hook.remove()
    return Run(
        logits=last(output.numpy()),
        taps=taps,
        computed_in=str(output.dtype).removeprefix("torch."),
        variables=digests,
        versions=versions(*SOFTWARE[job.network].packages),
        read_by=SOFTWARE[job.network].reads,
    )


def _refilled(job: Job) -> Job:
    """The job where torch does not run the file's module: by the stock class; by our own code if that is another."""
    from densenet_port.layouts.layout import Layout  # noqa: PLC0415 (few jobs need a table)
    from densenet_port.prove.reference import difference_of  # noqa: PLC0415

    job = replace(job, whole=False)
    layout, numbers, contract = Layout.load(_table(job)), _numbers(job), job.contract or Contract()
    if difference_of(layout, SOFTWARE[job.network], contract):
        return replace(job, network="numpy", taps={unit: unit for unit in job.taps})
    units = layout.spell_units(numbers)
    return replace(job, taps={unit: units[unit] for unit in job.taps})


def _table(job: Job) -> Path:
    assert job.reading.table is not None  # noqa: S101 (`recording.job_of` names it)
    return job.reading.table


def tapped(network: Any, name: str) -> Any:
    """The module whose output is that of the unit `name`: a norm with its own activation (timm's) ends before that."""
    module = _module(network, name)
    return module.drop if hasattr(module, "drop") and hasattr(module, "act") else module


def _module(network: Any, name: str) -> Any:
    """A module by its dotted name."""
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        raise UsageError(f"the reference has no module {name!r} to look at") from error


def _keeper(taps: dict[str, Array], unit: str) -> Callable[..., None]:
    """A forward hook that copies a module's output, because the ReLU after it works in place."""
    return lambda _module, _inputs, output: taps.update({unit: last(output.numpy()).copy()})


# -- filling -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _filled(job: Job, build: Build) -> tuple[Any, dict[str, str]]:
    """The job's network with its weights, and their digests; kept for the next job with other images and taps."""
    network = build(job)
    head = _head(network)
    if _numbers(job).classes is None:
        _drop(network, head)
    network = network.to(getattr(framework("torch"), job.dtype)).eval()
    _load_state(network, head, job)
    return network, {name: array_digest(value.numpy()) for name, value in _floating(network.state_dict())}


def _head(network: Any) -> str:
    """The name of the last linear layer."""
    torch = framework("torch")
    return str([name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)][-1])


def _drop(network: Any, name: str) -> None:
    """Leave a module out."""
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, framework("torch").nn.Identity())


def _load_state(network: Any, head: str, job: Job) -> None:
    """Fill a network from the job's file, strictly.

    Only floating-point tensors count: what else stands beside them counts training steps. What the table ignores by
    name is left out, and a head where the architecture has none.
    """
    reading, ignored = job.reading, set(job.reading.ignored)
    state = {
        renamed: value
        for name, value in _floating(file_tensors(job.path))
        if name not in ignored and (renamed := _renamed(name, reading, head))
    }
    if _numbers(job).classes is None:
        state = {name: value for name, value in state.items() if not name.startswith(f"{head}.")}
    _match_biases(network, state)
    _match_norms(network, state)
    try:
        if job.network == "torchvision":
            loader = SimpleNamespace(get_state_dict=lambda **_: state)
            own = framework("torchvision.models.densenet")
            own._load_state_dict(network, loader, progress=False)  # noqa: SLF001 (its only place)
        else:
            network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise MisfitError(f"{job.path}: {job.network} does not take it\n{error}") from error


def file_tensors(path: Path) -> Mapping[str, Any]:
    """Name → tensor, read by torch, by safetensors (whose header is JSON behind eight bytes of length), or by us.

    An archive of NumPy's is read by NumPy, an index of shards shard by shard.
    """
    if path.name.endswith(".index.json"):
        places = json.loads(path.read_bytes())["weight_map"]
        parts = [file_tensors(path.parent / shard) for shard in sorted(set(places.values()))]
        return {name: tensor for part in parts for name, tensor in part.items()}
    torch = framework("torch")
    try:
        with path.open("rb") as file:
            head = file.read(4096)
        if npz.sniff(path, head):
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays if arrays[name].dtype.kind in "fiub"}
        if head[8:9] == b"{":
            return cast("Mapping[str, Any]", import_module("safetensors.torch").load_file(path))
        return dict(_flat(torch.load(path, map_location="cpu", weights_only=True), ""))
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:
        if isinstance(error, UnpicklingError) or any(words in str(error) for words in RUNNING):
            with suppress(PortError):  # what neither reads is said in torch's words
                return _interpreted(path)
        raise CorruptError(f"{path}: torch does not read it: {str(error).partition(chr(10))[0]}") from error


def _interpreted(path: Path) -> dict[str, Any]:
    """Name → tensor, read by our own reader, which runs nothing of the file."""
    torch = framework("torch")
    tensors = formats.read(path).tensors
    return {name: torch.from_numpy(np.array(tensor.load())) for name, tensor in tensors.items()}


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Everything in nested dictionaries, by dotted name."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _floating(state: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The floating-point tensors among what a dictionary holds."""
    torch = framework("torch")
    return [(name, value) for name, value in state.items() if torch.is_tensor(value) and value.is_floating_point()]


def _renamed(name: str, reading: Reading, own: str) -> str | None:
    """The network's own name for a tensor of the file, `own` being the head's; None for what is outside of it."""
    if reading.head and name.startswith(f"{reading.head}."):
        return f"{own}.{name.removeprefix(f'{reading.head}.')}"
    return reading.root + name.removeprefix(reading.prefix) if name.startswith(reading.prefix) else None


def _match_biases(network: Any, state: Mapping[str, Any]) -> None:
    """Give convolutions the biases that the file has for them, and take the head's where it has none."""
    torch = framework("torch")
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d) and module.bias is None and f"{name}.bias" in state:
            module.bias = torch.nn.Parameter(torch.empty_like(module.weight[:, 0, 0, 0]))
        if isinstance(module, torch.nn.Linear) and f"{name}.weight" in state and f"{name}.bias" not in state:
            module.bias = None


def _match_norms(network: Any, state: Mapping[str, Any]) -> None:
    """Take out the norms of which the file has nothing, where the convolution right in front has a bias."""
    torch = framework("torch")
    there = {name.rpartition(".")[0] for name in state}
    for name, parent in list(network.named_modules()):
        parts = [(f"{name}.{own}" if name else own, part) for own, part in parent.named_children()]
        for (conv, _), (norm, part) in pairwise(parts):
            if type(part) is torch.nn.BatchNorm2d and norm not in there and f"{conv}.bias" in state:
                _drop(network, norm)
