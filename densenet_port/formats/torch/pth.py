"""PyTorch's checkpoints (`.pth`, `.pt`, `.pth.tar`, `.ckpt` …), read and written without PyTorch.

Three containers hold a pickle and, beside it, the storages that its tensors are views of (`tensors` says how). The
ending of a file's name tells nothing.

**Zip** (since 1.6). Members of one folder: `data.pkl`; a storage under `data/<key>` for each key; perhaps `byteorder`
("little", which is also meant without it, or "big"), `version` and more that need not be known. As written, members
lie uncompressed; a checkpoint that was unpacked and packed again has them deflated, and is read as well. Sizes come
from the central directory, the place of a member's data from its local header; `zip` has the checksums. A member
`constants.pkl` marks a TorchScript archive: the object is a program's, whose tensors stand under the names of a state
dict, and whose code (`code/…`) is followed by `script`. A frozen one has no names and is refused.

**Stream** (since 0.1.7). Five pickles: the number 0x1950a86a20f9469cfc6c, the number 1001, facts about the system, the
object, the list of its storages' keys. Then, for each key in this order, the number of elements (int64) and the
elements, little-endian.

**Tar** (before). Members: `storages`, the number of storages (pickle), for each (key, device, storage class) (pickle),
the number of elements (int64) and the elements, then a list of windows (key, key of the storage, offset, length)
(pickle); `tensors`, the number of tensors (pickle), for each (key, storage's key, tensor class) (pickle), the number of
axes (int32, then 4 bytes that mean nothing), shape, strides and offset (int64); `pickle`, the object, whose tensors are
persistent ids.

What is read: every tensor in the object, or where there is none every array of NumPy's, wherever it stands in dicts,
lists, tuples and whole modules (`modules`), under its keys and indices joined by dots; in a module, under the names of
its state dict. In the metadata, `form` is the container ("zip", "legacy" for a stream, "tar"), `values` has the plain
numbers and texts beside the tensors, `opaque` the classes of everything else, which is neither imported nor made; both
hold a few hundred names of up to three keys. `modules` has the names of all modules that state dicts list, those
without tensors too; it is absent where none lists any. Where whole modules hold tensors, `module` is the dotted name of
the outermost one's class, torch's own wrappers (DataParallel, Sequential …) left aside; it is absent where several such
classes stand side by side. `pool` is "blur" where a module blurs (timm's `BlurPool2d`), "max" where only maxima are
taken. `torch_module` is the name of the module that is kept whole, `own_code` says whether a class of somebody's own is
in it. Arrays are read one by one when they are asked for, with ordinary reads: measured, they take half the time of
mapping the file, and a file that is cut short meanwhile gives an error instead of a crash.

What is written: a zip of plain, contiguous tensors in an OrderedDict without `_metadata`, which `torch.load` takes with
`weights_only=True` and `mmap=True`, and a model with or without the norms' `num_batches_tracked`. Our record is one
more member, and a digest the archive's comment (see `record`), which PyTorch does not look at.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Any, NoReturn
from zipfile import ZipFile, ZipInfo

import numpy as np

from densenet_port.checkpoint import Array, Checkpoint, Extent, Tensor
from densenet_port.errors import CorruptError, MisfitError
from densenet_port.file_graph import FileGraph
from densenet_port.formats.bounds import limit_of
from densenet_port.formats.record import UNKNOWN
from densenet_port.formats.source import AGAIN, Source, guarded, located, native, stored, stored_size, write_tensor
from densenet_port.formats.torch.containers import RECORD_MEMBER, Container, Order, open_container, sniff
from densenet_port.formats.torch.plain import taken_out
from densenet_port.formats.torch.tensors import STORAGES, View, view_of
from densenet_port.formats.torch.walk import Walk
from densenet_port.formats.zip import undated
from densenet_port.network.blueprint import Blueprint

__all__ = ["read", "sniff", "write"]

_UNCHECKED = "it was written without checksums: a damaged bit in it cannot be told"
_PROGRAM = {"torch_module": "", "own_code": True}  # a program is all code
_ALIGNMENT = 64  # bytes, to which PyTorch aligns storages in a zip
_ROOT = "archive/"
# Type of elements → storage class that holds it, on writing.
_CLASSES = {dtype: kind for kind, dtype in STORAGES.items() if kind != "UntypedStorage"}


def read(path: Path) -> Checkpoint:
    """The checkpoint at `path`, arrays lazy. Raises CorruptError, MisfitError or DiskError."""
    return of_source(Source.of_file(path))


def of_source(source: Source) -> Checkpoint:
    """The checkpoint in a file, or in bytes in memory. Raises as `read` does."""
    with guarded(source.path, "PyTorch file"), located(source.path):
        return _checkpoint(source.path, open_container(source))


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    record: Callable[[], bytes],
    blueprint: Blueprint | None = None,  # noqa: ARG001 (who writes a graph reads it)
) -> list[Extent]:
    """Write a zip of the tensors, in order, and of the record as it stands after the last was loaded.

    What comes back is where the tensors lie. Raises MisfitError for a type that PyTorch's storages do not have. The
    same tensors give the same bytes.
    """
    program, extents = _state_dict(tensors), []
    with path.open("wb") as file, ZipFile(file, "w") as archive:

        def add(name: str, data: bytes) -> None:
            archive.writestr(_entry(name, file.tell(), len(data)), data)

        add("data.pkl", program)
        add("byteorder", b"little")
        for key, (name, tensor) in enumerate(tensors.items()):
            size = stored_size(tensor.shape, tensor.dtype)
            with archive.open(_entry(f"data/{key}", file.tell(), size), "w") as member:
                extents.append((file.tell(), size))
                write_tensor(member, name, tensor)
        add("version", b"3\n")
        add(RECORD_MEMBER, record())
        archive.comment = UNKNOWN.encode()
    return extents


def tensors_of(path: Path, contents: Container) -> Mapping[str, Tensor]:
    """Name → tensor in a file's object. Raises CorruptError and MisfitError."""
    return _checkpoint(path, contents).tensors


