"""MXNet's `.params` written by hand, after its source: arrays with names, in each form that it has had."""

import struct

import numpy as np

DENSE, NUMPY, FIRST = 0xF993FAC9, 0xF993FACA, 0xF993FAC8
TYPES = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6, "bool": 7}


def array(values, form=DENSE):
    """An array; `form` 0 is the oldest, which begins with the number of axes."""
    values = np.asarray(values)
    head = {DENSE: struct.pack("<Ii", DENSE, 0), NUMPY: struct.pack("<Ii", NUMPY, 0), FIRST: struct.pack("<I", FIRST)}
    lengths = struct.pack(f"<{values.ndim}{'q' if form else 'I'}", *values.shape)
    device = struct.pack("<2i", 1, 0)
    kind = struct.pack("<i", TYPES[values.dtype.name])
    return head.get(form, b"") + struct.pack("<I", values.ndim) + lengths + device + kind + values.tobytes()


def listed(arrays, names):
    """A file of arrays, as they stand in it, and names."""
    texts = [struct.pack("<Q", len(name)) + name.encode() for name in names]
    counts = [struct.pack("<Q", len(part)) for part in (arrays, names)]
    return struct.pack("<2Q", 0x112, 0) + counts[0] + b"".join(arrays) + counts[1] + b"".join(texts)


def written(state, form=DENSE):
    """A file of a dict of arrays."""
    return listed([array(value, form) for value in state.values()], list(state))
