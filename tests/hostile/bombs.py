"""Bombs: small files that would take much time or memory from a reader that trusts what they claim.

Each is made by a function of this module, into a path that it is given; its name and docstring say what explodes.
"""

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from densenet_port.formats import protobuf as wire
from densenet_port.formats.tensorflow.crc32c import crc32c, masked
from tests.support import bundles

Bomb = Callable[[Path], object]
BOMBS: dict[str, Bomb] = {}
MANY = 1_000_000


def bomb(ending: str) -> Callable[[Bomb], Bomb]:
    """Note a function that writes a bomb, under its name and the ending of its file."""

    def noted(make: Bomb) -> Bomb:
        BOMBS[f"{make.__name__}.{ending.removeprefix('.')}"] = make
        return make

    return noted


# -- safetensors -------------------------------------------------------------------------------------------------------


def safetensors(path, text, data=b""):
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@bomb(".safetensors")
def a_header_of_many_entries(path):
    """1.2 million tensors without elements, in 80 MB."""
    entry = '"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    safetensors(path, b"{" + ",".join(entry % number for number in range(1_200_000)).encode() + b"}")


@bomb(".safetensors")
def a_header_of_empty_lists(path):
    """Three bytes that take seventy."""
    safetensors(path, b'{"__metadata__":[' + b"[]," * 25_000_000 + b"1]}")


@bomb(".safetensors")
def a_header_that_nests(path):
    """Lists in lists."""
    safetensors(path, b'{"a":' + b"[" * 5_000_000 + b"}")


@bomb(".safetensors")
def a_record_of_empty_objects(path):
    """A record that is a JSON text of 30 MB in a JSON text."""
    record = '{"schema":"densenet-port/file/2","tensors":[' + "{}," * 10_000_000 + "1]}"
    safetensors(path, json.dumps({"__metadata__": {"densenet_port": record}}).encode())


@bomb(".safetensors")
def a_shape_of_many_axes(path):
    """A million axes of length one."""
    shape = [1] * MANY
    safetensors(path, json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode(), b"0000")


@bomb(".safetensors")
def a_shape_whose_product_is_long(path):
    """The product of a hundred thousand lengths has a million digits; one of them is 0."""
    shape = [2**62] * 100_000 + [0]
    safetensors(path, json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode())


# -- pickles -----------------------------------------------------------------------------------------------------------

FLOAT = b"ctorch\nFloatStorage\n"
ORDERED = b"ccollections\nOrderedDict\n)R"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str, length: int) -> bytes:
    return b"(" + text("storage") + FLOAT + text(key) + text("cpu") + number(length) + b"tQ"


