"""Networks that run in torch."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any, cast

from densenet_port import model
from densenet_port.checkpoint import Array, array_digest
from densenet_port.errors import CorruptError, DiskError, MisfitError, UsageError
from densenet_port.frameworks import Job, Run
from densenet_port.runners import last, versions


def run_torchvision(job: Job) -> Run:
    """Torchvision's network on the images, with a hook at every tap."""
    torch = model.framework("torch")
    network = _torchvision_filled(replace(job, images=cast("Any", None), taps=cast("Any", ()), limit=0.0))
    found: dict[str, Array] = {}
    hooks = [_module(network, name).register_forward_hook(_keeper(found, unit)) for unit, name in job.taps.items()]
    images = torch.from_numpy(job.images.astype(job.dtype, copy=False)).permute(0, 3, 1, 2).contiguous()
    with torch.inference_mode():
        headless = job.architecture is not None and job.architecture.classes is None
        output = torch.relu(next(network.children())(images)) if headless else network(images)
    for hook in hooks:
        hook.remove()
    return Run(
        logits=last(output.numpy()),
        taps=found,
        computed_in=str(output.dtype).removeprefix("torch."),
        variables={name: array_digest(value.numpy()) for name, value in _floating(network.state_dict())},
        versions=versions("torch", "torchvision"),
    )


@lru_cache(maxsize=1)
def _torchvision_filled(job: Job) -> Any:
    """The job's network with its weights, kept for the next job that differs in its images and taps alone."""
    network = _torchvision_network(job).to(getattr(model.framework("torch"), job.dtype)).eval()
    _load_state(network, job)
    return network


def _torchvision_network(job: Job) -> Any:
    """Torchvision's class with the architecture's numbers, as initialised."""
    torch, densenet = model.framework("torch"), model.framework("torchvision.models.densenet")
    numbers = job.architecture
    assert numbers is not None  # noqa: S101 (`_check` saw to it)
    network = densenet.DenseNet(
        numbers.growth_rate,
        numbers.layers,
        numbers.init_channels,
        bn_size=numbers.bottleneck,
        num_classes=numbers.classes or 1,
    )
    (_, body), (head, _) = network.named_children()
    if numbers.channels != 3:  # noqa: PLR2004 (the only count that the class can build)
        body[0] = torch.nn.Conv2d(numbers.channels, numbers.init_channels, 7, stride=2, padding=3, bias=False)
    if numbers.classes is None:
        setattr(network, head, torch.nn.Identity())
    return network


def _load_state(network: Any, job: Job) -> None:
    """Fill a network from the job's file, strictly, by torchvision's own loader, which knows its names of before 0.3.

    Only floating-point tensors count: what else stands beside them counts training steps. A head is left out where the
    architecture has none.
    """
    densenet = model.framework("torchvision.models.densenet")
    (head, last) = list(network.named_children())[-1]
    state = {
        _renamed(name.removeprefix(job.prefix), job.head, head): value
        for name, value in _floating(dict(_flat(_torch_file(job), "")))
        if name.startswith(job.prefix)
    }
    if not list(last.parameters()):
        state = {name: value for name, value in state.items() if not name.startswith(f"{head}.")}
    loader = SimpleNamespace(get_state_dict=lambda **_: state)
    try:
        densenet._load_state_dict(network, loader, progress=False)  # noqa: SLF001 (its only place)
    except RuntimeError as error:
        raise MisfitError(f"{job.path}: torchvision does not take it\n{error}") from error


def _torch_file(job: Job) -> Any:
    """What torch, or safetensors (whose header is JSON behind eight bytes of length), reads from the file."""
    assert job.path is not None  # noqa: S101 (`_check` saw to it)
    torch = model.framework("torch")
    try:
        with job.path.open("rb") as file:
            json_header = file.read(9)[8:] == b"{"
        if json_header:
            return import_module("safetensors.torch").load_file(job.path)
        return torch.load(job.path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DiskError(f"{job.path}: cannot be read: {error.strerror}") from error
    except Exception as error:
        raise CorruptError(f"{job.path}: torch does not read it: {str(error).partition(chr(10))[0]}") from error


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Everything in nested dictionaries, by dotted name."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _floating(state: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The floating-point tensors among what a dictionary holds."""
    torch = model.framework("torch")
    return [(name, value) for name, value in state.items() if torch.is_tensor(value) and value.is_floating_point()]


def _renamed(name: str, head: str | None, own: str) -> str:
    """The head's tensors under the network's own name."""
    return f"{own}.{name.removeprefix(f'{head}.')}" if head and name.startswith(f"{head}.") else name


def _module(network: Any, name: str) -> Any:
    """A module by its dotted name."""
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        raise UsageError(f"the reference has no module {name!r} to look at") from error


def _keeper(found: dict[str, Array], unit: str) -> Callable[..., None]:
    """A forward hook that copies a module's output, because the ReLU after it works in place."""
    return lambda _module, _inputs, output: found.update({unit: last(output.numpy()).copy()})
