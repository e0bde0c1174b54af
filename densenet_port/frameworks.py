"""The references: networks run by the frameworks themselves, in a process of their own.

Frameworks do not share a process well (TensorFlow before torch crashes, Keras has one backend for good), so `run`
writes a job into a temporary folder, starts `python -m densenet_port.frameworks FOLDER`, and reads what it left there:

    job.json    what to run          job.npz    the images, and weights that are no file's
    run.json    versions, digests    run.npz    logits, and the taps      error.json    or else a PortError

Starting a framework takes longer than running it: `run_all` gives one process several jobs. Runs use the CPU alone
(CUDA_VISIBLE_DEVICES is empty: a graphics card sums in another order, and in fewer bits), and TensorFlow is told to be
quiet. Torch reads a checkpoint with `weights_only=True`, so that no code from it runs.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np

from densenet_port import model
from densenet_port.arch import Architecture, Contract, Role, Slot
from densenet_port.checkpoint import Array, array_digest
from densenet_port.convert import Ours, ours
from densenet_port.errors import CorruptError, DiskError, MisfitError, PortError, UsageError
from densenet_port.forward import forward

NETWORKS = ("torchvision", "keras", "keras.applications", "numpy")
BACKENDS = ("tensorflow", "torch", "jax")
PORT_ERRORS: list[type[PortError]] = [PortError, *PortError.__subclasses__()]
KINDS = {kind.kind: kind for kind in PORT_ERRORS}
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
LAST_LINES = 8  # of a dead process's stderr, shown to the user
FLOAT64 = 1e-10  # of the logits' deviation: what float64 keeps and float32 (1e-7 and more) cannot


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of one network on images `n h w c`.

    - "torchvision": `torchvision.models.densenet.DenseNet` with the architecture's numbers, in evaluation mode, filled
      strictly with the state dict in `path` (what torch itself loads, or safetensors). `prefix` is what stands before
      the names in the file, wrapping dictionaries included (`state_dict.module.`), and `head` the head's name in the
      file where that is not torchvision's own (`classifier.0`).
    - "keras": what `model.load` makes of the converted file `path`; or, with `weights` in our axes, what `model.build`
      makes of `architecture` and `contract`.
    - "keras.applications": Keras's own network of the architecture's name, with its weights from `path`.
    - "numpy": this project's forward pass on the file `path`, of any layout.

    Keras runs on `backend`; its network takes images in `data_format` order (they are turned here). Without classes in
    the architecture, or without a head in the file, the last map after its ReLU stands for the logits. `taps` asks for
    more outputs: our unit → the framework's own name of that module or layer. `threads` bounds the frameworks' threads
    (not JAX's); None leaves their defaults. `limit` is in seconds.
    """

    network: Literal["torchvision", "keras", "keras.applications", "numpy"]
    images: Array
    path: Path | None = None
    architecture: Architecture | None = None
    contract: Contract | None = None
    weights: Mapping[Slot, Array] | None = None
    prefix: str = ""
    head: str | None = None
    backend: Literal["tensorflow", "torch", "jax"] = "tensorflow"
    dtype: Literal["float32", "float64"] = "float32"
    data_format: model.DataFormat = "channels_last"
    taps: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    limit: float = 600.0

    @property
    def title(self) -> str:
        """What runs, for messages: `keras on jax in float32`."""
        on = f" on {self.backend}" if self.network.startswith("keras") else ""
        return f"{self.network}{on} in {self.dtype}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a network put out.

    `logits` are `n classes` (a map `n h w c` without a head) and `taps` unit → output, `n h w c`, as the framework gave
    them. `computed_in` is the dtype that the run was really in, whatever its arrays say. `variables` are the digests
    (`checkpoint.array_digest`) of every floating-point variable in the run's dtype, by the framework's name and in its
    axes; for "keras" by our slot, in our axes. `versions` are those of the packages that took part.
    """

    logits: Array
    taps: Mapping[str, Array]
    computed_in: str
    variables: Mapping[str, str]
    versions: Mapping[str, str]


def run(job: Job) -> Run:
    """Run a job in a process of its own.

    Raises UsageError for a job that says too little and for a framework that is not installed, the PortErrors of
    reading the file, MisfitError for weights that do not fit the network, and PortError with the process's last lines
    when it dies or exceeds its limit.
    """
    return run_all([job])[0]


def run_all(jobs: Sequence[Job]) -> list[Run]:
    """Run jobs one after the other in one process, which ends at the first that fails. Errors as in `run`.

    All must run in the same framework, on the same backend and with the same threads; their limits add up.
    """
    if not jobs:
        return []
    for job in jobs:
        _check(job)
    if len({(job.network.partition(".")[0], job.backend, job.threads) for job in jobs}) > 1:
        raise UsageError("jobs that share a process must share framework, backend and threads")
    try:
        with TemporaryDirectory(prefix="densenet-port-") as name:
            return _run_in(Path(name), jobs)
    except OSError as error:
        raise DiskError(f"no reference can run in the temporary folder: {error}") from error


def _run_in(place: Path, jobs: Sequence[Job]) -> list[Run]:
    """Write the jobs into a folder, have them run, and read the results."""
    folders = [place / str(number) for number in range(len(jobs))]
    for job, folder in zip(jobs, folders, strict=True):
        _write_job(job, folder)
    _start(jobs, folders)
    return [_read_run(folder) for folder in folders]


def _check(job: Job) -> None:
    """Refuse a job that cannot be run as given."""
    if job.network not in NETWORKS or job.backend not in BACKENDS or job.dtype not in ("float32", "float64"):
        raise UsageError(f"no reference is {job.title}", hint=f"known: {', '.join(NETWORKS)}; {', '.join(BACKENDS)}")
    if (job.path is None) == (job.weights is None) or (job.weights is not None and job.network != "keras"):
        raise UsageError(f"{job.title} takes a file" + (" or weights, and not both" if job.network == "keras" else ""))
    if job.architecture is None and (job.network not in ("keras", "numpy") or job.weights is not None):
        raise UsageError(f"{job.title} must be told the architecture")
    if job.network == "torchvision" and job.architecture is not None:
        _check_torchvision(job.architecture)


def _check_torchvision(numbers: Architecture) -> None:
    """Refuse what torchvision's class cannot be."""
    if numbers.stem != "imagenet" or not numbers.bottleneck or numbers.reduction != 0.5:  # noqa: PLR2004 (its half)
        hint = "its networks have the ImageNet stem, bottlenecks and a reduction of 0.5"
        raise UsageError(f"torchvision has no DenseNet {numbers.name}", hint=hint)


