"""PyTorch's checkpoints (`.pth`, `.pt`, `.pth.tar`, `.ckpt` …), read and written without PyTorch.

Three containers hold a pickle and, beside it, the storages that its tensors are views of (`tensors` says how). The
ending of a file's name tells nothing.

**Zip** (since 1.6). Members of one folder: `data.pkl`; a storage under `data/<key>` for each key; perhaps `byteorder`
("little", which is also meant without it, or "big"), `version` and more that need not be known. As written, members
lie uncompressed; a checkpoint that was unpacked and packed again has them deflated, and is read as well. Sizes come
from the central directory, the place of a member's data from its local header. CRCs are not checked: PyTorch itself can
leave them out. A member
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

What is read: every tensor in the object, wherever it stands in dicts, lists, tuples and whole modules (`modules`),
under its keys and indices joined by dots; in a module, under the names of its state dict. In the metadata, `form` is
the container ("zip", "legacy" for a stream, "tar"), `values` has the plain numbers and texts beside the tensors,
`opaque` the classes of everything else, which is neither imported nor made; both hold a few hundred names of up to
three keys. `modules` has the names of all modules that state dicts list, those without tensors too; it is absent where
none lists any. Where whole modules hold tensors, `module` is the dotted name of the outermost one's class, torch's own
wrappers (DataParallel, Sequential …) left aside; it is absent where several such classes stand side by side. `pool` is
"blur" where a module blurs (timm's `BlurPool2d`), "max" where only maxima are taken. `torch_module` is the name of the
module that is kept whole, `own_code` says whether a class of somebody's own is in it. Arrays are read one by one when
they are asked for, with ordinary reads: measured, they take half the time of mapping the file, and a file that is cut
short meanwhile gives an error instead of a crash.

What is written: a zip of plain, contiguous tensors in an OrderedDict without `_metadata`, which `torch.load` takes with
`weights_only=True` and `mmap=True`, and a model with or without the norms' `num_batches_tracked`. Our record is one
more member, which PyTorch does not look at.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import prod
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np

from densenet_port.checkpoint import Array, Checkpoint, Tensor
from densenet_port.errors import CorruptError, MisfitError, PortError
from densenet_port.file_graph import FileGraph
from densenet_port.formats.bounds import TENSORS
from densenet_port.formats.source import AGAIN, Source, guarded, native, stored, stored_size, write_tensor
from densenet_port.formats.torch.containers import RECORD_MEMBER, Container, Order, open_container, sniff
from densenet_port.formats.torch.modules import Described, Module, kind_of, leaves
from densenet_port.formats.torch.pickle import Call, Global, Persistent
from densenet_port.formats.torch.tensors import STORAGES, View, view_of
from densenet_port.formats.zip import undated
from densenet_port.network.blueprint import Blueprint

__all__ = ["read", "sniff", "write"]

_MAX_MODULES = 100  # side by side; a checkpoint has one, or one and its average
_MAX_NOTES = 300  # values and opaque names kept
_MAX_KEYS = 3  # in the name of one that is kept
_MAX_TEXT = 1000  # characters of a value kept
_POOLS = {"BlurPool2d": "blur", "MaxPool2d": "max"}  # classes of modules that tell which pool a stem has
_WRAPPING = "torch."  # modules of torch's own, such as DataParallel, which say nothing about the network inside
_UNCHECKED = "it was written without checksums: a damaged bit in it cannot be told"
_ALIGNMENT = 64  # bytes, to which PyTorch aligns storages in a zip
_ROOT = "archive/"
# Type of elements → storage class that holds it, on writing.
_CLASSES = {dtype: kind for kind, dtype in STORAGES.items() if kind != "UntypedStorage"}


def read(path: Path) -> Checkpoint:
    """The checkpoint at `path`, arrays lazy. Raises CorruptError, MisfitError or DiskError."""
    source = Source.of_file(path)
    with guarded(path, "PyTorch file"), located(path):
        return _checkpoint(path, open_container(source))


@contextmanager
def located(path: Path) -> Iterator[None]:
    """Give errors the path that they lack: who interprets a pickle knows nothing of files."""
    try:
        yield
    except PortError as error:
        if str(path) in error.message:
            raise
        raise type(error)(f"{path}: {error.message}", hint=error.hint) from error


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    record: Callable[[], bytes],
    blueprint: Blueprint | None = None,  # noqa: ARG001 (who writes a graph reads it)
) -> None:
    """A zip of the tensors, in order, and of the record as it stands after the last was loaded.

    Raises MisfitError for a type that PyTorch's storages do not have. The same tensors give the same bytes.
    """
    program = _state_dict(tensors)
    with path.open("wb") as file, ZipFile(file, "w") as archive:

        def add(name: str, data: bytes) -> None:
            archive.writestr(_entry(name, file.tell(), len(data)), data)

        add("data.pkl", program)
        add("byteorder", b"little")
        for key, (name, tensor) in enumerate(tensors.items()):
            size = stored_size(tensor.shape, tensor.dtype)
            with archive.open(_entry(f"data/{key}", file.tell(), size), "w") as member:
                write_tensor(member, name, tensor)
        add("version", b"3\n")
        add(RECORD_MEMBER, record())


def tensors_of(path: Path, contents: Container) -> Mapping[str, Tensor]:
    """Name → tensor in a file's object. Raises CorruptError and MisfitError."""
    return _checkpoint(path, contents).tensors