def _checkpoint(path: Path, contents: Container) -> Checkpoint:
    """Name → tensor for what is one, and notes of the rest."""
    walk = Walk(contents.tree, partial(_taken, path, contents))
    if not walk.tensors and (arrays := _arrays(path, contents)):
        contents = replace(contents, storages=arrays, sizes={})
        walk = Walk(contents.tree, partial(_taken, path, contents))
    _check_lengths(contents)
    tensors, is_program = walk.tensors, contents.form == "torchscript"
    if not tensors and is_program:
        hint = "in PyTorch, save the module's `state_dict()` before `torch.jit.freeze`"
        raise MisfitError("a frozen TorchScript program, whose tensors have no names", hint=hint)
    if not tensors:
        raise CorruptError(_explain_no_tensors(walk.notes["opaque"]), hint="in PyTorch, save `model.state_dict()`")
    return Checkpoint(
        path=path,
        container="pth",
        tensors=tensors,
        metadata={
            "form": contents.form,
            **walk.metadata(),
            **({} if contents.has_checksums else {"notes": [_UNCHECKED]}),
            **(_PROGRAM if is_program else walk.of_modules()),
        },
        record=contents.record,
        graph=cache(partial(_program, path, contents, tensors)) if is_program else walk.graph(path),
    )


def _arrays(path: Path, contents: Container) -> dict[str, Source]:
    """The storages that NumPy's arrays in an object are made into. Raises CorruptError for too many bytes."""

    def stream(_data: bytes) -> NoReturn:
        raise CorruptError("a storage within the pickle, which PyTorch has beside it", hint=AGAIN)

    arrays = taken_out(contents.tree, stream, limit_of(contents.pickled, 0))
    return {key: Source.of_bytes(path, data) for key, data in arrays.items()}


def _taken(path: Path, contents: Container, name: str, leaf: Any) -> Tensor | None:
    """The tensor that a leaf is; None for anything else."""
    view = view_of(name, leaf, contents.outside)
    return make_tensor(path, name, view, contents) if view else None


def _program(path: Path, contents: Container, tensors: Mapping[str, Tensor]) -> FileGraph:
    """What a TorchScript program computes."""
    from densenet_port.formats.torch.script import read_graph  # noqa: PLC0415 (most files are no programs)

    with located(path):
        return read_graph(contents.tree, contents.code, tensors, partial(_constants, path, contents))


