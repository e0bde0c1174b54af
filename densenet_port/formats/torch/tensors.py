"""What PyTorch's pickles say: which tensors there are, under which names, and which part of which storage each one is.

A **storage** is a run of bytes outside of the pickle, named by a key. A tensor is a **view**: an offset into a storage,
a shape, and a stride for each axis, all in elements. Storages may be shared; views may overlap, be transposed, or
repeat an axis with a stride of 0. The pickle spells a storage as the persistent id

    ("storage", storage class, key, device, length [, None | (view key, offset, length)])

with lengths in elements of the class (the last item is in streams only: a window on the storage), and a tensor as

    torch._utils._rebuild_tensor        (storage, offset, shape, strides)
    torch._utils._rebuild_tensor_v2     (storage, offset, shape, strides, requires_grad, hooks [, metadata])
    torch._utils._rebuild_tensor_v3     (untyped storage, offset, shape, strides, requires_grad, hooks, dtype, …)
    torch._tensor._rebuild_from_type_v2 (one of these names, type, its arguments, state)
    torch.FloatTensor …                 () with the state (storage, offset, shape, strides), before 2017

each perhaps within a parameter: `torch._utils._rebuild_parameter`, `…_with_state`, `torch.nn.parameter.Parameter` or
`torch.autograd.variable.Variable`. Quantised, sparse, nested and 8-bit floating tensors are refused.
"""

from collections.abc import Mapping
from math import prod
from operator import mul
from typing import Any, NamedTuple

from densenet_port.errors import CorruptError, MisfitError
from densenet_port.formats.source import stored
from densenet_port.formats.torch.modules import kind_of
from densenet_port.formats.torch.pickle import Call, Global, Persistent

# Storage class → type of its elements. A storage without a type counts bytes.
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
_DTYPES = {*STORAGES.values(), "uint16", "uint32", "uint64"}  # of elements that are plain numbers

_PLAIN = "in PyTorch, make it a plain tensor (`dequantize()`, `to_dense()`, `float()`) and save it again"
_SIZE = Global("torch", "Size")
_READABLE = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter"}
_LISTS = (list, tuple)
_SCALARS = (str, int, float)
MAX_AXES = 32  # numpy 1's own limit
_MAX_REPEATED = 2**27  # elements of a tensor that repeats its storage; DenseNet-264's largest kernel has 2**22
_MAX_WRAPS = 8  # a parameter of a variable of a tensor


class Storage(NamedTuple):
    """A storage, or the window `begin` … `end` of it: all in bytes, `size` being the whole."""

    key: str
    dtype: str
    size: int
    begin: int
    end: int


