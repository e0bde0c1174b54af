"""A checkpoint: names and lazy arrays, with the container they came in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from densenet_port.errors import MisfitError
from densenet_port.file_graph import FileGraph
from densenet_port.files import file_digest, sha256

Array = np.ndarray[Any, np.dtype[Any]]  # numpy.typing takes 10 ms to import
Extent = tuple[int, int]  # where bytes lie in a file: the first one's place, and how many
LIVE = "live"  # the container of tensors that are in no file
LIVE_KERAS = "live-keras"  # that of a Keras model's
MEANING = frozenset(
    (
        *("epsilon", "stem_stride", "stem_padding", "stem_pool", "pool_rounding", "head_pool"),  # the contract
        *("output", "input"),
        *(
            "architecture",
            "concatenation",
            "flatten",
            "kernels",
            "layers",
            "module",
            "modules",
            "norms",
            "package",
            "pool",
        ),  # whose the tensors are, and how stored
        *("fold", "notes"),  # what was worked out, and what to say of it
        *("beside", "hub", "labels"),  # a configuration beside the file, where it was fetched from, its classes' names
    )
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One array of a checkpoint, not yet read.

    `dtype` is the name of the type as stored ("float32", "float16", "bfloat16", "int64" …). `load()` gives a native
    array of `shape`, read-only or not, in any memory order; bfloat16 comes widened to float32, which is exact. Each
    call reads anew and keeps nothing, so a caller who drops the array has its memory back. Two tensors of a file whose
    `identity` is equal and not None are one, under two names: the same memory, seen alike. `extent` is where its
    elements lie in the file, if they lie there as they are, side by side.
    """

    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], Array]
    identity: object = None
    extent: Extent | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Names → tensors in the file's order, and what the file says beside them.

    `metadata` holds what the container records of itself (`keras_version`, `backend`, `epsilon` …); `record` what
    densenet-port wrote into the file (architecture, contract, source, digests), or None. `beside` is how many bytes
    of its tensors stand in other files. `graph()` gives the file's own
    graph, where it has one that can be read without its software; it raises MisfitError where it cannot. Entries of the
    metadata that are in `MEANING` decide how the tensors are taken; a reader sets them from what it understands of its
    file. `parts` are the files that it is made of, where `path` alone is not all of it.
    """

    path: Path
    container: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] | None = None
    graph: Callable[[], FileGraph] | None = None
    parts: tuple[Path, ...] = ()
    beside: int = 0

    @property
    def is_live(self) -> bool:
        """Whether its tensors are in memory, and in no file; `path` then is what messages call it."""
        return self.container in (LIVE, LIVE_KERAS)

    def records(self, entries: Mapping[str, Any]) -> bool:
        """Whether the metadata has all of these entries."""
        return all(self.metadata.get(key) == value for key, value in entries.items())


def is_array(value: object) -> bool:
    """Whether something is an array or a tensor of any library's, or gives itself as one."""
    return (hasattr(value, "shape") and hasattr(value, "dtype")) or hasattr(value, "__array__") or _is_lent(value)


def live_tensor(name: str, value: Any) -> Tensor:
    """An array or tensor in memory, called `name`; what `load()` gives is what it holds then, and is not to be changed.

    Raises MisfitError for a tensor of torch's that is no plain array of numbers.
    """
    if hasattr(value, "detach"):
        _require_plain(name, value)
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        value = live_array(value)
    dtype = str(getattr(value.dtype, "name", value.dtype)).removeprefix("torch.")
    return Tensor(tuple(map(int, value.shape)), dtype, partial(live_array, value), identity=_identity(value))


def live_array(value: Any) -> Array:
    """The array of a tensor, which cannot be written to; bfloat16, which numpy lacks, as float32."""
    if hasattr(value, "detach"):  # torch's
        value = value.detach().cpu()
        value = value.float() if str(value.dtype).endswith("bfloat16") else value
    array = np.from_dlpack(value) if _is_lent(value) else np.asarray(value)
    array = array.astype(np.float32) if array.dtype.name == "bfloat16" else array.view()
    array.flags.writeable = False
    return array


def _is_lent(value: Any) -> bool:
    """Whether something gives its memory by DLPack alone."""
    return hasattr(value, "__dlpack__") and not hasattr(value, "__array__")


def _require_plain(name: str, tensor: Any) -> None:
    """Raise MisfitError for a tensor of torch's whose elements are not there, or are no plain numbers."""
    if tensor.is_meta:
        hint = "load its weights first: `module.load_state_dict(state, assign=True)`"
        raise MisfitError(f"{name}: a tensor on torch's meta device, which has a shape and no numbers", hint=hint)
    kind = "quantised" if tensor.is_quantized else "nested" if tensor.is_nested else str(tensor.layout)
    if kind != "torch.strided":
        hint = "make it a plain tensor first (`dequantize()`, `to_dense()`)"
        raise MisfitError(f"{name}: a tensor that is no plain array ({kind.removeprefix('torch.')})", hint=hint)


def _identity(value: Any) -> object:
    """What tells that two tensors of torch's are one; None for others."""
    return (value.data_ptr(), tuple(value.shape), value.stride()) if hasattr(value, "data_ptr") else None


def digest(checkpoint: Checkpoint) -> str:
    """SHA-256 of a checkpoint, in hex: of its file's bytes.

    That of a live one is of its names and of the digests of its arrays; that of several files, of their names and
    digests.
    """
    if checkpoint.is_live:
        lines = [f"{name} {array_digest(tensor.load())}\n" for name, tensor in checkpoint.tensors.items()]
    elif checkpoint.parts:
        lines = [f"{part.name} {file_digest(part)}\n" for part in checkpoint.parts]
    else:
        return file_digest(checkpoint.path)
    return sha256("".join(lines).encode())


def array_digest(array: Array) -> str:
    """SHA-256 of an array's elements, row-major and little-endian, in hex; shape and dtype stand beside it."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return sha256(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data)
