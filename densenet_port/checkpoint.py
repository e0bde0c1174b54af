"""A checkpoint: names and lazy arrays, with the container they came in."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from densenet_port.file_graph import FileGraph

Array = np.ndarray[Any, np.dtype[Any]]  # numpy.typing takes 10 ms to import
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
    )
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One array of a checkpoint, not yet read.

    `dtype` is the name of the type as stored ("float32", "float16", "bfloat16", "int64" …). `load()` gives a native
    array of `shape`, read-only or not, in any memory order; bfloat16 comes widened to float32, which is exact. Each
    call reads anew and keeps nothing, so a caller who drops the array has its memory back. Two tensors of a file whose
    `identity` is equal and not None are one, under two names: the same memory, seen alike.
    """

    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], Array]
    identity: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Names → tensors in the file's order, and what the file says beside them.

    `metadata` holds what the container records of itself (`keras_version`, `backend`, `epsilon` …); `record` what
    densenet-port wrote into the file (architecture, contract, source, digests), or None. `graph()` gives the file's own
    graph, where it has one that can be read without its software; it raises MisfitError where it cannot. Entries of the
    metadata that are in `MEANING` decide how the tensors are taken; a reader sets them from what it understands of its
    file.
    """

    path: Path
    container: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] | None = None
    graph: Callable[[], FileGraph] | None = None


def array_digest(array: Array) -> str:
    """SHA-256 of an array's elements, row-major and little-endian, in hex; shape and dtype stand beside it."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data).hexdigest()
