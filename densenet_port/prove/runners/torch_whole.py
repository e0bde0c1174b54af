"""Whole modules that run as their file has them: classes, attributes and weights, unpickled by torch.

Torch gets `weights_only=True` and the list of classes whose forward is known (`formats.torch.classes`), so that nothing
else of a pickle is imported or called. A file that needs more (a class of somebody's own, a program) runs only where
the job trusts it.
"""

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from densenet_port.checkpoint import Array, array_digest
from densenet_port.errors import UsageError
from densenet_port.extras import SOFTWARE, framework
from densenet_port.formats.torch.classes import FORWARDS, LAYERS, LEAVES
from densenet_port.network.units import HEAD
from densenet_port.prove.job import Job, Run
from densenet_port.prove.runners import last, pixels, versions

_KNOWN = frozenset((*FORWARDS, *LAYERS, *LEAVES))
_LAST_NORM = "final.norm"


def run_whole(job: Job, tapped: Callable[[Any, str], Any]) -> Run | None:
    """The module in the job's file on the images; None where torch does not run it.

    `tapped` gives the module whose output is that of a unit. Raises UsageError for trusted code that cannot run here.
    """
    try:
        network, digests = _loaded(job.bare())
        return run_module(network, digests, job, tapped, SOFTWARE[job.network].packages)
    except Exception as error:
        if not job.trust:
            return None
        message = f"{job.path}: its own code does not run here: {str(error).partition(chr(10))[0]}"
        hint = "`densenet-port record package.module:factory --weights FILE` records it where its code is"
        raise UsageError(message, hint=hint) from error


def run_module(
    network: Any, digests: Mapping[str, str], job: Job, tapped: Callable[[Any, str], Any], packages: Sequence[str]
) -> Run:
    """A run of a module in the job's precision, with what the units put out; `packages` are those that take part."""
    torch = framework("torch")
    outputs: dict[str, Array] = {}
    is_program = isinstance(network, torch.jit.ScriptModule)  # which calls no hooks within
    names = {} if is_program else {**job.taps, **_ends(job)}
    with ExitStack() as hooks, torch.inference_mode():
        for unit, name in names.items():
            handle = tapped(network, _below(job, name)).register_forward_hook(_keeper(outputs, unit))
            hooks.callback(handle.remove)
        output = network(_pictures(job))
    computed = str(output.dtype).removeprefix("torch.")
    return Run(
        logits=_logits(job, outputs, last(output.numpy())),
        taps={unit: outputs[unit] for unit in job.taps if unit in outputs},
        computed_in=computed,
        variables=digests,
        versions=versions(*packages),
        read_by="file",
    )


def _ends(job: Job) -> dict[str, str]:
    """The unit behind which the logits are, and the name of its module in the file."""
    if job.reading.last is None:
        return {}
    unit = _LAST_NORM if job.architecture is not None and job.architecture.classes is None else HEAD
    return {f"end:{unit}": job.reading.last}


def _logits(job: Job, outputs: Mapping[str, Array], output: Array) -> Array:
    """The head's output, or the last map behind its ReLU; somebody's own code has the last word about its answer."""
    if f"end:{_LAST_NORM}" in outputs:
        return np.maximum(outputs[f"end:{_LAST_NORM}"], 0)
    head = outputs.get(f"end:{HEAD}")
    if head is not None and not job.trust:
        return head
    kind = job.contract.output if job.contract else "logits"
    if head is None:
        if kind != "logits":
            raise UsageError(f"its logits cannot be had: it is a program, which puts out {kind}")
        return output
    functions = _FUNCTIONS.values() if head.shape == output.shape else ()
    exact = head.astype(np.float64)
    is_behind = any(np.allclose(function(exact), output, rtol=1e-4, atol=1e-6) for function in functions)
    return head if is_behind else output


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "logits": lambda x: x,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True),
    "log_softmax": lambda x: x - np.log(np.exp(x).sum(1, keepdims=True)),
}


def _pictures(job: Job) -> Any:
    """The images `n c h w`; not prepared where the module itself prepares them."""
    images = job.images
    if job.contract and job.reading.prepares:
        picture = job.contract.input
        images = pixels(images, picture)
        images = images[..., ::-1] if picture.order == "bgr" else images
    images = np.ascontiguousarray(images.astype(job.dtype, copy=False).transpose(0, 3, 1, 2))
    return framework("torch").from_numpy(images)


def _below(job: Job, name: str) -> str:
    """The path of a module from the one that runs, by its name in the file."""
    start = _start(job)
    return name.removeprefix(f"{start}.") if start else name


@lru_cache(maxsize=8)
def _loaded(job: Job) -> tuple[Any, dict[str, str]]:
    """The module that runs, in the job's precision, and the digests of what it holds; kept for the next job."""
    torch = framework("torch")
    thing = _unpickled(job)
    for key in _keys(job):
        thing = _child(thing, key)
    network = thing.to(getattr(torch, job.dtype))
    with suppress(NotImplementedError):  # an exported program answers, and does nothing else
        network.eval()
    return network, digests_of(network)


def digests_of(network: Any) -> dict[str, str]:
    """The digests of what a module holds, by name."""
    state = {name: value for name, value in network.state_dict().items() if value.is_floating_point()}
    return {name: array_digest(value.numpy()) for name, value in state.items()}


def _unpickled(job: Job) -> Any:
    """What is in the job's file."""
    torch = framework("torch")
    if zipfile.is_zipfile(job.path) and job.trust:
        with zipfile.ZipFile(job.path) as archive:
            names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            return torch.jit.load(job.path, map_location="cpu")
        if not any(name.endswith("data.pkl") for name in names):
            return torch.export.load(job.path).module()
    if job.trust:
        return torch.load(job.path, map_location="cpu", weights_only=False)
    named = torch.serialization.get_unsafe_globals_in_checkpoint(str(job.path))
    with torch.serialization.safe_globals([*_classes(named)]):
        return torch.load(job.path, map_location="cpu", weights_only=True)


def _classes(named: list[str]) -> Iterator[Any]:
    """The classes that are known, of those that a file names."""
    for name in named:
        if name in _KNOWN:
            package, _, own = name.rpartition(".")
            yield getattr(import_module(package), own)


def _start(job: Job) -> str:
    """The name in the file of the module that runs: the outermost one, or the one that the user named."""
    return job.reading.within or job.reading.module or ""


def _keys(job: Job) -> list[str]:
    """The keys and parts on the way to the module that runs."""
    start = _start(job)
    return start.split(".") if start else []


def _child(thing: Any, key: str) -> Any:
    """What stands under a key of a dict or a list, or a part of a module."""
    if isinstance(thing, Mapping):
        return thing[key]
    return thing[int(key)] if isinstance(thing, list | tuple) else thing.get_submodule(key)


def _keeper(outputs: dict[str, Array], unit: str) -> Callable[..., None]:
    """A forward hook that copies a module's output, because the ReLU after it may work in place."""
    return lambda _module, _inputs, output: outputs.update({unit: last(output.numpy()).copy()})
