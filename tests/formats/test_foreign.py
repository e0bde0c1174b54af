"""Files that are no checkpoint: each is called by its name, with the next step, and no reader mistakes it.

What TensorFlow, Keras, PyTorch, NumPy, joblib and the packers write is written by them; the rest are heads written by
hand after the formats' descriptions, `HEADS` and `TEXTS`.
"""

import bz2
import gzip
import io
import lzma
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import joblib
import numpy as np
import pytest
import scipy.io
import torch
import torch.distributed.checkpoint as distributed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from densenet_port import formats
from densenet_port.conversion.load import read
from densenet_port.errors import CorruptError, MisfitError, PortError
from densenet_port.formats import foreign
from densenet_port.formats.protobuf import data, integer, message, text

NOTHING_BACK = "nothing leads back from it: convert the checkpoint that it was made from"
PACKED = "then convert the checkpoint that was in it"


def refused(path, kind=MisfitError):
    """What is said of a file or folder: the message without the path, and the hint."""
    with pytest.raises(PortError) as caught:
        formats.read(path)
    assert (type(caught.value), caught.value.message.startswith(f"{path}: ")) == (kind, True), caught.value
    return caught.value.message.removeprefix(f"{path}: "), caught.value.hint


def put(path, content):
    """A file, in its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# -- TensorFlow and Keras, by themselves -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "what", "command"),
    [
        ("m.tflite", "a TensorFlow Lite model", "--tflite {0}/m.tflite --output {0}/m.onnx"),
        (
            "frozen.pb",
            "a frozen TensorFlow graph",
            "--graphdef {0}/frozen.pb --output {0}/frozen.onnx --inputs image:0 --outputs Identity:0",
        ),
    ],
)
def test_graphs_go_by_way_of_onnx(name, what, command, tensorflow):
    """A frozen graph's ends are read out of it."""
    hint = f"`python -m tf2onnx.convert {command.format(tensorflow)}`, then convert that"

    assert refused(tensorflow / name) == (what, hint)


def test_an_architecture_is_not_its_weights(tensorflow, tmp_path):
    """As JSON, as today's Keras writes it; as YAML, as Keras 2 did."""
    expected = (
        "a Keras model's architecture, without its weights",
        "give the file of the weights: what `model.save_weights` or `model.save` wrote",
    )

    assert refused(tensorflow / "architecture.json") == expected
    assert refused(put(tmp_path / "a.yaml", b"backend: tensorflow\nclass_name: Model\nconfig:\n")) == expected


def test_a_quantised_keras_network(tensorflow):
    """What its tensors say, and not that a name is unknown."""
    with pytest.raises(MisfitError) as caught:
        read(tensorflow / "int8.keras")

    assert str(caught.value) == (
        f"{tensorflow}/int8.keras: a quantised network: its weights are integers, with scales beside them "
        "(predictions/0)\n  convert the float network that it was made from: in Keras, save the model before "
        "`model.quantize`"
    )


# -- PyTorch, NumPy, joblib and the packers, by themselves -------------------------------------------------------------


def test_an_unzipped_checkpoint_and_its_step(small, tmp_path):
    """Zipped again by the command, it is what it was."""
    with zipfile.ZipFile(small) as archive:
        archive.extractall(tmp_path)  # noqa: S202 (PyTorch wrote it)
        folder = tmp_path / archive.namelist()[0].partition("/")[0]

    what, hint = refused(folder)
    subprocess.run(hint.split("`")[1].replace("python", sys.executable, 1), shell=True, check=True)  # noqa: S602

    assert what == "a PyTorch checkpoint that somebody unzipped"
    assert hint == f"`python -m zipfile -c {folder}.pth {folder}`, then convert that"
    assert [*read(f"{folder}.pth").ledger.claims] == [*read(small).ledger.claims]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_distributed_checkpoint(small, tmp_path):
    """As `torch.distributed.checkpoint` saves it."""
    distributed.save(torch.load(small), checkpoint_id=tmp_path / "shards", no_dist=True)

    assert refused(tmp_path / "shards") == (
        "a distributed checkpoint of PyTorch",
        (
            "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
            f"{tmp_path}/shards {tmp_path}/shards.pth`, then convert that"
        ),
    )