def view(stored: bytes, shape, strides, offset=0) -> bytes:
    arguments = stored + number(offset) + numbers(*shape) + numbers(*strides) + b"\x89" + ORDERED
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def pth(path, program: bytes, storages=None, compression=zipfile.ZIP_STORED):
    """A zip of PyTorch with a pickle, and key → bytes of its storages."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + program + b".")
        for key, data in (storages or {}).items():
            archive.writestr(f"x/data/{key}", data)


def entries(count: int, value: bytes) -> bytes:
    """A dict of `count` names, each of the same value."""
    return b"}(" + b"".join(text(f"t{place}") + value for place in range(count)) + b"u"


@bomb(".pth")
def one_storage_named_many_times(path):
    """A storage of a megabyte that is ninety thousand tensors."""
    once = view(storage("0", 2**18), [2**18], [1])
    first = text("first") + once + b"r\x01\x00\x00\x00"
    rest = b"".join(text(f"t{place}") + b"j\x01\x00\x00\x00" for place in range(90_000))
    pth(path, b"}(" + first + rest + b"u", {"0": bytes(2**20)})


@bomb(".pth")
def one_tensor_named_a_million_times(path):
    """A list that has the same tensor again and again."""
    pth(
        path,
        b"](" + view(storage("0", 4), [4], [1]) + b"r\x01\x00\x00\x00" + b"j\x01\x00\x00\x00" * MANY + b"e",
        {"0": bytes(16)},
    )


@bomb(".pth")
def a_stride_of_zero(path):
    """One number as a kernel of half a gigabyte."""
    pth(path, entries(1, view(storage("0", 1), [2**27], [0])), {"0": bytes(4)})


@bomb(".pth")
def a_stride_of_zero_for_many(path):
    """One number as sixty kernels of a hundred megabytes."""
    pth(path, entries(60, view(storage("0", 1), [25, 2**20], [0, 0])), {"0": bytes(4)})


@bomb(".pth")
def windows_that_overlap(path):
    """A storage of 64 MiB, and two hundred tensors that each see all of it but a number."""
    items = b"".join(text(f"t{place}") + view(storage("0", 2**24), [2**24 - 300], [1], place) for place in range(200))
    pth(path, b"}(" + items + b"u", {"0": bytes(2**26)}, zipfile.ZIP_DEFLATED)


@bomb(".pth")
def a_text_that_is_every_key(path):
    """A key of five megabytes, half a million times."""
    pth(path, b"](" + text("x" * 5_000_000) + b"r\x01\x00\x00\x000" + b"}j\x01\x00\x00\x00Ns" * 300_000 + b"e")


@bomb(".pth")
def modules_listed_by_one_long_name(path):
    """What a state dict lists of its modules: the same name of five megabytes, three hundred thousand times."""
    listed = b"}(" + text("x" * 5_000_000) + b"r\x01\x00\x00\x00N" + b"j\x01\x00\x00\x00N" * 300_000 + b"u"
    pth(path, b"ccollections\nOrderedDict\n)R}" + text("_metadata") + listed + b"sb")


@bomb(".pth")
def modules_side_by_side(path):
    """One module without anything, a hundred thousand times, beside ninety thousand tensors."""
    parts = b"".join(text(part) + b"}" for part in ("_parameters", "_buffers", "_modules"))
    module = b"cx\nNet\n)\x81}(" + parts + b"ubr\x01\x00\x00\x00"
    tensor = view(storage("0", 1), [1], [1]) + b"r\x02\x00\x00\x00"
    tensors = b"".join(text(f"t{place}") + b"j\x02\x00\x00\x00" for place in range(80_000))
    modules = b"](" + module + b"j\x01\x00\x00\x00" * 100_000 + b"e"
    pth(path, b"}(" + text("a") + tensor + tensors + text("modules") + modules + b"u", {"0": bytes(4)})


@bomb(".pth")
def steps_without_end(path):
    """Ten million numbers that are dropped again."""
    pth(path, b"K\x010" * 10_000_000 + b"N")


@bomb(".pth")
def marks_without_end(path):
    """Ten million parts of the stack."""
    pth(path, b"(" * 10_000_000)


@bomb(".pth")
def a_memo_of_everything(path):
    """Two million values that are kept."""
    pth(path, b"N" + b"\x94" * 5_000_000)


@bomb(".pth")
def calls_of_calls(path):
    """A call whose maker is a call whose maker is a call."""
    pth(path, b"ca\nb\n" + b")R" * 900_000)


@bomb(".pth")
def lists_that_double(path):
    """Two of two of two, sixty deep."""
    pth(path, b"]" + b"".join(b"q%c](h%ch%ce" % (place, place, place) for place in range(60)))


@bomb(".pth")
def a_bytearray_of_a_forged_length(path):
    """BYTEARRAY8 of eight exabytes."""
    pth(path, b"\x96" + struct.pack("<Q", 2**63 - 1))


@bomb(".pth")
def a_text_of_a_forged_length(path):
    """BINUNICODE8 of a terabyte."""
    pth(path, b"\x8d" + struct.pack("<Q", 2**40))


@bomb(".pth")
def an_integer_of_a_forged_length(path):
    """LONG4 of two gigabytes."""
    pth(path, b"\x8b" + struct.pack("<i", 2**31 - 1))


@bomb(".pth")
def an_integer_of_megabytes(path):
    """LONG4 of ten megabytes, all there: as digits it would take hours."""
    pth(path, b"\x8b" + struct.pack("<i", 10_000_000) + b"\x7f" * 10_000_000)


@bomb(".pth")
def digits_of_megabytes(path):
    """LONG of ten million digits."""
    pth(path, b"L" + b"9" * 10_000_000 + b"L\n")


@bomb(".pth")
def a_frame_of_a_forged_length(path):
    """FRAME of an exabyte, and nothing in it."""
    pth(path, b"\x95" + struct.pack("<Q", 2**60))


@bomb("plain.pkl")
def one_text_as_many_arrays(path):
    """A plain pickle: ten megabytes that are five thousand of NumPy's arrays, by name."""
    kind = (
        b"cnumpy\ndtype\n("
        + text("f4")
        + b"K\x00K\x01tR(K\x03"
        + text("<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    data = b"B" + struct.pack("<I", 10**7) + bytes(10**7)
    once = b"cnumpy.core.numeric\n_frombuffer\n(h\x01h\x02" + numbers(2_500_000) + text("C") + b"tR"
    path.write_bytes(b"\x80\x05" + data + b"q\x010" + kind + b"q\x020" + entries(5_000, once) + b".")


@bomb("plain.pkl")
def one_stream_as_many_storages(path):
    """A plain pickle: one of PyTorch's streams of ten megabytes, read four thousand times."""
    inner = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {}):
        pickle.dump(part, inner, 2)
    inner.write(b"\x80\x02" + storage("0", 2_500_000) + b"." + pickle.dumps(["0"], 2) + struct.pack("<q", 2_500_000))
    data = inner.getvalue() + bytes(10**7)
    load = b"ctorch.storage\n_load_from_bytes\n(h\x01tR"
    once = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + load + b"K\x00" + numbers(4) + numbers(1) + b"\x89" + ORDERED + b"tR"
    )
    path.write_bytes(
        b"\x80\x03"
        + text("no stream" * 9)
        + b"0B"
        + struct.pack("<I", len(data))
        + data
        + b"q\x010"
        + entries(4_000, once)
        + b"."
    )