# -- between the two processes -----------------------------------------------------------------------------------------


def _write_job(job: Job, folder: Path) -> None:
    """Leave a job in the folder, which is made."""
    folder.mkdir()
    plain = {name: getattr(job, name) for name in Job.__slots__ if name not in ("images", "weights")}
    plain["path"] = str(job.path.absolute()) if job.path else None
    plain["taps"] = dict(job.taps)
    plain["architecture"] = job.architecture.to_json() if job.architecture else None
    plain["contract"] = job.contract.to_json() if job.contract else None
    arrays: dict[str, Any] = {str(slot): array for slot, array in (job.weights or {}).items()}
    (folder / "job.json").write_text(json.dumps(plain), encoding="utf-8")
    np.savez(folder / "job.npz", images=job.images, **arrays)


def _read_job(folder: Path) -> Job:
    """The job in the folder."""
    plain = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    with np.load(folder / "job.npz", allow_pickle=False) as arrays:
        images = arrays["images"]
        weights = {_slot(name): arrays[name] for name in arrays.files if name != "images"}
    plain["path"] = Path(plain["path"]) if plain["path"] else None
    plain["architecture"] = Architecture.from_json(plain["architecture"]) if plain["architecture"] else None
    plain["contract"] = Contract.from_json(plain["contract"]) if plain["contract"] else None
    return Job(**plain, images=images, weights=weights or None)


def _slot(text: str) -> Slot:
    """The slot that `str` spelled."""
    unit, _, role = text.rpartition(".")
    return Slot(unit, cast("Role", role))


def _write_run(result: Run, folder: Path) -> None:
    """Leave a result in the folder."""
    plain = {name: getattr(result, name) for name in ("computed_in", "variables", "versions")}
    (folder / "run.json").write_text(json.dumps(plain), encoding="utf-8")
    taps: dict[str, Any] = dict(result.taps)
    np.savez(folder / "run.npz", logits=result.logits, **taps)