def _checkpoint(path: Path, contents: Container) -> Checkpoint:
    """Name → tensor for what is one, and notes of the rest."""
    walk = _Walk(path, contents)
    for name, leaf in leaves(contents.tree):
        walk.meet(name, leaf)
    _check_lengths(contents)
    tensors, is_program = walk.tensors, contents.form == "torchscript"
    if not tensors and is_program:
        hint = "in PyTorch, save the module's `state_dict()` before `torch.jit.freeze`"
        raise MisfitError("a frozen TorchScript program, whose tensors have no names", hint=hint)
    if not tensors:
        raise CorruptError(_explain_no_tensors(walk.notes["opaque"]), hint="in PyTorch, save `model.state_dict()`")
    networks = {name: module for name, module in walk.outermost.items() if _has_kernel(tensors, name)}
    return Checkpoint(
        path=path,
        container="pth",
        tensors=tensors,
        metadata=walk.metadata() | _of_modules(networks, walk.classes, is_program=is_program),
        record=contents.record,
        graph=_graph_of(path, contents, networks, tensors),
    )


class _Walk:
    """What was met on the way through the object: tensors by name, modules, and notes of the rest."""

    def __init__(self, path: Path, contents: Container) -> None:
        self.path, self.contents = path, contents
        self.tensors: dict[str, Tensor] = {}
        self.notes: dict[str, dict[str, Any]] = {"values": {}, "opaque": {}}
        self.owners = {"network": _Owners(), "wrapper": _Owners()}
        self.outermost: dict[str, Any] = {}
        self.last: str | None = None  # of these
        self.classes: dict[str, None] = {}
        self.described: list[str] = []  # modules that state dicts list

    def meet(self, name: str, leaf: Any) -> None:
        """One value. Raises CorruptError for a second tensor of a name."""
        if isinstance(leaf, Module):
            self.enter(name, leaf)
        elif isinstance(leaf, Described):
            self.described += leaf.modules
        elif view := view_of(name, leaf, self.contents.outside):
            if name in self.tensors or len(self.tensors) == TENSORS:
                raise CorruptError(f"two tensors are called {name!r}" if name in self.tensors else "too many tensors")
            self.tensors[name] = make_tensor(self.path, name, view, self.contents)
            for owner in self.owners.values():
                owner.hold(name)
        else:
            _note(self.notes, name, leaf)

    def enter(self, name: str, module: Module) -> None:
        """A module, which may be a part of another."""
        self.classes[module.kind] = None
        if self.last is None or not _is_inside(name, self.last):
            self.outermost[name], self.last = module.pickled, name
            if len(self.outermost) > _MAX_MODULES:
                raise CorruptError(f"more than {_MAX_MODULES} modules side by side; no checkpoint has so many")
        self.owners["wrapper" if module.kind.startswith(_WRAPPING) else "network"].enter(name, module)

    def metadata(self) -> dict[str, Any]:
        """What the file says beside its tensors."""
        metadata: dict[str, Any] = {"form": self.contents.form, **self.notes}
        if not self.contents.has_checksums:
            metadata["notes"] = [_UNCHECKED]
        if self.described:
            metadata["modules"] = tuple(self.described)
        if len(kinds := self.owners["network"].kinds or self.owners["wrapper"].kinds) == 1:
            metadata["module"] = next(iter(kinds))
        return metadata