def _constants(path: Path, contents: Container) -> dict[str, Array]:
    """The tensors that a program's code has, by the names there: few numbers each, the others left out."""
    from densenet_port.formats.torch.aten import FEW  # noqa: PLC0415 (as `script`)

    tree, storages = contents.constants()
    kept, constants = replace(contents, storages=storages), {}
    for number, leaf in enumerate(tree if isinstance(tree, tuple) else ()):
        name = f"c{number}"
        tensor = _taken(path, kept, name, leaf)
        if tensor is not None and 0 < prod(tensor.shape) <= FEW:
            constants[name] = tensor.load()
    return constants


def _check_lengths(contents: Container) -> None:
    """Raise CorruptError for a storage that the file ends in, whoever needs it."""
    for key, size in contents.sizes.items():
        if contents.storages[key].size < size:
            raise _cut_short(key, size, contents.storages[key])


def _explain_no_tensors(opaque: Mapping[str, str]) -> str:
    classes = ", ".join(sorted(set(opaque.values()))[:3])
    return f"holds no tensors, only objects of {classes}" if classes else "holds no tensors"


def make_tensor(path: Path, name: str, view: View, contents: Container) -> Tensor:
    """The tensor, if its storage is all there. Raises CorruptError."""
    storage = view.storage
    source = contents.storages.get(storage.key)
    if source is None:
        raise CorruptError(f"storage {storage.key} of {name} is missing", hint=AGAIN)
    if source.size < storage.size:
        raise _cut_short(f"{storage.key} of {name}", storage.size, source)
    load = partial(_load, path, name, view, source, contents.order)
    size = stored(view.dtype).itemsize
    is_whole = view.reach == prod(view.shape)  # without holes, in whatever order
    extent = source.extent(storage.begin + view.offset * size, view.reach * size) if is_whole else None
    return Tensor(view.shape, view.dtype, load, identity=view, extent=extent)


def _cut_short(storage: str, expected: int, source: Source) -> CorruptError:
    return CorruptError(f"storage {storage} is cut short: expected {expected} bytes, found {source.size}", hint=AGAIN)


def _load(path: Path, name: str, view: View, source: Source, order: Order) -> Array:
    """The tensor's elements in the machine's byte order; bfloat16 as float32."""
    kind = stored(view.dtype).newbyteorder(order)
    first = (view.storage.begin + view.offset * kind.itemsize) if view.reach else 0
    strides = [stride * kind.itemsize if n > 1 else 0 for n, stride in zip(view.shape, view.strides, strict=True)]
    with guarded(path, f"PyTorch file at {name}"):
        data = source.data(first, view.reach * kind.itemsize)
        return native(np.ndarray(view.shape, kind, data, 0, strides), view.dtype)


# -- writing -----------------------------------------------------------------------------------------------------------


def _entry(name: str, place: int, size: int) -> ZipInfo:
    """An uncompressed member whose header stands at a byte of the file; its data are aligned as PyTorch does it."""
    info = undated(_ROOT + name)
    info.file_size = size
    padding = -(place + 30 + len(info.filename) + 4) % _ALIGNMENT  # the header, the name, the padding's own header
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    return info


def _state_dict(tensors: Mapping[str, Tensor]) -> bytes:
    """The pickle (protocol 2) of an OrderedDict of the tensors; their storages' keys are their numbers."""
    items = b"".join(_text(name) + _rebuild(name, key, tensor) for key, (name, tensor) in enumerate(tensors.items()))
    return b"\x80\x02" + _ORDERED + b"(" + items + b"u."


def _rebuild(name: str, key: int, tensor: Tensor) -> bytes:
    """`torch._utils._rebuild_tensor_v2` of a contiguous tensor that fills its storage."""
    if tensor.dtype not in _CLASSES:
        raise MisfitError(f"{name}: PyTorch's storages hold no {tensor.dtype}")
    kind = _global("torch", _CLASSES[tensor.dtype])
    storage = _tuple(_text("storage"), kind, _text(str(key)), _text("cpu"), _int(prod(tensor.shape))) + b"Q"
    strides = [prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
    shape, steps = (_tuple(*map(_int, numbers)) for numbers in (tensor.shape, strides))
    arguments = _tuple(storage, _int(0), shape, steps, b"\x89", _ORDERED)
    return _global("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _int(number: int) -> bytes:
    """Four bytes where they are enough, eight where not."""
    return struct.pack("<ci", b"J", number) if number < 2**31 else struct.pack("<2sq", b"\x8a\x08", number)


_ORDERED = _global("collections", "OrderedDict") + b")R"