def _read_run(folder: Path) -> Run:
    """The result in the folder, or the error that was left in its place."""
    if (folder / "error.json").exists():
        error = json.loads((folder / "error.json").read_text(encoding="utf-8"))
        raise KINDS[error["kind"]](error["message"], hint=error["hint"])
    with np.load(folder / "run.npz", allow_pickle=False) as arrays:
        taps = {name: arrays[name] for name in arrays.files if name != "logits"}
        logits = arrays["logits"]
    return Run(**json.loads((folder / "run.json").read_text(encoding="utf-8")), logits=logits, taps=taps)


def _start(jobs: Sequence[Job], folders: Sequence[Path]) -> None:
    """Run the worker to its end."""
    command = [sys.executable, "-P", "-m", "densenet_port.frameworks", *map(str, folders)]
    limit, title = sum(job.limit for job in jobs), jobs[0].title
    try:
        done = subprocess.run(  # noqa: S603 (this very package, on folders of our own)
            command, env=_environment(jobs[0]), capture_output=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired as error:
        hint = "give it longer, or fewer or smaller images"
        raise PortError(_told(f"{title} took longer than {limit:g} s", error.stderr), hint=hint) from error
    if done.returncode:
        how = f"exit code {done.returncode}" if done.returncode > 0 else signal.strsignal(-done.returncode)
        raise PortError(_told(f"{title} ended with {how}", done.stderr))


def _environment(job: Job) -> dict[str, str]:
    """What the worker's process sees: this one's environment and packages, one backend, and the CPU alone."""
    threads = {} if job.threads is None else dict.fromkeys(THREADS, str(job.threads))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path),
        "KERAS_BACKEND": job.backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
        **threads,
    }


def _told(what: str, stderr: bytes | None) -> str:
    """What happened, and the last lines that the process wrote."""
    lines = (stderr or b"").decode(errors="replace").strip().splitlines()[-LAST_LINES:]
    return "\n  ".join([what, *lines])


# -- the worker --------------------------------------------------------------------------------------------------------


def main() -> None:
    """Run the jobs in the folders that the command line names, and leave each result there, to the first that fails."""
    for name in sys.argv[1:]:
        folder = Path(name)
        job = _read_job(folder)
        try:
            _write_run(RUNNERS[job.network](job), folder)
        except PortError as error:
            plain = {"kind": error.kind, "message": error.message, "hint": error.hint}
            (folder / "error.json").write_text(json.dumps(plain), encoding="utf-8")
            break


def _run_numpy(job: Job) -> Run:
    """Our own forward pass on the file's weights, by the file's contract."""
    told = _told_ours(cast("Path", job.path))
    found: dict[str, Array] = {}

    def tap(unit: str, output: Array) -> None:
        if unit in job.taps:
            found[unit] = output

    weights = partial(_loaded_slot, told)
    dtype = np.dtype(job.dtype)
    logits = forward(told.architecture, told.contract, weights, job.images, dtype=dtype, tap=tap if job.taps else None)
    digests = {str(slot): array_digest(load().astype(dtype)) for slot, load in told.weights.items()}
    return Run(logits=logits, taps=found, computed_in=logits.dtype.name, variables=digests, versions=_versions())


@lru_cache(maxsize=1)
def _told_ours(path: Path) -> Ours:
    """A file in our words, kept for the next job on it."""
    return ours(path)


def _loaded_slot(told: Ours, slot: Slot) -> Array:
    return told.weights[slot]()


def _run_torchvision(job: Job) -> Run:
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
        logits=_last(output.numpy()),
        taps=found,
        computed_in=str(output.dtype).removeprefix("torch."),
        variables={name: array_digest(value.numpy()) for name, value in _floating(network.state_dict())},
        versions=_versions("torch", "torchvision"),
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
    return lambda _module, _inputs, output: found.update({unit: _last(output.numpy()).copy()})


def _last(output: Array) -> Array:
    """Maps `n c h w` as `n h w c`; vectors as they are."""
    return output.transpose(0, 2, 3, 1) if output.ndim == 4 else output  # noqa: PLR2004 (n c h w)


def _run_keras(job: Job) -> Run:
    """Our own Keras model, from a file or from weights."""
    _set_keras(job)
    if job.path is not None:
        network = _keras_loaded(job.path, job.dtype, job.data_format)
    else:
        contract = job.contract or Contract()
        assert job.architecture is not None  # noqa: S101 (`_check` saw to it)
        network = model.build(job.architecture, contract, data_format=job.data_format, blank=True)
        model.assign(network, job.weights or {})
    return _keras_outputs(network, job, {str(slot): variable for slot, variable in model.slots(network).items()})