def packed_tar(path, content):
    """A checkpoint in a packed tar."""
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("x.pth")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("ending", "pack", "what", "hint"),
    [
        (".gz", gzip.compress, "packed by gzip", "`gzip -dc {0}.gz > {0}`, then convert that"),
        (".bz2", bz2.compress, "packed by bzip2", "`bzip2 -dc {0}.bz2 > {0}`, then convert that"),
        (".xz", lzma.compress, "packed by xz", "`xz -dc {0}.xz > {0}`, then convert that"),
        ("", gzip.compress, "packed by gzip", "`gzip -dc {0} > {1}`, then convert that"),
    ],
)
def test_packed_checkpoints(ending, pack, what, hint, small, tmp_path):
    """Whatever the name; the step overwrites nothing."""
    path = put(tmp_path / f"x.pth{ending}", pack(small.read_bytes()))

    assert refused(path) == (what, hint.format(tmp_path / "x.pth", tmp_path / "x"))


def test_a_packed_tar(small, tmp_path):
    """It is told from a packed checkpoint by what is in it."""
    path = packed_tar(tmp_path / "x.pth.tar.gz", small.read_bytes())

    assert refused(path) == ("a tar archive packed by gzip", f"`tar -xzf {path}`, {PACKED}")


def test_a_packed_file_without_an_ending_is_not_written_over(small, tmp_path):
    """A file that is called as what would come out of it."""
    path = put(tmp_path / "packed", gzip.compress(small.read_bytes()))

    assert refused(path) == ("packed by gzip", f"`gzip -dc {path} > {path}.out`, then convert that")


def test_a_zip_of_checkpoints(small, tmp_path):
    """The checkpoints in it are named, three of them."""
    with zipfile.ZipFile(tmp_path / "runs.zip", "w") as archive:
        archive.writestr("runs/log.txt", "epoch 1")
        for number in range(5):
            archive.write(small, f"runs/{number}.pth")

    assert refused(tmp_path / "runs.zip") == (
        "a zip of runs/0.pth, runs/1.pth, runs/2.pth, and 2 more",
        f"unpack it with `python -m zipfile -e {tmp_path}/runs.zip {tmp_path}/runs`, {PACKED}",
    )


def test_a_zip_of_a_saved_model(tensorflow, tmp_path):
    """The way goes by the folder."""
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.write(tensorflow / "exported/saved_model.pb", "m/saved_model.pb")

    assert refused(tmp_path / "m.zip") == (
        "a zip of a TensorFlow SavedModel",
        (f"unpack it with `python -m zipfile -e {tmp_path}/m.zip {tmp_path}/m`, and give the folder"),
    )


def test_parts_of_what_tensorflow_writes(tensorflow, tmp_path):
    """A program without its variables, data without an index, a graph of TensorFlow 1 without its tensors."""
    program = put(tmp_path / "m.pb", (tensorflow / "exported/saved_model.pb").read_bytes())
    data = put(tmp_path / "x.ckpt.data-00000-of-00001", b"1234")
    meta = put(tmp_path / "x.ckpt.meta", (tensorflow / "named/model.ckpt.meta").read_bytes())

    assert refused(program) == (
        "the program of a TensorFlow SavedModel, without its variables",
        "give the folder that it came in, where variables/ stands beside it",
    )
    assert refused(data) == (
        "the tensors of a TensorFlow checkpoint, without the .index that names them",
        "copy the .index to it, and give that",
    )
    assert refused(meta) == (
        "the graph of a checkpoint of TensorFlow 1, without its tensors",
        "give the .index that stands beside it",
    )


