"""Bounds: what no file of a DenseNet needs, and what no reader therefore takes.

A file can claim more than it holds: deflate makes a thousand bytes of one, a stride of 0 makes a tensor of a number,
and one storage may have any number of names. The bounds leave honest files alone. The largest network that was
published, DenseNet-264, has 1,600 tensors, 291 MB of weights at most, and no tensor of more than 60 MB; with an
optimiser and an average of the weights it is four times that. Where a file is large itself, three times of what it has
is let through.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from densenet_port.checkpoint import Tensor
from densenet_port.errors import CorruptError
from densenet_port.formats.source import stored_size

TENSOR = 2**27  # bytes of one tensor that stands in fewer
FILE = 2**28  # bytes of all tensors that stand in fewer
RATIO = 3  # times the file's own size, where that is more
TENSORS = 20_000  # names, members, groups and datasets
AXES = 64  # of a tensor; NumPy 2's own limit
_TEXT = 2**26  # bytes of a JSON text; the configuration of DenseNet-264 has 1 MB
_VALUES = 2**19  # values in it, which take some 200 bytes each; the same has 80,000


def limit_of(size: int, least: int = FILE) -> int:
    """How many bytes the tensors of a file of `size` bytes may have together, or other things that it unpacks to."""
    return max(least, RATIO * size)


def check_tensors(path: Path, tensors: Mapping[str, Tensor], size: int) -> None:
    """Raise CorruptError for tensors that are far more than the `size` bytes that hold them."""
    if len(tensors) > TENSORS:
        raise CorruptError(f"{path}: more than {TENSORS} tensors, which no DenseNet has")
    total = 0
    for name, tensor in tensors.items():
        taken = stored_size(tensor.shape, tensor.dtype)
        if taken > limit_of(size, TENSOR):
            raise CorruptError(f"{path}: {name} has {taken} bytes, of which the file has {size}")
        total += taken
    if total > limit_of(size):
        raise CorruptError(f"{path}: its tensors have {total} bytes together, of which the file has {size}")


def parsed_json(where: str, text: bytes | str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """What a JSON text says; `pairs` makes its objects.

    Raises CorruptError for one that is too long or has too many values, ValueError and RecursionError for what is none.
    """
    data = text.encode() if isinstance(text, str) else text
    if len(data) > _TEXT or sum(data.count(mark) for mark in (b",", b"[", b"{")) > _VALUES:
        raise CorruptError(f"{where} is a JSON text of more than {_VALUES} values or {_TEXT} bytes, which none needs")
    return json.loads(data, object_pairs_hook=pairs)