@lru_cache(maxsize=1)
def _keras_loaded(path: Path, _dtype: str, data_format: model.DataFormat) -> Any:
    """The file's network in the dtype that Keras is set to, kept for the next job on it."""
    return model.load(path, activation=None, data_format=data_format)


def _run_applications(job: Job) -> Run:
    """Keras's own DenseNet, which it builds for one size of image."""
    keras = _set_keras(job)
    assert job.architecture is not None  # noqa: S101 (`_check` saw to it)
    name, classes = f"DenseNet{job.architecture.name}", job.architecture.classes
    if not hasattr(keras.applications, name) or job.data_format != "channels_last":
        raise UsageError(f"keras.applications has no {name} that is {job.data_format}")
    try:
        network = getattr(keras.applications, name)(
            include_top=classes is not None,
            weights=str(job.path),
            input_shape=job.images.shape[1:],
            classes=classes or 1,
            classifier_activation=None,
        )
    except (ValueError, OSError, KeyError) as error:
        raise MisfitError(f"{job.path}: {name} does not take it: {error}") from error
    return _keras_outputs(network, job, {variable.path: variable for variable in network.variables})


def _set_keras(job: Job) -> Any:
    """Keras in the job's dtype, whatever the user's own settings, or an earlier job's, say."""
    keras = model.framework("keras")
    keras.config.set_floatx(job.dtype)
    keras.config.set_dtype_policy(job.dtype)
    keras.config.set_image_data_format("channels_last")
    return keras


def _keras_outputs(network: Any, job: Job, variables: Mapping[str, Any]) -> Run:
    """One call of a network, not in training, with every tap as one more output."""
    keras = model.framework("keras")
    names = {layer.name for layer in network.layers}
    if unknown := [name for name in job.taps.values() if name not in names]:
        raise UsageError(f"the reference has no layer {unknown[0]!r} to look at")
    tapped = {unit: network.get_layer(name).output for unit, name in job.taps.items()}
    first = job.data_format == "channels_first"
    images = job.images.astype(job.dtype, copy=False)
    outputs = keras.Model(network.input, {"logits": network.output, **tapped})(
        images.transpose(0, 3, 1, 2) if first else images, training=False
    )
    found = {name: np.asarray(keras.ops.convert_to_numpy(output)) for name, output in outputs.items()}
    logits = found["logits"]
    return Run(
        logits=_last(logits) if first else logits,
        taps={unit: found[unit] for unit in job.taps},
        computed_in=_precision() if logits.dtype == np.float64 else logits.dtype.name,
        variables={name: array_digest(keras.ops.convert_to_numpy(value)) for name, value in variables.items()},
        versions=_versions("keras", job.backend),
    )


@lru_cache(maxsize=1)
def _precision() -> str:
    """What Keras really computes in when its arrays say float64, found by a small network that numpy runs as well.

    On torch and JAX Keras turns float64 into float32 where it promotes types, and says float64 all the same.
    """
    keras = model.framework("keras")
    architecture = Architecture(layers=(2, 2), growth_rate=4, init_channels=8, classes=8)
    random = np.random.default_rng(0)
    weights = {
        slot: random.standard_normal(shape) if slot.role == "kernel" else random.uniform(0.5, 1.5, shape)
        for slot, shape in architecture.slots.items()
    }
    images = random.standard_normal((1, 32, 32, 3))
    network = model.build(architecture, Contract(), blank=True)
    model.assign(network, weights)
    theirs = keras.ops.convert_to_numpy(network(images, training=False))
    truth = forward(architecture, Contract(), weights, images)
    return "float64" if np.abs(theirs - truth).max() <= FLOAT64 * truth.std() else "float32"


def _versions(*names: str) -> dict[str, str]:
    """Versions of Python, numpy and the packages named, by the packages' own word or their metadata's."""
    python = ".".join(map(str, sys.version_info[:3]))
    found = {name: str(getattr(sys.modules.get(name), "__version__", None) or version(name)) for name in names}
    return {"python": python, "numpy": np.__version__, **found}


RUNNERS: dict[str, Callable[[Job], Run]] = {
    "numpy": _run_numpy,
    "torchvision": _run_torchvision,
    "keras": _run_keras,
    "keras.applications": _run_applications,
}

if __name__ == "__main__":
    main()