# -- streams and tars --------------------------------------------------------------------------------------------------


@bomb("stream.pth")
def a_stream_of_a_forged_count(path):
    """A storage of 2⁶⁰ elements."""
    parts = [0x1950A86A20F9469CFC6C, 1001, {}]
    head = b"".join(pickle.dumps(part, 2) for part in parts)
    tree = b"\x80\x02" + entries(1, view(storage("0", 2**60), [2**60], [1])) + b"."
    path.write_bytes(head + tree + pickle.dumps(["0"], 2) + struct.pack("<q", 2**60))


@bomb("stream.pth")
def a_stream_of_many_keys(path):
    """A list of a million keys that are one."""
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))
    tree = b"\x80\x02" + entries(1, view(storage("0", 4), [4], [1])) + b"."
    keys = b"\x80\x02](" + text("0") + b"q\x01" + b"h\x01" * 900_000 + b"e."
    path.write_bytes(head + tree + keys + (struct.pack("<q", 4) + bytes(16)))


def tar(path, members):
    """A tar of name → bytes, of the oldest form."""
    with path.open("wb") as file:
        for name, data in members.items():
            header = name.encode().ljust(100, b"\0") + b"0000644\0" * 3 + b"%011o\0" % len(data) + b"0" * 12
            file.write((header.ljust(156, b" ") + b"0" + bytes(100) + b"ustar  \0").ljust(512, b"\0"))
            file.write(data + bytes(-len(data) % 512))
        file.write(bytes(1024))


@bomb("tar.pth")
def a_tar_of_many_members(path):
    """Two hundred thousand files without anything."""
    header = b"a".ljust(124, b"\0") + b"%011o\0" % 0
    header = (header.ljust(257, b"\0") + b"ustar").ljust(512, b"\0")
    path.write_bytes(header * 200_000)


@bomb("tar.pth")
def a_tar_that_counts_storages_without_end(path):
    """Ten to the eighteenth, of which half a million are there and hold nothing."""
    entry = b"\x80\x02" + b"(" + text("0") + text("cpu") + FLOAT + b"t." + struct.pack("<q", 0)
    tar(path, {"storages": pickle.dumps(10**18, 2) + entry * 500_000, "tensors": b"", "pickle": b""})


@bomb("tar.pth")
def a_tar_of_many_windows(path):
    """A million windows on one storage."""
    entry = b"\x80\x02" + b"(" + text("0") + text("cpu") + FLOAT + b"t." + struct.pack("<q", 1) + bytes(4)
    windows = b"\x80\x02](" + b"(" + text("1") + text("0") + b"K\x00K\x01tq\x01" + b"h\x01" * 800_000 + b"e."
    tar(path, {"storages": pickle.dumps(1, 2) + entry + windows, "tensors": pickle.dumps(0, 2), "pickle": b"N."})


# -- zips --------------------------------------------------------------------------------------------------------------


