"""What stands where in the object that PyTorch pickled: the values within dicts, lists, tuples and modules, by name.

**Modules.** `torch.save(model)` pickles the object itself: a call of its class (`copyreg.__newobj__`), which a stream
wraps into the persistent id ("module", class, source file, source), and as its state (the operation BUILD) the object's
`__dict__`. Three of that dict's entries hold what counts, each as a dict or an OrderedDict:

    _parameters   name → parameter, or None
    _buffers      name → tensor, or None
    _modules      name → module, or None

Beside them, `_non_persistent_buffers_set` (a set; older files lack it) names the buffers that the class makes anew and
a state dict leaves out. A state dict holds a module's parameters, then its buffers, then those of its modules with
their names before them, in the order of the dicts; what is None is left out, what is shared stands under each of its
names.

The class is a name that nothing looks up, so any class will do, whether it is installed here or not. Hence what a class
does to its pickle or its state dict by code of its own (`__setstate__`, hooks, extra state) is not followed, and
tensors that are plain attributes are left out, as a state dict leaves them out. A module among another's modules that
cannot be looked into is refused: its tensors would be lost unseen.

**State dicts.** What `state_dict()` gives is an OrderedDict with an attribute `_metadata`: a dict whose keys are the
names of all modules, the outermost "", also of those that hold no tensors. Of what class they are it does not say.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from densenet_port.errors import CorruptError, MisfitError
from densenet_port.formats.torch.pickle import DICT, Call, Global, Persistent

SCRIPT = "__torch__"  # what the dotted names of a TorchScript program's classes begin with
_DICTS = {DICT, Global("__builtin__", "dict")} | {
    Global("collections", name) for name in ("OrderedDict", "defaultdict")
}
_PARAMETERS, _BUFFERS, _MODULES = "_parameters", "_buffers", "_modules"
_LEFT_OUT = "_non_persistent_buffers_set"
_MAX_LEFT_OUT = 100  # buffers of one module; a module has a few
_MAX_NODES = 250_000  # values visited, and attributes looked at; a whole DenseNet-201 has some 40,000
_MAX_DEPTH = 64
_MAX_NAME = 512  # characters; the longest names seen have 90


class Module(NamedTuple):
    """A module met on the way: the dotted name of its class, and itself."""

    kind: str
    pickled: Any


class Described(NamedTuple):
    """A state dict met on the way that lists its modules: their names, from the outermost object on."""

    modules: tuple[str, ...]


def leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """Everything that is no dict, list or tuple, with its name: keys and indices joined by dots, in the file's order.

    A module comes as a `Module`, and after it what its state dict would hold; a state dict that lists its modules comes
    as a `Described`, and after it what it holds. What is shared comes once for each of its names. Raises CorruptError
    for what refers to itself, MisfitError for a module that cannot be looked into.
    """
    pending = [iter([("", tree)])]
    visits = 0
    while pending:
        if (entry := next(pending[-1], None)) is None:
            pending.pop()
            continue
        name, value = entry
        visits += 1 + _effort(value)
        if visits > _MAX_NODES or len(pending) > _MAX_DEPTH or len(name) > _MAX_NAME:
            raise CorruptError(f"the pickle nests without end, from {name[:80]!r} on")
        if (attributes := attributes_of(value)) is not None:
            yield name, Module(kind_of(value), value)
            pending.append(_named(name, _state(name, attributes)))
        elif (inner := branches(value)) is not None:
            if listed := _listed(value):
                visits += len(listed)
                if max(map(len, listed)) > _MAX_NAME:
                    raise CorruptError("a state dict lists a module whose name has no end")
                yield name, Described(tuple(f"{name}.{module}".strip(".") for module in listed))
            pending.append(_named(name, inner))
        else:
            yield entry


def _named(name: str, pairs: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Any]]:
    """The pairs of what is called `name`, under their full names."""
    before = f"{name}." if name else ""
    return ((f"{before}{_spell(key, index)}", item) for index, (key, item) in enumerate(pairs))


def branches(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """Keys and values inside of a dict, list or tuple; None for a leaf."""
    match value:
        case list() | tuple():
            return enumerate(value)
        case Call(Global(module, _), state=Call() as state) if module.startswith(SCRIPT):
            return state.pairs  # an object of a TorchScript program: tensors, other objects, and settings
        case Call(Global("collections", "OrderedDict"), (list(items),), _, []):
            return map(_pair, items)  # Python 2 gives them as the only argument
        case Call() if value.pairs or value.maker in _DICTS:
            return value.pairs
    return None


def _listed(value: Any) -> list[str]:
    """The names of its modules that a state dict lists."""
    state = value.state if isinstance(value, Call) else None
    held = dict(_text_pairs(state)) if isinstance(state, Call) else {}
    listed = held.get("_metadata")
    return [key for key, _ in _text_pairs(listed)] if isinstance(listed, Call) else []


def _text_pairs(value: Call) -> Iterable[tuple[str, Any]]:
    """The pairs of a dict whose keys are texts."""
    return ((key, held) for key, held in branches(value) or () if isinstance(key, str))


def _pair(item: Any) -> tuple[Any, Any]:
    """Key and value; what is no pair has no key that could be spelled."""
    return tuple(item) if isinstance(item, list | tuple) and len(item) == 2 else ((), item)  # a pair


def _spell(key: Any, index: int) -> str:
    """A key as part of a name; what has no spelling goes by its place."""
    if isinstance(key, bytes):
        return key.decode("latin-1")
    return str(key) if key is None or isinstance(key, str | int | float) else str(index)


def kind_of(leaf: Call | Global | Persistent) -> str:
    """`module.name` of the class or function that a leaf comes from."""
    match leaf:
        case Call(Global("torch.fx.graph_module")):
            return "torch.fx.graph_module.GraphModule"
        case Call(Global() as maker) | Call(Persistent(("module", Global() as maker, *_))):
            return str(maker)
        case (Global() as maker) | Persistent(("storage", Global() as maker, *_)):
            return str(maker)
        case _:
            return "a class that the file has within it"


# -- modules -----------------------------------------------------------------------------------------------------------


def _effort(value: Any) -> int:
    """How many attributes must be looked at to tell a module: they may be many, and met many times."""
    state = _dict_of(value)
    return len(state.pairs) if isinstance(state, Call) else 0


def _dict_of(value: Any) -> Any:
    """What was an object's `__dict__`: its state, or what the first argument of its maker says of it.

    A graph module's is that argument, a compiled module has the module itself there.
    """
    match value:
        case Call(Global("torch.fx.graph_module"), (Call() as body, *_)):
            return body
        case Call(Global("torch._dynamo.eval_frame", "OptimizedModule"), (inner, *_), None):
            parts = {_PARAMETERS: Call(DICT), _BUFFERS: Call(DICT), _MODULES: Call(DICT, pairs=[("_orig_mod", inner)])}
            return Call(DICT, pairs=[*parts.items()])
        case Call():
            return value.state
    return None


def attributes_of(value: Any) -> Mapping[str, Any] | None:
    """The attributes of a module; None for anything else."""
    state = _dict_of(value)
    if not isinstance(state, Call):
        return None
    attributes = {key: part for key, part in state.pairs if isinstance(key, str)}
    parts = (attributes.get(name) for name in (_PARAMETERS, _BUFFERS, _MODULES))
    return attributes if all(isinstance(part, Call) and part.maker in _DICTS for part in parts) else None


def _state(name: str, attributes: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Name and value of everything in the state dict of the module `name`, modules for their own state dicts.

    Raises CorruptError for a module that leaves out more than any does, MisfitError for one that cannot be looked into.
    """
    left_out = _left_out(name, attributes)
    yield from held(attributes[_PARAMETERS])
    for key, value in held(attributes[_BUFFERS]):
        yield key, None if key in left_out else value
    for key, module in held(attributes[_MODULES]):
        if module is not None and attributes_of(module) is None:
            kind = kind_of(module) if isinstance(module, Call) else type(module).__name__
            raise MisfitError(
                f"module {name!r}: its part {key!r} ({kind}) keeps its tensors in a way of its own",
                hint="in PyTorch, save `model.state_dict()`",
            )
        yield key, module


def held(value: Any) -> Iterable[tuple[str, Any]]:
    """Names and values in one of a module's dicts."""
    return ((key, item) for key, item in branches(value) or () if isinstance(key, str))


def _left_out(name: str, attributes: Mapping[str, Any]) -> frozenset[str]:
    """The names of the buffers that a state dict does not hold."""
    match attributes.get(_LEFT_OUT):
        case None:
            return frozenset()
        case Call(Global(_, "set"), (list() | tuple() as names,)) | Call(Global(_, "set"), (), _, _, names):
            pass
        case _:
            raise CorruptError(f"module {name!r}: its {_LEFT_OUT} is no set")
    if len(names) > _MAX_LEFT_OUT:
        raise CorruptError(f"module {name!r} leaves out {len(names)} buffers; none has so many")
    return frozenset(key for key in names if isinstance(key, str))
