"""The containers of checkpoints: found by content, read lazily, written by one atomic writer."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from densenet_port.checkpoint import Checkpoint, Tensor
from densenet_port.errors import CorruptError, DiskError, PortError, UsageError
from densenet_port.files import file_digest, sha256, together
from densenet_port.formats.bounds import check_tensors
from densenet_port.formats.record import believed, seal
from densenet_port.network.blueprint import Blueprint

READERS = (
    "torch.pth",
    "torch.export",
    "safetensors",
    "keras.archive",
    "caffe.caffemodel",
    "caffe.h5",
    "keras.h5",
    "onnx.checkpoint",
    "npz",
    "mxnet",
    "tensorflow.saved_model",
    "tensorflow.checkpoint",
)
FOLDERS = (
    "tensorflow.saved_model",
    "tensorflow.checkpoint",
)  # readers of what is a folder, or several files that are named by none of them
GRAPHS = ("onnx.checkpoint",)  # readers that follow a graph to one of its outputs
ENDINGS = {  # the longest ending wins
    ".weights.h5": ("keras.h5_write", "write_weights_h5"),
    ".h5": ("keras.h5_write", "write_legacy"),
    ".hdf5": ("keras.h5_write", "write_legacy"),
    ".keras": ("keras.archive", "write"),
    ".safetensors": ("safetensors", "write"),
    ".pth": ("torch.pth", "write"),
    ".pt": ("torch.pth", "write"),
    ".onnx": ("onnx.checkpoint", "write"),
    ".caffemodel": ("caffe.caffemodel", "write"),
    ".npz": ("npz", "write"),
}
BFLOAT16 = (".safetensors", ".pth", ".pt")  # endings of containers that hold it
ANYBODYS = (".npz",)  # endings of containers that hold the tensors of any layout
CONFIG, INDEX = "config.json", ".index.json"  # what may stand beside weights, and how the name of an index ends
COMPANIONS = {".caffemodel": ".prototxt"}  # what goes with a file, by its module's `companion`
HEAD = 4096
NO_OUTPUTS = "only ONNX models have outputs by name"
KNOWN = (
    "known: PyTorch .pth (zip, legacy, tar, pickle), .safetensors, Keras .h5, .weights.h5 and .keras, Caffe, ONNX, "
    "NumPy .npz, TensorFlow checkpoints and SavedModels, MXNet and Paddle parameters"
)


def read(path: Path, *, output: str | None = None, body: bool = False) -> Checkpoint:
    """The checkpoint in a file, whatever its name ends in, held to its record's digests; a tensor when it is loaded.

    Of a file that is read by its graph, `output` names the output to take, and with `body` its head may be any, and is
    left out where it is no DenseNet's. A folder is read as `folders` has it, an index of shards as the shards are, and
    what `beside` understands of a configuration beside the weights goes along. Raises UsageError for an `output` of a
    file that has none by name, DiskError for a file that cannot be opened, CorruptError for one that is broken or no
    checkpoint, MisfitError for one of another kind, and for a folder of another kind.
    """
    return believed(with_its_own(as_it_is(path, output=output, body=body)))


def as_it_is(path: Path, *, output: str | None = None, body: bool = False) -> Checkpoint:
    """The checkpoint in a file or folder, whatever its record says. Raises as `read` does."""
    if path.is_dir():
        several = _several(path)
        checkpoint: Checkpoint = _read(several, path) if several else _module("folders").read(path, _file)
        if output is not None:
            raise UsageError(f"{path}: has no output {output!r}", hint=NO_OUTPUTS)
        return checkpoint
    checkpoint = _file(path, output=output, body=body)
    if (path.parent / CONFIG).is_file():
        belongs = path.name in _module("folders").WEIGHTS
        checkpoint = _module("beside").attached(checkpoint, belongs=belongs)
    return checkpoint


def _file(path: Path, *, output: str | None = None, body: bool = False) -> Checkpoint:
    """The checkpoint in a file, or in the shards of an index, whatever stands beside it."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        if several := _several(path):
            return _read(several, path)
        raise DiskError(f"{path}: cannot be read: {error.strerror}", hint="is the path right?") from error
    if path.name.endswith(INDEX) and _module("folders").sniff(head):
        sharded: Checkpoint = _module("folders").read_index(path, _file)
        return sharded
    for name in READERS:
        module = _module(name)
        if module.sniff(path, head):
            asked = {"output": output, "body": body} if name in GRAPHS else {}
            if output is not None and not asked:
                raise UsageError(f"{path}: has no output {output!r}", hint=NO_OUTPUTS)
            return _read(module, path, **asked)
    raise _module("foreign").refusal(path, head, KNOWN)


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    record: Callable[[], bytes],
    blueprint: Blueprint | None = None,
) -> None:
    """Write tensors in their order, in the container of the path's ending, with its companion; both appear or neither.

    `record()` gives JSON bytes of constant length and is complete once every tensor has been loaded. `blueprint` tells
    whose the tensors are, for containers that hold a graph. Raises UsageError for an unknown ending, DiskError for a
    place that cannot be written.
    """
    module, function = ENDINGS[ending(path)]
    companions = [beside] if (beside := companion(path)) else []
    with together(path, *companions) as (temporary, *texts):
        seal(temporary, getattr(_module(module), function)(temporary, tensors, record, blueprint))
        for text in texts:
            text.write_bytes(_module(module).companion(blueprint))


