"""Tensors in a plain pickle (`pickle.dump(model.state_dict(), file)`, Paddle's `.pdparams`), turned into PyTorch's own.

A plain pickle has the elements of its tensors inside: PyTorch's as a whole stream (see `pth`) for each storage, NumPy's
as bytes with their shape and type:

    torch.storage._load_from_bytes   (stream), where PyTorch's containers have the storage's persistent id
    numpy…multiarray._reconstruct    (ndarray, …), with the state (1, shape, dtype, fortran_order, bytes)
    numpy…numeric._frombuffer        (bytes, dtype, shape, order), in protocol 5
    numpy.dtype                      (type, …), with the state (3, byte order, …); bfloat16 is ml_dtypes' own type
    jax…array._reconstruct_array     (_reconstruct, its arguments, its state, …), as JAX pickles an array

All become calls that `tensors` knows, and the bytes storages. NumPy's arrays are taken where they are plain numbers and
little-endian, in either order; everything else stays as it is. All of the file is in memory as long as it is used.
"""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

from densenet_port.errors import CorruptError
from densenet_port.formats.torch.pickle import Call, Global, Persistent

Sizes = tuple[int, ...]
Streamed = tuple[Any, dict[str, bytes]]  # the object of a stream, and key → its storages
_PROTOCOLS = range(2, 6)  # those that say their number
_JOBLIB = b"joblib"  # whose pickles have arrays between the operations
_REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
_STORAGES = {  # NumPy's type → storage class, length of an element
    "f8": ("DoubleStorage", 8),
    "f4": ("FloatStorage", 4),
    "f2": ("HalfStorage", 2),
    "i8": ("LongStorage", 8),
    "i4": ("IntStorage", 4),
    "i2": ("ShortStorage", 2),
    "i1": ("CharStorage", 1),
    "u1": ("ByteStorage", 1),
    "b1": ("BoolStorage", 1),
}
_BFLOAT16 = ("BFloat16Storage", 2)


def is_plain(head: bytes) -> bool:
    """Whether a file begins as a pickle does that no library has put anything around."""
    return len(head) > 1 and head[0] == 0x80 and head[1] in _PROTOCOLS and _JOBLIB not in head


def taken_out(tree: Any, stream: Callable[[bytes], Streamed], limit: int) -> dict[str, bytes]:
    """Key → bytes of every storage inside of a pickle's object, whose tensors are made to refer to them.

    `stream` reads PyTorch's stream of a storage, `limit` is how many bytes all may have. Raises CorruptError for more.
    """
    storages: dict[str, bytes] = {}
    taken = 0
    references: dict[int, Persistent] = {}  # by the identity of the call, which tensors may share
    for call in list(_calls(tree)):
        match call.args:
            case (Call(Global("torch.storage", "_load_from_bytes"), (data,)) as inner, *rest):
                if id(inner) not in references:
                    references[id(inner)] = _storage(str(len(storages)), stream(_bytes(data)), storages)
                call.args = (references[id(inner)], *rest)
            case _ if array := _array(call):
                kind, data, shape, strides = array
                key = str(len(storages))
                storages[key] = data
                reference = Persistent(("storage", Global("torch", kind), key, "cpu", prod(shape)))
                call.maker, call.args, call.state = _REBUILD, (reference, 0, shape, strides), None
            case _:
                continue
        if (taken := taken + len(storages[f"{len(storages) - 1}"])) > limit:
            raise CorruptError(f"storages of {taken} bytes, at most {limit} are in the file")
    return storages


def _storage(key: str, streamed: Streamed, storages: dict[str, bytes]) -> Persistent:
    """The storage that is a stream's object, under another key. Raises CorruptError for any other object."""
    match streamed:
        case (Persistent(("storage", Global() as kind, str(inner), place, int(length), *_)), held) if inner in held:
            storages[key] = held[inner]
            return Persistent(("storage", kind, key, place, length))
    raise CorruptError("a plain pickle with a storage that is none")


def _calls(tree: Any) -> Iterator[Call]:
    """Every call in a pickle's object, once."""
    pending, seen = [tree], set[int]()
    while pending:
        value = pending.pop()
        if not isinstance(value, Call | list | tuple) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Call):
            yield value
            pending.extend((value.maker, value.args, value.state, value.elements))
            pending.extend(item for pair in value.pairs for item in pair)
        else:
            pending.extend(value)


def _array(call: Call) -> tuple[str, bytes, Sizes, Sizes] | None:
    """Storage class, bytes, shape and strides of an array of NumPy's or JAX's; None for anything else."""
    match call:
        case Call(Global(_, "_reconstruct"), (Global("numpy", "ndarray"), *_), (_, shape, kind, bool(turned), data)):
            pass
        case Call(Global(_, "_frombuffer"), (data, kind, shape, "C" | "F" as order)):
            turned = order == "F"
        case Call(
            Global(_, "_reconstruct_array"),
            (Global(_, "_reconstruct"), (Global("numpy", "ndarray"), *_), (_, shape, kind, bool(turned), data), *_),
        ):
            pass
        case _:
            return None
    match kind:
        case Call(Global("numpy", "dtype"), (str(name), *_), (_, "<" | "|", *_)) if name in _STORAGES:
            storage, length = _STORAGES[name]
        case Call(Global("numpy", "dtype"), (Global("ml_dtypes", "bfloat16"), *_), (_, "<" | "|", *_)):
            storage, length = _BFLOAT16
        case _:
            return None
    elements = _bytes(data)
    if not isinstance(shape, tuple) or any(type(size) is not int or size < 0 for size in shape):
        raise CorruptError("an array of NumPy's whose shape is none")
    if prod(shape) * length != len(elements):
        raise CorruptError(f"an array of NumPy's of shape {shape} with {len(elements)} bytes")
    places = range(len(shape))
    strides = tuple(prod(shape[:axis] if turned else shape[axis + 1 :]) for axis in places)
    return storage, elements, shape, strides


def _bytes(value: Any) -> bytes:
    """Bytes as any protocol has them: the older ones as text, or as a call that encodes it. Raises CorruptError."""
    match value:
        case bytes():
            return value
        case str(text) | Call(Global("_codecs", "encode"), (str(text), "latin1" | "latin-1")):
            return text.encode("latin-1", "replace")
    raise CorruptError("elements of a tensor that are no bytes")