def test_arrays_and_pickles_of_numpy(tmp_path):
    """One array, a pickled dict in an .npy, pickled objects in an .npz: none is run."""
    np.save(tmp_path / "one.npy", np.ones(3))
    np.save(tmp_path / "dict.npy", {"a": np.ones(3)}, allow_pickle=True)
    np.savez(tmp_path / "objects.npz", state=np.array({"a": np.ones(3)}, dtype=object))
    again = "in Python, `numpy.savez(file, **arrays)` with a dict of name → array, and convert that"

    assert refused(tmp_path / "one.npy") == ("one array of NumPy, which has no name", again)
    assert refused(tmp_path / "dict.npy") == (
        "a pickle in NumPy's .npy, which is not run",
        (
            f"if you trust it, in Python, `numpy.savez('{tmp_path}/dict.npz', "
            f"**numpy.load('{tmp_path}/dict.npy', allow_pickle=True).item())` of a dict, "
            f"`numpy.savez('{tmp_path}/dict.npz', *numpy.load('{tmp_path}/dict.npy', allow_pickle=True))` of a list, "
            "then convert that"
        ),
    )
    assert refused(tmp_path / "objects.npz") == ("a NumPy archive of pickled objects, which are not run", again)


def test_matlab(tmp_path):
    """A file of its arrays, as SciPy writes it."""
    scipy.io.savemat(tmp_path / "x.mat", {"a": np.ones(3)})

    what, hint = refused(tmp_path / "x.mat")

    assert what == "a file of MATLAB's"
    assert hint.endswith(f"`numpy.savez('{tmp_path}/x.npz', **scipy.io.loadmat('{tmp_path}/x.mat'))`")


@pytest.mark.parametrize("compress", [0, 3])
def test_joblib(compress, tmp_path):
    """Plain, and packed by zlib, as joblib does it."""
    joblib.dump({"a": np.ones(300)}, tmp_path / "x.joblib", compress=compress)

    assert refused(tmp_path / "x.joblib") == (
        "a file of joblib: a pickle with arrays between its operations, or a packed one, which is not run",
        (
            f"if you trust it, in Python, `numpy.savez('{tmp_path}/x.npz', **joblib.load('{tmp_path}/x.joblib'))`, "
            "then convert that"
        ),
    )


def test_a_pickle_of_something_else(tmp_path):
    """A pickle is read; one without tensors says what it has instead."""
    path = put(tmp_path / "x.pkl", pickle.dumps({"when": pytest.Config}))

    assert refused(path, CorruptError)[0] == "holds no tensors, only objects of _pytest.config.Config"


# -- folders -----------------------------------------------------------------------------------------------------------


def test_a_folder_with_a_checkpoint(small, tmp_path):
    """Of a name that nobody's library looks for: the file in it is named; of several the first three."""
    folder = tmp_path / "runs"
    put(folder / "best.pth", small.read_bytes())
    assert refused(folder) == ("a folder", f"give the checkpoint in it: {folder}/best.pth")

    put(folder / "last.safetensors", b"x")
    assert refused(folder) == (
        "a folder",
        f"give one of the checkpoints in it: {folder}/best.pth, {folder}/last.safetensors",
    )


@pytest.mark.parametrize("names", [[], ["notes.txt"]])
def test_a_folder_without_one(names, tmp_path):
    """Nothing, and nothing that could be one."""
    for name in names:
        put(tmp_path / "x" / name, b"hello")
    (tmp_path / "x").mkdir(exist_ok=True)

    assert refused(tmp_path / "x", CorruptError) == (
        "a folder, and nothing in it has the name of a checkpoint",
        "give the file of the checkpoint itself",
    )


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["config.json", "metadata.json", "model.weights.h5"], "a .keras archive that somebody unzipped"),
        (["Manifest.json", "Data/x"], "a Core ML package"),
        (["_METADATA", "manifest.ocdbt"], "a checkpoint of Orbax"),
    ],
)
def test_folders_that_are_one_thing(names, what, tmp_path):
    """By the names of the files in them, which are empty here."""
    for name in names:
        put(tmp_path / "x" / name, b"")

    assert refused(tmp_path / "x")[0].startswith(what)