@bomb(".pth")
def a_zip_of_many_members(path):
    """Sixty thousand files without anything."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}.")
        for place in range(60_000):
            archive.writestr(zipfile.ZipInfo(f"x/data/{place}"), b"")


@bomb(".pth")
def a_storage_of_deflated_zeros(path):
    """A gigabyte in one."""
    pth(path, entries(1, view(storage("0", 2**28), [2**28], [1])), {"0": bytes(2**30)}, zipfile.ZIP_DEFLATED)


@bomb(".pth")
def many_storages_of_deflated_zeros(path):
    """A hundred of a hundred megabytes; each of them by itself is possible."""
    items = b"".join(
        text(f"t{place}") + view(storage(str(place), 25_000_000), [25_000_000], [1]) for place in range(100)
    )
    zeros = bytes(100_000_000)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    once = packer.compress(zeros) + packer.flush()
    members = {"x/data.pkl": (b"\x80\x02}(" + items + b"u.", None)} | {f"x/data/{n}": (once, zeros) for n in range(100)}
    raw_zip(path, members)


def raw_zip(path, members):
    """A zip of name → deflated bytes and what they hold, or stored bytes and None, written without deflating again."""
    directory, offset = b"", 0
    sums: dict[int, int] = {}
    with path.open("wb") as file:
        for name, (data, whole) in members.items():
            content = data if whole is None else whole
            if id(content) not in sums:
                sums[id(content)] = zlib.crc32(content)
            method = 0 if whole is None else 8
            numbers_ = struct.pack("<5H3I", 20, 0, method, 0, 33, sums[id(content)], len(data), len(content))
            spelled = name.encode()
            file.write(b"PK\3\4" + numbers_ + struct.pack("<2H", len(spelled), 0) + spelled + data)
            directory += b"PK\1\2\24\0" + numbers_ + struct.pack("<5H2I", len(spelled), 0, 0, 0, 0, 0, offset) + spelled
            offset += 30 + len(spelled) + len(data)
        count = len(members)
        file.write(directory + b"PK\5\6" + struct.pack("<4H2IH", 0, 0, count, count, len(directory), offset, 0))


@bomb(".pth")
def members_that_overlap(path):
    """A thousand names for one member of a megabyte, which is named as each asks."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}.")
        archive.writestr("x/data/0", bytes(100_000_000))
    data = path.read_bytes()
    at = data.index(b"PK\1\2", data.index(b"PK\1\2") + 4)
    end = data.index(b"PK\5\6")
    entry = data[at:end]
    first = data[data.index(b"PK\1\2") : at]
    directory = first + b"".join(entry.replace(b"x/data/0", b"x/data/%d" % (place % 10)) for place in range(1000))
    tail = b"PK\5\6" + struct.pack("<4H2IH", 0, 0, 1001, 1001, len(directory), data.index(b"PK\1\2"), 0)
    path.write_bytes(data[: data.index(b"PK\1\2")] + directory + tail)


@bomb(".keras")
def weights_of_deflated_zeros(path):
    """An archive of Keras whose weights are a gigabyte of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", '{"config":{"layers":[]}}')
        archive.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n" + bytes(2**30 - 8))


@bomb(".keras")
def a_config_of_empty_objects(path):
    """Sixty megabytes of them, deflated to a hundred kilobytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", '{"config":{"layers":[' + "{}," * 20_000_000 + "{}]}}")
        archive.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n")


@bomb(".keras")
def models_within_models(path):
    """A configuration ten thousand deep."""
    config = '{"config":{"layers":[' * 10_000 + "]}}" * 10_000
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n")


@bomb(".pt2")
def a_program_of_empty_objects(path):
    """An exported program whose graph is sixty megabytes of nothing."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/models/model.json", '{"graph_module":[' + "{}," * 20_000_000 + "{}]}")
        archive.writestr("x/data/weights/model_weights_config.json", '{"config":{}}')


@bomb(".pt2")
def one_member_as_many_weights(path):
    """An exported program whose thousand weights are one member of ten megabytes."""
    sizes, one = [{"as_int": 2_500_000}], [{"as_int": 1}]
    meta = {"dtype": 7, "sizes": sizes, "strides": one, "storage_offset": {"as_int": 0}}
    entry = {"path_name": "weight_0", "use_pickle": False, "tensor_meta": meta}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/models/model.json", "{}")
        config = {"config": {f"t{place}": entry for place in range(1000)}}
        archive.writestr("x/data/weights/model_weights_config.json", json.dumps(config))
        archive.writestr("x/data/weights/weight_0", bytes(10**7))


@bomb(".npz")
def arrays_of_deflated_zeros(path):
    """A hundred of a hundred megabytes."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (25_000_000,)})
    whole = head.getvalue() + bytes(100_000_000)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    once = packer.compress(whole) + packer.flush()
    raw_zip(path, {f"a{place}.npy": (once, whole) for place in range(100)})


