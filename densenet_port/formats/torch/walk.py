"""The object in one of PyTorch's checkpoints, walked through once: its tensors by name, its modules, and the rest.

`tree` is what `pickle` makes of a file, or what `formats.live` writes down of an object in memory in the same words;
how a leaf of it becomes a tensor is the caller's to say.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from densenet_port.checkpoint import Array, Tensor
from densenet_port.errors import CorruptError, MisfitError
from densenet_port.file_graph import FileGraph
from densenet_port.formats.bounds import TENSORS
from densenet_port.formats.source import located
from densenet_port.formats.torch.modules import Described, Module, kind_of, leaves
from densenet_port.formats.torch.pickle import Call, Global, Persistent

Take = Callable[[str, Any], Tensor | None]  # name and leaf → the tensor that it is; None for anything else

_MAX_MODULES = 100  # side by side; a checkpoint has one, or one and its average
_MAX_NOTES = 300  # values and opaque names kept
_MAX_KEYS = 3  # in the name of one that is kept
_MAX_TEXT = 1000  # characters of a value kept
_POOLS = {"BlurPool2d": "blur", "MaxPool2d": "max"}  # classes of modules that tell which pool a stem has
_QUANTISED = "in PyTorch, save the state dict of the network that was quantised"
_WRAPPING = "torch."  # modules of torch's own, such as DataParallel, which say nothing about the network inside


class Walk:
    """What was met on the way through an object: tensors by name, modules, and notes of the rest."""

    def __init__(self, tree: Any, take: Take) -> None:
        """Walk through. Raises CorruptError for two tensors of a name, and what `leaves` and `take` raise."""
        self.take = take
        self.tensors: dict[str, Tensor] = {}
        self.notes: dict[str, dict[str, Any]] = {"values": {}, "opaque": {}}
        self.owners = {"network": _Owners(), "wrapper": _Owners()}
        self.outermost: dict[str, Any] = {}
        self.last: str | None = None  # of these
        self.classes: dict[str, None] = {}
        self.described: list[str] = []  # modules that state dicts list
        for name, leaf in leaves(tree):
            self.meet(name, leaf)
        self.networks = {name: module for name, module in self.outermost.items() if _has_kernel(self.tensors, name)}

    def meet(self, name: str, leaf: Any) -> None:
        """One value. Raises CorruptError for a second tensor of a name."""
        if isinstance(leaf, Module):
            self.enter(name, leaf)
        elif isinstance(leaf, Described):
            self.described += leaf.modules
        elif tensor := self.take(name, leaf):
            if name in self.tensors or len(self.tensors) == TENSORS:
                raise CorruptError(f"two tensors are called {name!r}" if name in self.tensors else "too many tensors")
            self.tensors[name] = tensor
            for owner in self.owners.values():
                owner.hold(name)
        else:
            _note(self.notes, name, leaf)

    def enter(self, name: str, module: Module) -> None:
        """A module, which may be a part of another. Raises MisfitError for one whose weights are no plain tensors."""
        if ".quantized." in module.kind and module.kind.startswith(_WRAPPING):
            kind = f"{name}: a quantised module ({module.kind})"
            raise MisfitError(f"{kind}, whose weights are no plain arrays", hint=_QUANTISED)
        self.classes[module.kind] = None
        if self.last is None or not _is_inside(name, self.last):
            self.outermost[name], self.last = module.pickled, name
            if len(self.outermost) > _MAX_MODULES:
                raise CorruptError(f"more than {_MAX_MODULES} modules side by side; no checkpoint has so many")
        self.owners["wrapper" if module.kind.startswith(_WRAPPING) else "network"].enter(name, module)

    def metadata(self) -> dict[str, Any]:
        """What the object says beside its tensors."""
        metadata: dict[str, Any] = {**self.notes}
        if self.described:
            metadata["modules"] = tuple(self.described)
        if len(kinds := self.owners["network"].kinds or self.owners["wrapper"].kinds) == 1:
            metadata["module"] = next(iter(kinds))
        return metadata

    def of_modules(self) -> dict[str, Any]:
        """What the metadata say of modules that are kept whole."""
        names = {kind.rpartition(".")[2] for kind in self.classes}
        pools = [pool for kind, pool in _POOLS.items() if kind in names]
        if not self.networks:
            return {}
        return {
            "torch_module": next(iter(self.networks)) if len(self.networks) == 1 else "",
            "own_code": _has_own_code(self.classes),
            **({"pool": pools[0]} if pools else {}),
        }

    def graph(self, path: Path, traced: Any = None) -> Callable[[], FileGraph] | None:
        """What reads the graph of the modules that are kept whole; None without any.

        `traced` is the outermost one, where that is a live module of `torch.fx`, which has its graph itself.
        """
        return cache(partial(_graph, path, self.networks, self.take, traced)) if self.networks else None


def _is_inside(name: str, module: str) -> bool:
    """Whether what has a name is a part of a module."""
    return not module or name.startswith(f"{module}.")


def _has_kernel(tensors: Mapping[str, Tensor], module: str) -> bool:
    """Whether a module has a tensor that may be a convolution's."""
    return any(len(tensor.shape) == 4 and _is_inside(name, module) for name, tensor in tensors.items())  # o i h w


def _has_own_code(classes: Iterable[str]) -> bool:
    """Whether somebody's own class is among those of the modules."""
    from densenet_port.formats.torch.classes import LIBRARIES  # noqa: PLC0415 (as below)

    return any(kind.partition(".")[0] not in LIBRARIES for kind in classes)


def _graph(path: Path, networks: Mapping[str, Any], take: Take, traced: Any) -> FileGraph:
    """What the modules compute. Raises MisfitError and CorruptError."""
    from densenet_port.formats.torch.graph import read_graph  # noqa: PLC0415 (most files hold no modules)

    def shape(name: str, leaf: Any) -> tuple[int, ...] | None:
        tensor = take(name, leaf)
        return tensor.shape if tensor else None

    def load(name: str, leaf: Any) -> Array | None:
        tensor = take(name, leaf)
        return tensor.load() if tensor else None

    with located(path):
        if traced is None:
            return read_graph(networks, shape, load)
        from densenet_port.formats.torch.traced import read_traced  # noqa: PLC0415 (as above)

        return read_traced(traced, networks[""], shape, load)


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