class View(NamedTuple):
    """A tensor: offset, shape and strides in elements of `dtype`."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def reach(self) -> int:
        """Elements from the first to the last that the tensor touches."""
        return 1 + sum(map(mul, self.shape, self.strides)) - sum(self.strides) if prod(self.shape) else 0


def storage_of(reference: Persistent) -> Storage | None:
    """The storage that a persistent id names; None for another kind of id.

    Raises MisfitError for elements that are no plain numbers, CorruptError for a window outside of the storage.
    """
    match reference.id:
        case ("storage", Global(_, kind), str(key), _, int(length)):
            window = None
        case ("storage", Global(_, kind), str(key), _, int(length), window):
            pass
        case _:
            return None
    if kind not in STORAGES:
        raise MisfitError(f"storage {key!r} is a {kind}, which holds no plain numbers", hint=_PLAIN)
    return make_storage(key, STORAGES[kind], length, window)


def make_storage(key: str, dtype: str, length: int, window: Any) -> Storage:
    """A storage of `length` elements, of which `window` (any key, offset, length) is seen; None for all of it."""
    size = stored(dtype).itemsize
    match window:
        case None:
            begin, end = 0, length
        case (_, int(begin), int(count)):
            end = begin + count
        case _:
            begin, end = 0, -1
    if not 0 <= begin <= end <= length:
        raise CorruptError(f"storage {key!r} of {length} elements cannot have the window {begin} … {end}")
    return Storage(key, dtype, size * length, size * begin, size * end)


def view_of(name: str, leaf: Any, outside: Mapping[str, View]) -> View | None:
    """The tensor that a leaf is; None for anything else. `outside` holds tensors that the pickle names by an id.

    Raises CorruptError for a tensor that does not lie in its storage, MisfitError for one that is no plain array.
    """
    if (parts := _parts(leaf)) is None:
        inner = _unwrap(leaf)
        if isinstance(inner, Persistent) and isinstance(inner.id, _SCALARS):
            return _outside(name, str(inner.id), outside)
        if (parts := _parts(inner)) is None:
            _refuse_other_tensors(name, inner)
            return None
    reference, dtype, offset, shape, strides = parts
    storage = storage_of(reference)
    if storage is None:
        raise CorruptError(f"{name}: a tensor without a storage")
    return make_view(name, storage, dtype, (offset, shape, strides))


def _outside(name: str, key: str, outside: Mapping[str, View]) -> View:
    if key not in outside:
        raise CorruptError(f"{name}: there is no tensor {key[:50]!r}")
    return outside[key]


def make_view(name: str, storage: Storage, dtype: str | None, part: tuple[Any, Any, Any]) -> View:
    """The tensor `name` in a storage, by offset, shape and strides; `dtype` is None if it is the storage's.

    Raises CorruptError if it does not lie within, MisfitError for a type that numpy does not have.
    """
    if (dtype := dtype or storage.dtype) not in _DTYPES:
        raise MisfitError(f"{name}: a tensor of {dtype}, which holds no plain numbers", hint=_PLAIN)
    offset, shape, strides = part
    view = View(storage, dtype, offset, _counts(name, shape), _counts(name, strides))
    _check(name, view)
    return view


def _check(name: str, view: View) -> None:
    """Raise CorruptError unless the view lies in its storage's window, and its shape is no trap."""
    storage, _, offset, shape, strides = view
    length = (storage.end - storage.begin) // stored(view.dtype).itemsize
    if len(shape) != len(strides) or len(shape) > MAX_AXES or type(offset) is not int or offset < 0:
        raise CorruptError(f"{name}: {len(shape)} axes with {len(strides)} strides from element {offset}")
    reach = view.reach
    if reach and offset + reach > length:
        extent = f"shape {shape}, strides {strides} from element {offset}"
        raise CorruptError(f"{name}: {extent} reaches beyond storage {storage.key!r} of {length} elements")
    if prod(n or 1 for n in shape) > max(length, _MAX_REPEATED):
        raise CorruptError(f"{name}: shape {shape} is more than storage {storage.key!r} of {length} elements can fill")


def _unwrap(leaf: Any) -> Any:
    """The tensor inside of a parameter or a variable; anything else as it is."""
    for _ in range(_MAX_WRAPS):
        match leaf:
            case Call(Global("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state"), (inner, *_)):
                leaf = inner
            case Call(Global("torch._tensor", "_rebuild_from_type_v2"), (Global() as maker, _, tuple(args), _)):
                leaf = Call(maker, args)
            case Call(Global(_, "Parameter" | "Variable"), (), (inner, _, _, _, _)):
                leaf = inner
            case Call(Global(_, "Parameter" | "Variable"), (inner, *_)):
                leaf = inner
            case _:
                break
    return leaf


def _parts(leaf: Any) -> tuple[Persistent, str | None, Any, Any, Any] | None:
    """Storage, type if the storage does not tell it, offset, shape and strides; None for what is no tensor."""
    match leaf:
        case Call(
            Global("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2"),
            (Persistent() as storage, offset, shape, strides, *_),
        ):
            return storage, None, offset, shape, strides
        case Call(
            Global("torch._utils", "_rebuild_tensor_v3"),
            (Persistent() as storage, offset, shape, strides, _, _, Global("torch", dtype), *_),
        ):
            return storage, dtype, offset, shape, strides
        case Call(Global("torch" | "torch.cuda", kind), _, (Persistent() as storage, offset, shape, strides)) if (
            kind.endswith("Tensor")
        ):
            return storage, None, offset, shape, strides
    return None


def _refuse_other_tensors(name: str, leaf: Any) -> None:
    """Raise for what PyTorch would make a tensor of; it must not pass for something else."""
    match leaf:
        case Call(Global(_, maker)) if maker in _READABLE:
            raise CorruptError(f"{name}: {maker} with arguments that make no tensor")
        case Call(Global(_, maker)) if maker.startswith("_rebuild_"):
            raise MisfitError(f"{name}: a tensor that is no plain array ({kind_of(leaf)})", hint=_PLAIN)


def _counts(name: str, value: Any) -> tuple[int, ...]:
    """A shape or strides: whole numbers, none negative."""
    if isinstance(value, Call) and value.maker == _SIZE and len(value.args) == 1:
        value = value.args[0]
    if not isinstance(value, _LISTS) or not set(map(type, value)) <= {int} or min(value, default=0) < 0:
        raise CorruptError(f"{name}: shape and strides must be whole numbers from 0 on")
    return tuple(value)