@bomb(".npz")
def an_array_header_of_a_forged_length(path):
    """Version 2, four gigabytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + bytes(10_000))


@bomb(".npz")
def an_array_shape_of_digits(path):
    """A length of nine thousand digits."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 9000 + b",), }\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)


# -- protobuf ----------------------------------------------------------------------------------------------------------


@bomb(".onnx")
def messages_ten_thousand_deep(path):
    """A model whose graph is a graph's node's attribute's graph, and so on."""
    inner = b""
    for _ in range(10_000):
        inner = wire.data(1, wire.data(5, wire.data(6, inner)))[:10_000_000]
    path.write_bytes(wire.integer(1, 8) + wire.data(7, inner))


@bomb(".onnx")
def groups_ten_thousand_deep(path):
    """The obsolete kind of message."""
    path.write_bytes(
        wire.integer(1, 8) + wire.data(7, wire.varint(1 << 3 | 3) * 10_000 + wire.varint(1 << 3 | 4) * 10_000)
    )


@bomb(".onnx")
def nodes_without_end(path):
    """A million empty nodes in two megabytes."""
    path.write_bytes(wire.integer(1, 8) + wire.data(7, wire.data(1, b"") * MANY))


@bomb(".onnx")
def fields_that_nobody_knows(path):
    """Nine hundred thousand of them."""
    path.write_bytes(wire.integer(1, 8) + wire.integer(2000, 1) * 900_000 + wire.data(7, b""))


@bomb(".onnx")
def a_constant_that_is_repeated(path):
    """ConstantOfShape of a gigabyte, as a kernel."""
    shape = wire.data(
        5,
        wire.integer(2, 7)
        + wire.integers(1, [4])
        + wire.text(8, "s")
        + wire.data(9, np.array([64, 2**18, 4, 4]).tobytes()),
    )
    make = wire.data(1, wire.text(1, "s") + wire.text(2, "w") + wire.text(4, "ConstantOfShape"))
    conv = wire.data(1, wire.text(1, "x") + wire.text(1, "w") + wire.text(2, "y") + wire.text(4, "Conv"))
    path.write_bytes(
        wire.integer(1, 8)
        + wire.data(7, make + conv + shape + wire.data(11, wire.text(1, "x")) + wire.data(12, wire.text(1, "y")))
    )


@bomb(".onnx")
def an_initialiser_of_a_forged_shape(path):
    """2⁶² elements in four bytes."""
    tensor = wire.integers(1, [2**31, 2**31]) + wire.integer(2, 1) + wire.text(8, "w") + wire.data(9, bytes(4))
    path.write_bytes(wire.integer(1, 8) + wire.data(7, wire.data(5, tensor)))


@bomb(".onnx")
def one_file_beside_as_many_tensors(path):
    """A thousand initialisers that are the same ten megabytes of a file beside the model."""
    path.with_name("beside.bin").write_bytes(bytes(10**7))
    place = wire.data(13, wire.text(1, "location") + wire.text(2, "beside.bin"))
    rest = wire.integers(1, [2_500_000]) + wire.integer(2, 1) + place + wire.integer(14, 1)
    tensors = b"".join(wire.data(5, wire.text(8, f"t{number}") + rest) for number in range(1000))
    path.write_bytes(wire.integer(1, 8) + wire.data(7, tensors))


@bomb(".caffemodel")
def layers_without_end(path):
    """Half a million layers with a name."""
    path.write_bytes(wire.data(100, wire.text(1, "a")) * 500_000)


@bomb(".caffemodel")
def a_blob_of_a_forged_length(path):
    """Floats of eight exabytes."""
    blob = wire.head(5, 2**62)
    path.write_bytes(wire.data(100, wire.text(1, "a") + wire.text(2, "Convolution") + wire.data(7, blob)))


@bomb(".caffemodel")
def a_blob_in_pieces(path):
    """Three hundred thousand pieces of a number."""
    blob = b"".join([wire.data(5, bytes(4))] * 300_000) + wire.data(7, wire.integers(1, [300_000]))
    path.write_bytes(wire.data(100, wire.text(1, "a") + wire.text(2, "Convolution") + wire.data(7, blob)))