def _graph_of(
    path: Path, contents: Container, networks: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Callable[[], FileGraph] | None:
    """What gives the graph of a program, or of modules; None for a file that has neither."""
    if contents.form == "torchscript":
        return partial(_program, path, contents, {name: tensor.shape for name, tensor in tensors.items()})
    return partial(_graph, path, contents, networks) if networks else None


def _program(path: Path, contents: Container, shapes: Mapping[str, tuple[int, ...]]) -> FileGraph:
    """What a TorchScript program computes."""
    from densenet_port.formats.torch.script import read_graph  # noqa: PLC0415 (most files are no programs)

    with located(path):
        return read_graph(contents.tree, contents.code, shapes)


def _is_inside(name: str, module: str) -> bool:
    """Whether what has a name is a part of a module."""
    return not module or name.startswith(f"{module}.")


def _has_kernel(tensors: Mapping[str, Tensor], module: str) -> bool:
    """Whether a module has a tensor that may be a convolution's."""
    return any(len(tensor.shape) == 4 and _is_inside(name, module) for name, tensor in tensors.items())  # o i h w


def _of_modules(networks: Mapping[str, Any], classes: Iterable[str], *, is_program: bool) -> dict[str, Any]:
    """What the metadata say of modules that are kept whole, and of a program, which is all code."""
    if is_program:
        return {"torch_module": "", "own_code": True}
    names = {kind.rpartition(".")[2] for kind in classes}
    pools = [pool for kind, pool in _POOLS.items() if kind in names]
    if not networks:
        return {}
    return {
        "torch_module": next(iter(networks)) if len(networks) == 1 else "",
        "own_code": _has_own_code(classes),
        **({"pool": pools[0]} if pools else {}),
    }


def _has_own_code(classes: Iterable[str]) -> bool:
    """Whether somebody's own class is among those of the modules."""
    from densenet_port.formats.torch.classes import LIBRARIES  # noqa: PLC0415 (as below)

    return any(kind.partition(".")[0] not in LIBRARIES for kind in classes)


def _graph(path: Path, contents: Container, networks: Mapping[str, Any]) -> FileGraph:
    """What the modules compute. Raises MisfitError and CorruptError."""
    from densenet_port.formats.torch.graph import read_graph  # noqa: PLC0415 (most files hold no modules)

    def shape(name: str, leaf: Any) -> tuple[int, ...] | None:
        view = view_of(name, leaf, contents.outside)
        return view.shape if view else None

    def load(name: str, leaf: Any) -> Array | None:
        view = view_of(name, leaf, contents.outside)
        return make_tensor(path, name, view, contents).load() if view else None

    with located(path):
        return read_graph(networks, shape, load)


def _check_lengths(contents: Container) -> None:
    """Raise CorruptError for a storage that the file ends in, whoever needs it."""
    for key, size in contents.sizes.items():
        if contents.storages[key].size < size:
            raise _cut_short(key, size, contents.storages[key])


class _Owners:
    """The classes of the outermost modules that hold tensors, told as the file is walked through."""

    def __init__(self) -> None:
        self._before: str | None = None  # what the names inside of the latest outermost module begin with
        self._kind = ""
        self.kinds: dict[str, None] = {}

    def enter(self, name: str, module: Module) -> None:
        """A module begins, which may be a part of another."""
        if not self._within(name):
            self._before, self._kind = (f"{name}." if name else ""), module.kind

    def hold(self, name: str) -> None:
        """A tensor stands here."""
        if self._within(name):
            self.kinds[self._kind] = None

    def _within(self, name: str) -> bool:
        return self._before is not None and name.startswith(self._before)


def _note(notes: Mapping[str, dict[str, Any]], name: str, leaf: Any) -> None:
    """Keep what is worth showing: not an optimiser's every number, and no novels."""
    if isinstance(leaf, str | int | float):
        kept, value = notes["values"], leaf
    elif isinstance(leaf, Call | Global | Persistent):
        kept, value = notes["opaque"], kind_of(leaf)
    else:
        return
    if len(kept) < _MAX_NOTES and name.count(".") < _MAX_KEYS and len(str(value)) <= _MAX_TEXT:
        kept[name] = value


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
    return Tensor(view.shape, view.dtype, load, identity=view)


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