# -- heads by hand -----------------------------------------------------------------------------------------------------


def joined(parts):
    """A message's bytes."""
    return b"".join(part for part in parts if isinstance(part, bytes))


CORE_ML = joined(
    [
        integer(1, 4),  # specificationVersion
        *message(2, message(1, [text(1, "image")])),  # description: input: name
        *message(500, message(1, [text(1, "conv")])),  # neuralNetwork: layers: name
    ]
)
PADDLE = joined(message(1, [integer(1, 0), integer(2, 0), *message(3, [text(1, "feed")])]))  # blocks: idx, parent_idx
SHARD = "weights for TensorFlow.js, whose names stand in the model.json beside it"
HEADS = {  # name of a file → its content, and what it is
    "m.mlmodel": (CORE_ML, "a Core ML model", NOTHING_BACK),
    "other-name": (CORE_ML, "a Core ML model", NOTHING_BACK),
    "m.ort": (
        b"\x18\0\0\0ORTM" + bytes(20),
        "a model in ONNX Runtime's own form",
        "convert the .onnx that it was made from",
    ),
    "m.pte": (b"\x18\0\0\0ET12" + bytes(20), "a program of ExecuTorch", NOTHING_BACK),
    "m.engine": (b"ptrt" + bytes(range(250)), "a program of TensorRT", None),
    "x.t7": (
        struct.pack("<4i", 4, 1, 3, 0)[:12] + b"V 1" + bytes(30),
        "an object of Lua Torch",
        "nothing reads it today: convert the same network's PyTorch or Caffe checkpoint",
    ),
    "x.pdmodel": (PADDLE, "a network of Paddle", None),
    "__model__": (PADDLE, "a network of Paddle", None),
    "x.pdiparams": (bytes(16) + b"\2\0\0\0\x08\x05", "a network of Paddle", None),
    "group1-shard1of7.bin": (
        b"\x01\xd2\x3c\xbe" * 9,
        "weights for TensorFlow.js, whose names stand in the model.json beside it",
        None,
    ),
    "x.msgpack": (b"\x81\xa6params\x80", "a checkpoint of Flax", None),
    "x.7z": (b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive", None),
    "x.rar": (b"Rar!\x1a\x07\x01\0", "a RAR archive", None),
    "x.zst": (b"\x28\xb5\x2f\xfd\x04\x58", "packed by zstd", None),
}
TEXTS = {  # name of a file → its text, what it is, and the class of the error
    "model.json": ('{"format": "layers-model", "modelTopology": 1}', "a Keras model for TensorFlow.js", MisfitError),
    "graph.json": (
        '{"format": "graph-model", "modelTopology": {}}',
        "a TensorFlow graph for TensorFlow.js",
        MisfitError,
    ),
    "x-symbol.json": (
        '{"nodes": [{"op": "null", "name": "data"}]}',
        "a graph of MXNet, without its weights",
        MisfitError,
    ),
    "x.json": ('{"a": 1}', "a JSON file, not a checkpoint", CorruptError),
    "x.xml": ('<?xml version="1.0"?>\n<net name="x" version="11">', "a network of OpenVINO", MisfitError),
    "x.prototxt": ('name: "x"\n', "a network of Caffe as text, without its weights", MisfitError),
    "x.txt": ('name: "x"\nlayer {\n  name: "c"\n}', "a network of Caffe as text, without its weights", MisfitError),
    "x.param": ("7767517\n3 3\n", "a graph of ncnn", MisfitError),
    "x.pth": ("hello, Zürich", "a text, not a checkpoint", CorruptError),
    "page.h5": ("\n<!DOCTYPE html><html>", "a web page, not a checkpoint", CorruptError),
    "lfs.h5": ("version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not the file itself", CorruptError),
    "x.pdf": ("%PDF-1.7\n", "a PDF document, not a checkpoint", CorruptError),
    "empty.pth": ("", "is empty: 0 bytes", CorruptError),
}


@pytest.mark.parametrize("name", HEADS)
def test_files_of_other_frameworks(name, tmp_path):
    """A head is enough."""
    content, what, hint = HEADS[name]

    said = refused(put(tmp_path / name, content))

    assert said == (what, hint or said[1])


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name, tmp_path):
    """Told by how they begin, but for a .prototxt."""
    content, what, kind = TEXTS[name]

    assert refused(put(tmp_path / name, content.encode()), kind)[0] == what