def beside_caffe(path, text_):
    """A caffemodel of one layer with a text beside it."""
    blob = wire.data(5, bytes(16)) + wire.data(7, wire.integers(1, [4]))
    path.write_bytes(wire.data(100, wire.text(1, "a") + wire.text(2, "Convolution") + wire.data(7, blob)))
    path.with_suffix(".prototxt").write_bytes(text_)


@bomb(".caffemodel")
def a_prototxt_of_many_fields(path):
    """Half a million of them in two megabytes."""
    beside_caffe(path, b"a:1 " * 500_000)


@bomb(".caffemodel")
def a_prototxt_that_nests(path):
    """A million messages within each other."""
    beside_caffe(path, b"a{" * MANY)


@bomb(".caffemodel")
def a_prototxt_of_texts_in_a_row(path):
    """A text that is half a million texts."""
    beside_caffe(path, b"a:" + b'"b" ' * 500_000)


@bomb(".caffemodel")
def a_prototxt_of_spaces_and_comments(path):
    """Two megabytes that say nothing."""
    beside_caffe(path, b"#\n" * 1_000_000)


# -- HDF5 --------------------------------------------------------------------------------------------------------------


@bomb(".h5")
def a_dataset_of_deflated_zeros(path):
    """Eight gigabytes in one, in eight megabytes."""
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/conv2d/vars/0", (2**31,), "f4", chunks=(2**24,), compression="gzip")
        chunk = zlib.compress(bytes(2**26), 9)
        for place in range(128):
            file["layers/conv2d/vars/0"].id.write_direct_chunk((place * 2**24,), chunk)


@bomb(".h5")
def many_datasets_of_deflated_zeros(path):
    """Forty of a hundred megabytes."""
    chunk = zlib.compress(bytes(10**8), 9)
    with h5py.File(path, "w") as file:
        for place in range(40):
            name = f"layers/conv2d_{place}/vars/0"
            file.create_dataset(name, (25 * 10**6,), "f4", chunks=(25 * 10**6,), compression="gzip")
            file[name].id.write_direct_chunk((0,), chunk)


@bomb(".h5")
def a_dataset_of_tiny_chunks(path):
    """A million chunks of one byte."""
    with h5py.File(path, "w", libver="earliest") as file:
        file.create_dataset("layers/conv2d/vars/0", (150_000,), "u1", chunks=(1,), data=np.zeros(150_000, "u1"))


@bomb(".h5")
def groups_that_are_linked_to_each_other(path):
    """Each of sixty groups has the next one twice."""
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(60):
            inner = group.create_group("a")
            group["b"] = inner
            group = inner


@bomb(".h5")
def a_group_within_itself(path):
    """A hard link to the group that it stands in."""
    with h5py.File(path, "w") as file:
        file["a"] = file["/"]


@bomb(".h5")
def one_dataset_of_many_names(path):
    """Ten thousand hard links to a megabyte."""
    with h5py.File(path, "w") as file:
        file["layers/conv2d/vars/0"] = np.zeros(2**18, "f4")
        for place in range(10_000):
            file[f"layers/conv2d/vars/{place + 1}"] = file["layers/conv2d/vars/0"]


@bomb(".h5")
def names_that_share_a_heap(path):
    """Four thousand names, each of which is a megabyte of one heap."""
    with h5py.File(path, "w", libver="earliest") as file:
        for place in range(4_000):
            file[f"{place:06d}"] = np.float32(0)
        file["x" * 60_000] = np.float32(0)
    data = bytearray(path.read_bytes())
    heap = data.rindex(b"HEAP")
    grown = len(data)
    data += b"y" * 8_000_000 + b"\0"
    struct.pack_into("<Q", data, heap + 8, 8_000_001)
    struct.pack_into("<Q", data, heap + 24, grown)
    at = data.find(b"SNOD")
    while at >= 0:
        (count,) = struct.unpack_from("<H", data, at + 6)
        for place in range(count):
            struct.pack_into("<Q", data, at + 8 + 40 * place, place)
        at = data.find(b"SNOD", at + 4)
    struct.pack_into("<Q", data, 40, len(data))
    path.write_bytes(data)