def knows(path: Path) -> bool:
    """Whether a file is one that a reader takes, by its content, or by an ending that only weights have."""
    if any(path.name.lower().endswith(known) for known in ENDINGS):
        return True
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
        return any(_module(name).sniff(path, head) for name in READERS)
    except (OSError, PortError):
        return False


def companion_digest(path: Path, blueprint: Blueprint | None) -> str | None:
    """SHA-256 of what `write` puts beside a file of this ending, in hex; None where that is nothing."""
    if companion(path) is None:
        return None
    content: bytes = _module(ENDINGS[ending(path)][0]).companion(blueprint)
    return sha256(content)


def with_its_own(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, if what stands beside its file is what was written with it, or nothing. Raises CorruptError."""
    path, digest = checkpoint.path, (checkpoint.record or {}).get("companion")
    if digest is None:
        return checkpoint
    beside = path.with_suffix(COMPANIONS[f".{checkpoint.container}"])
    if beside.is_file() and (actual := file_digest(beside)) != digest:
        hint = f"remove it, and {path.name} is read by the same graph, which it holds too; or convert again"
        detail = f"expected a SHA-256 of {digest[:12]}…, found {actual[:12]}…"
        raise CorruptError(f"{beside}: is not the one that was written with {path.name}: {detail}", hint=hint)
    return checkpoint


def companion(path: Path) -> Path | None:
    """The file that is written beside a file of this ending, if one is."""
    beside = COMPANIONS.get(ending(path))
    return path.with_suffix(beside) if beside else None


def ending(path: Path) -> str:
    """The ending that decides the container. Raises UsageError for one that no container has."""
    endings = [known for known in ENDINGS if path.name.lower().endswith(known)]
    if not endings:
        raise UsageError(f"{path}: unknown ending", hint=f"known: {', '.join(ENDINGS)}")
    return max(endings, key=len)


def _several(path: Path) -> Any:
    """The reader of a folder of several files that are one checkpoint, or of a name that none of them has; or None."""
    return next((module for module in map(_module, FOLDERS) if module.takes(path)), None)


def _read(module: Any, path: Path, **asked: Any) -> Checkpoint:
    """What a reader makes of a path. Raises as it does, and CorruptError for more than the files can hold."""
    checkpoint: Checkpoint = module.read(path, **asked)
    held = sum(part.stat().st_size for part in checkpoint.parts or (path,))
    check_tensors(path, checkpoint.tensors, held + checkpoint.beside)
    return checkpoint


def _module(name: str) -> Any:
    """A module of this room, imported when it is first asked for."""
    return import_module(f"densenet_port.formats.{name}")