@pytest.mark.parametrize("head", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\0\x10JFIF", b"GIF89a"])
def test_pictures(head, tmp_path):
    """They are no checkpoint of anybody's."""
    assert refused(put(tmp_path / "x.pth", head), CorruptError)[0] == "a picture, not a checkpoint"


def test_weights_of_openvino_are_told_by_the_graph_beside_them(tmp_path):
    """Bytes alone say nothing."""
    path = put(tmp_path / "m.bin", bytes(range(256)))
    assert refused(path, CorruptError) == ("not a checkpoint that densenet-port reads", formats.KNOWN)

    put(tmp_path / "m.xml", b"<net>")
    assert refused(path) == ("a network of OpenVINO", NOTHING_BACK)


def test_an_onnx_model_is_not_taken_for_another(tmp_path):
    """Its second field is the graph or a producer; a message there is a SavedModel's or Core ML's."""
    sniff = formats._module("onnx.checkpoint").sniff
    model = joined([integer(1, 8), text(2, "p" * 300)])

    assert sniff(tmp_path, model)
    assert sniff(tmp_path, joined([integer(1, 8), data(7, b"\n\0")]))
    assert not sniff(tmp_path, CORE_ML)


def test_a_path_with_spaces_and_quotes_is_spelled_for_the_shell(tmp_path):
    """The command can be pasted."""
    path = put(tmp_path / "it's here.tflite", b"\x1c\0\0\0TFL3")

    command = refused(path)[1].split("`")[1].replace("python -m tf2onnx.convert", "printf '%s|'")

    printed = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout  # noqa: S602
    assert printed.split("|")[:4] == ["--tflite", str(path), "--output", f"{tmp_path}/it's here.onnx"]


# -- the table ---------------------------------------------------------------------------------------------------------


def test_every_kind_is_told_in_some_way():
    """By how it begins, by its name, or in the code, which names it; and the code names none that the table lacks."""
    table, code = foreign.kinds(), Path(foreign.__file__).read_text("utf-8")

    silent = [name for name, kind in table.items() if not kind.begins and not kind.names and f'"{name}"' not in code]

    assert silent == []


def test_no_hint_has_a_word_left(tmp_path):
    """Every word in braces is one that `Subject` fills."""
    words = foreign.Subject(tmp_path / "x.y", ["a"], {"inputs": "i", "outputs": "o"}).words()

    left = {name for name, kind in foreign.kinds().items() if "{" in _filled(kind, words)}

    assert left == set()


def _filled(kind, words):
    return foreign._filled(kind.what + kind.hint, words)


STARTS = [b"", b"\n\4", b"\x08\1\x12\n\n", b"\x93NUMPY", b"\x1f\x8b", b"PK\3\4", b"{", b'{"weight_map"', b"\x80\4"]


@settings(max_examples=300, deadline=20_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=400),
    st.sampled_from([b"", b"\n\4", b"\x08\1\x12\n\n", b"\x93NUMPY", b"\x1f\x8b", b"PK\3\4", b"{", b"\x80\4"]),
)
def test_any_bytes_are_refused_in_our_words(tmp_path, content, start):
    """Whatever they look like."""
    path = put(tmp_path / "x", start + content)

    error = foreign.refusal(path, start + content, "known: …")

    assert error.message.startswith(str(path))