@bomb(".h5")
def names_of_layers_that_share_a_heap(path):
    """An attribute of four thousand texts, each of which is the same four megabytes."""
    with h5py.File(path, "w", libver="earliest") as file:
        file.attrs["layer_names"] = np.array(["z" * 60_000] + ["a"] * 4_000, object)
    data = bytearray(path.read_bytes())
    grown = len(data)
    size = 4_000_000
    data += b"GCOL\1\0\0\0" + struct.pack("<QHH4xQ", size + 32, 1, 1, size) + b"y" * size
    first = data.index(struct.pack("<I", 60_000), data.index(b"layer_names\0"))
    for place in range(4_001):
        struct.pack_into("<IQI", data, first + 16 * place, size, grown, 1)
    struct.pack_into("<Q", data, 40, len(data))
    path.write_bytes(data)


@bomb(".h5")
def a_header_that_goes_on_in_itself(path):
    """An object header's continuation is its own first block."""
    with h5py.File(path, "w", libver="earliest") as file:
        for place in range(40):
            file.attrs[f"a{place}"] = "b" * 200
    data = bytearray(path.read_bytes())
    (root,) = struct.unpack_from("<Q", data, 64)
    at = data.index(struct.pack("<HHB", 16, 16, 0), root) + 8
    struct.pack_into("<QQ", data, at, root + 16, 256)
    path.write_bytes(data)


@bomb(".h5")
def a_tree_within_itself(path):
    """A node of a B-tree whose child is the node."""
    with h5py.File(path, "w", libver="earliest") as file:
        for place in range(2000):
            file[f"{place:05d}"] = np.float32(0)
    data = bytearray(path.read_bytes())
    at = data.find(b"TREE")
    while at >= 0:
        if data[at + 5]:
            struct.pack_into("<Q", data, at + 32, at)
        at = data.find(b"TREE", at + 4)
    path.write_bytes(data)


@bomb(".h5")
def a_heap_of_a_forged_length(path):
    """Names in a local heap of an exabyte."""
    with h5py.File(path, "w", libver="earliest") as file:
        file["a"] = np.float32(0)
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, data.index(b"HEAP") + 8, 2**60)
    path.write_bytes(data)


@bomb("latest.h5")
def a_newer_file_of_deflated_zeros(path):
    """As above, in the form that h5py reads for us."""
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("layers/conv2d/vars/0", (2**29,), "f4", chunks=(2**24,), compression="gzip")
        chunk = zlib.compress(bytes(2**26), 9)
        for place in range(32):
            file["layers/conv2d/vars/0"].id.write_direct_chunk((place * 2**24,), chunk)


# -- TensorFlow and MXNet ----------------------------------------------------------------------------------------------


def table(path, block):
    """A table of one block, and a file of data beside it."""
    path.with_suffix(".data-00000-of-00001").write_bytes(bytes(10**7))
    put, handles = b"", []
    for content in (block, bundles.block({})):
        handles.append(wire.varint(len(put)) + wire.varint(len(content)))
        put += content + b"\0" + struct.pack("<I", masked(crc32c(content + b"\0")))
    top = bundles.block({b"~": handles[0]})
    handles.append(wire.varint(len(put)) + wire.varint(len(top)))
    put += top + b"\0" + struct.pack("<I", masked(crc32c(top + b"\0")))
    path.write_bytes(put + (handles[1] + handles[2]).ljust(40, b"\0") + bundles.FOOTER)


@bomb(".index")
def keys_that_share_megabytes(path):
    """A key of a megabyte, and two hundred thousand that are it and a byte."""
    first = b"\0" + wire.varint(10**6) + b"\0" + b"x" * 10**6
    table(path, first + (wire.varint(10**6) + b"\1\0y") * 150_000 + struct.pack("<2I", 0, 1))


@bomb(".index")
def entries_of_a_table_without_end(path):
    """Two hundred thousand tensors without anything."""
    keys = (b"\0\6\0%06d" % number for number in range(200_000))
    table(path, b"".join(keys) + struct.pack("<2I", 0, 1))


@bomb(".index")
def one_part_of_the_data_as_many_tensors(path):
    """Two thousand tensors that are the same ten megabytes."""
    entry = bundles.entry(np.zeros(2_500_000, "f4"))
    entries_ = {b"": wire.integer(1, 1)} | {b"t%04d" % number: entry for number in range(2000)}
    table(path, bundles.block(entries_))


@bomb(".params")
def arrays_without_end(path):
    """A million empty ones."""
    path.write_bytes(struct.pack("<3Q", 0x112, 0, MANY) + bytes(4 * MANY) + struct.pack("<Q", MANY))
