"""PyTorch's files are read as PyTorch reads them, bit by bit; hostile ones end in an error; ours are PyTorch's, too."""

import argparse
import io
import pickle
import re
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from densenet_port.errors import CorruptError, MisfitError
from densenet_port.formats.torch import pth
from tests.support.containers import outcome, peak, tensor
from tests.support.networks import checkpoint_file, torchvision_network

ROLL = torch.Generator().manual_seed(1)
X = torch.randn(4, 6, 5, 3, generator=ROLL)
BITS = torch.randint(-(2**62), 2**62, (7, 3), generator=ROLL)
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)


def tagged(tensor):
    """A tensor with an attribute, which PyTorch writes in yet another way."""
    tensor.note = "kept by nobody"
    return tensor


TENSORS = {
    "plain": X,
    "a window": X[1:3, 2:, :, 1],
    "transposed": X[0, 0].T,
    "permuted": X.permute(3, 1, 0, 2),
    "channels last": X.to(memory_format=torch.channels_last),
    "every second": X[::2, 1::3],
    "expanded": X[:, :1, :1, :1].expand(4, 6, 5, 3),
    "expanded scalar": torch.tensor(2.5).expand(3, 2),
    "a diagonal": X[0, 0].diagonal(),
    "unfolded": torch.arange(10.0).unfold(0, 4, 1),
    "a scalar": torch.tensor(-0.25),
    "a counter": torch.tensor(12345),
    "an element": X[3, 5, 4, 2],
    "empty": torch.empty(0),
    "empty within": torch.empty(2, 0, 3),
    "an empty window": X[2:2],
    "an empty window of an empty one": torch.empty(0, 3)[:, 1:],
    "nan and infinity": torch.tensor([float("nan"), float("inf"), -0.0]),
    "nan of another kind": torch.tensor([0x7FC12345, -1], dtype=torch.int32).view(torch.float32),
    "half": X.half(),
    "bfloat16": X.bfloat16(),
    "bfloat16 transposed": X[0, 0].bfloat16().T,
    "bfloat16 scalar": torch.tensor(1.5, dtype=torch.bfloat16),
    "double": X.double(),
    "bool": X > 0,
    "complex": torch.complex(X, -X),
    "double complex": torch.complex(X.double(), X.double()),
    "bytes": (BITS % 256).to(torch.uint8),
    "chars": BITS.to(torch.int8),
    "shorts": BITS.to(torch.int16),
    "ints": BITS.to(torch.int32),
    "longs": BITS,
    "unsigned shorts": (BITS % 2**16).to(torch.uint16),
    "unsigned ints": (BITS % 2**32).to(torch.uint32),
    "unsigned longs": BITS.clone().view(torch.uint64),
    "unsigned transposed": (BITS % 2**16).to(torch.uint16).T,
    "parameter": torch.nn.Parameter(X),
    "parameter with a note": tagged(torch.nn.Parameter(X)),
    "tensor with a note": tagged(X.clone()),
    "shared, first": X[0],
    "shared, second": X[1],
}
FORMS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}


def save(path, thing, form="zip", **options):
    torch.save(thing, path, **FORMS[form], **options)
    return path


def spelled(array):
    """Everything about an array but its memory order."""
    return array.dtype.name, array.shape, array.tobytes()


def head(path):
    return path.read_bytes()[:4096]


def ours(path):
    return {name: (tensor.dtype, spelled(tensor.load())) for name, tensor in pth.read(path).tensors.items()}


def theirs(tensors):
    """What `ours` must give: PyTorch's own values, bfloat16 as float32."""
    wide = {name: value.detach().float() if value.dtype is torch.bfloat16 else value for name, value in tensors.items()}
    return {
        name: (str(tensors[name].dtype).removeprefix("torch."), spelled(value.detach().numpy()))
        for name, value in wide.items()
    }


@pytest.fixture(scope="module", params=FORMS)
def tricks(request, tmp_path_factory):
    """What we read of `TENSORS` in one file, for each container that PyTorch writes."""
    return ours(save(tmp_path_factory.mktemp("tricks") / "x", TENSORS, request.param))


@pytest.mark.parametrize("name", TENSORS)
def test_every_tensor_is_the_one_that_was_saved(tricks, name):
    assert tricks[name] == theirs(TENSORS)[name]


@pytest.mark.parametrize("protocol", [1, 3, 4, 5])
@pytest.mark.parametrize("form", FORMS)
def test_every_protocol_says_the_same(tmp_path, form, protocol):
    path = save(tmp_path / "x", TENSORS, form, pickle_protocol=protocol)

    assert pth.sniff(path, head(path))
    assert ours(path) == theirs(TENSORS)


@pytest.mark.parametrize("form", FORMS)
def test_names_stand_in_the_files_order(tmp_path, form):
    path = save(tmp_path / "x", TENSORS, form)

    assert list(pth.read(path).tensors) == list(TENSORS)


@pytest.mark.parametrize("form", ["zip", "legacy", "tar", "hosted"])
def test_a_network_is_read_as_torch_reads_it(files, form):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tarfile's, from within torch
        known = torch.load(files[form], weights_only=False)

    assert ours(files[form]) == theirs(known)


@pytest.mark.parametrize(("form", "told"), {"zip": "zip", "legacy": "legacy", "tar": "tar", "hosted": "legacy"}.items())
def test_the_form_is_told(files, form, told):
    metadata = {key: value for key, value in pth.read(files[form]).metadata.items() if key != "modules"}

    assert metadata == {"form": told, "values": {}, "opaque": {}}


@pytest.mark.parametrize("form", ["zip", "legacy", "tar", "hosted", "wrapped", "half"])
def test_torchs_files_are_recognised(files, form):
    assert pth.sniff(files[form], head(files[form]))


def test_other_files_are_not(files, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(3))
    (tmp_path / "a.txt").write_bytes(b"PK\x03\x04 and nothing more")
    (tmp_path / "empty").write_bytes(b"")
    others = [files["safetensors"], *tmp_path.iterdir()]

    found = [pth.sniff(path, head(path)) for path in others]

    assert found == [False] * 4


# -- names -----------------------------------------------------------------------------------------------------------


def test_nested_keys_are_joined_by_dots(tmp_path):
    thing = {
        "epoch": 7,
        "best": 0.75,
        "arch": "densenet121",
        "done": True,
        "state_dict": OrderedDict({"module.conv0.weight": X}),
        "optimizer": {"state": {0: {"exp_avg": X[0]}}, "param_groups": [{"betas": (0.9, 0.99), "lr": torch.ones(())}]},
        "pair": (X[1], [X[2]]),
        "counts": defaultdict(int, a=1),
        3: X[3],
    }
    checkpoint = pth.read(save(tmp_path / "x", thing))

    assert list(checkpoint.tensors) == [
        "state_dict.module.conv0.weight",
        "optimizer.state.0.exp_avg",
        "optimizer.param_groups.0.lr",
        "pair.0",
        "pair.1.0",
        "3",
    ]
    assert checkpoint.metadata["values"] == {
        "epoch": 7, "best": 0.75, "arch": "densenet121", "done": True, "counts.a": 1,
    }  # fmt: skip


def test_a_training_checkpoint_is_read(files):
    checkpoint = pth.read(files["wrapped"])
    known = torch.load(files["wrapped"])
    momenta = {str(i): state["momentum_buffer"] for i, state in known["optimizer"]["state"].items()}

    assert ours(files["wrapped"]) == theirs(
        {f"state_dict.{name}": value for name, value in known["state_dict"].items()}
        | {f"optimizer.state.{i}.momentum_buffer": value for i, value in momenta.items()}
    )
    assert checkpoint.metadata["values"]["epoch"] == 7


def test_one_tensor_may_have_two_names(tmp_path):
    inner = {"w": X}
    path = save(tmp_path / "x", {"model": inner, "ema": inner})

    assert ours(path) == theirs({"model.w": X, "ema.w": X})


def test_two_tensors_of_one_name_are_refused(tmp_path):
    path = save(tmp_path / "x", {"a.b": X, "a": {"b": X}})

    with pytest.raises(CorruptError, match=r"x: two tensors are called 'a\.b'$"):
        pth.read(path)


def test_strange_objects_are_named_and_left_alone(tmp_path):
    args = argparse.Namespace(lr=0.1)
    thing = {"w": X, "args": args, "type": torch.float32, "seen": {1}, "seed": np.float64(3), "size": X.shape}

    opaque = pth.read(save(tmp_path / "x", thing)).metadata["opaque"]

    assert opaque == {
        "args": "argparse.Namespace",
        "type": "torch.float32",
        "seen": "__builtin__.set",  # as protocol 2 calls it
        "seed": "numpy._core.multiarray.scalar",
        "size": "torch.Size",
    }


def test_values_are_few_and_short(tmp_path):
    thing = {"w": X, "long": "x" * 5000, "deep": {"a": {"b": {"c": 1}}}} | {str(i): i for i in range(1000)}

    values = pth.read(save(tmp_path / "x", thing)).metadata["values"]

    assert values == {str(i): i for i in range(300)}


@pytest.mark.parametrize("form", FORMS)
def test_a_strange_object_alone_says_that_a_state_dict_is_wanted(tmp_path, form):
    path = save(tmp_path / "x", argparse.Namespace(w=X), form)

    with pytest.raises(CorruptError) as caught:
        pth.read(path)

    assert str(caught.value) == (
        f"{path}: holds no tensors, only objects of argparse.Namespace\n  in PyTorch, save `model.state_dict()`"
    )


def test_no_tensors_is_an_error(tmp_path):
    with pytest.raises(CorruptError, match="x: holds no tensors\n"):
        pth.read(save(tmp_path / "x", {"epoch": 3}))


ODD_TENSORS = {
    "quantised": lambda: torch.quantize_per_tensor(X, 0.1, 0, torch.qint8),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "nested": lambda: torch.nested.nested_tensor([X[0], X[1, :2]]),
    "float8": lambda: X.to(torch.float8_e4m3fn),
    "complex32": lambda: X.to(torch.complex32),
    "meta": lambda: torch.empty(3, device="meta"),
}


@pytest.mark.parametrize("make", ODD_TENSORS.values(), ids=ODD_TENSORS.keys())
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_plain_array_is_a_misfit(tmp_path, form, make):
    path = save(tmp_path / "x", {"w": make()}, form)

    with pytest.raises(MisfitError, match="make it a plain tensor"):
        pth.read(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_read_as_the_state_dict_of_its_module(tmp_path):
    path, module = tmp_path / "x", torch.nn.Linear(2, 2)
    torch.jit.save(torch.jit.script(module), path)

    assert pth.sniff(path, head(path))
    assert ours(path) == theirs(module.state_dict())


# -- old files, which no torch of today writes -----------------------------------------------------------------------


def text(word):
    """A byte string, as Python 2 pickles them."""
    return b"U" + bytes([len(word)]) + word.encode("latin-1")


def old_storage(kind, key, length, window=b"N"):
    return (
        b"("
        + text("storage")
        + b"ctorch\n"
        + kind
        + b"\n"
        + text(key)
        + text("cpu")
        + b"K"
        + bytes([length])
        + window
        + b"tQ"
    )


def old_tensor(storage, offset=0, shape=(2, 3), strides=(3, 1)):
    numbers = b"".join(b"(" + bytes(b for n in part for b in (ord("K"), n)) + b"t" for part in (shape, strides))
    return storage + b"K" + bytes([offset]) + numbers


def stream(tree, storages):
    """A stream of an object (a pickle without its frame) and its storages: key → array."""
    elements = b"".join(struct.pack("<q", array.size) + array.tobytes() for array in storages.values())
    return MAGIC + b"\x80\x02" + tree + b"." + pickle.dumps(list(storages), 2) + elements


SIX = np.arange(6, dtype="<f4")
OLD = {
    "_rebuild_tensor": b"ctorch._utils\n_rebuild_tensor\n(" + old_tensor(old_storage(b"FloatStorage", "1", 6)) + b"tR",
    "FloatTensor with state": b"ctorch\nFloatTensor\n)R(" + old_tensor(old_storage(b"FloatStorage", "1", 6)) + b"tb",
    "a window": b"ctorch._utils\n_rebuild_tensor\n("
    + old_tensor(old_storage(b"FloatStorage", "1", 6, b"(" + text("2") + b"K\2K\4t"), 1, (1, 2), (2, 1)) + b"tR",
}  # fmt: skip
TENSOR = OLD["_rebuild_tensor"]
OLD["a Variable"] = b"ctorch.autograd.variable\nVariable\n" + OLD["_rebuild_tensor"] + b"\x85R(\x88\x89Ntb"
OLD["a Variable of protocol 1"] = (
    b"ccopy_reg\n__newobj__\n(ctorch.nn.parameter\nParameter\n" + OLD["FloatTensor with state"] + b"tR(\x88\x89Ntb"
)
OLD["a Variable of five"] = b"ctorch.nn.parameter\nParameter\n)R(" + OLD["_rebuild_tensor"] + b"NNNNtb"


@pytest.mark.parametrize("name", OLD)
def test_old_ways_to_spell_a_tensor_are_known(tmp_path, name):
    path = tmp_path / "x"
    path.write_bytes(stream(b"}" + text("w") + OLD[name] + b"s", {"1": SIX}))

    known = SIX[3:5].reshape(1, 2) if name == "a window" else SIX.reshape(2, 3)

    assert ours(path) == {"w": ("float32", spelled(known))}


def test_python_2_gives_an_ordered_dict_its_pairs_as_arguments(tmp_path):
    tree = b"ccollections\nOrderedDict\n((" + b"(" + text("caf\xe9") + OLD["_rebuild_tensor"] + b"lltR"
    (tmp_path / "x").write_bytes(stream(tree, {"1": SIX}))

    assert ours(tmp_path / "x") == {"café": ("float32", spelled(SIX.reshape(2, 3)))}


@pytest.mark.parametrize("name", ["_rebuild_tensor", "FloatTensor with state"])
def test_the_classes_of_a_gpu_are_those_of_a_cpu(tmp_path, name):
    tree = OLD[name].replace(b"ctorch\nFloat", b"ctorch.cuda\nFloat")
    (tmp_path / "x").write_bytes(stream(b"]" + tree + b"a", {"1": SIX}))

    assert ours(tmp_path / "x") == {"0": ("float32", spelled(SIX.reshape(2, 3)))}


def write_tar(path, storages, windows, tensors, tree):
    """The oldest container; `tree` is a pickle whose tensors are persistent ids."""
    parts = {"storages": pickle.dumps(len(storages), 2), "tensors": pickle.dumps(len(tensors), 2), "pickle": tree}
    for key, storage in storages.items():
        kind = getattr(torch, storage.type().removeprefix("torch.").replace("Tensor", "Storage"))
        parts["storages"] += pickle.dumps((key, "cpu", kind), 2) + struct.pack("<q", storage.numel())
        parts["storages"] += storage.numpy().tobytes()
    parts["storages"] += pickle.dumps(windows, 2)
    for key, (storage, shape, strides, offset) in tensors.items():
        axes = len(shape)
        parts["tensors"] += pickle.dumps((key, storage, torch.FloatTensor), 2)
        parts["tensors"] += struct.pack(f"<i4x{2 * axes + 1}q", axes, *shape, *strides, offset)
    parts["sys_info"] = pickle.dumps({}, 2)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), 1.5  # a broken second needs an extended header
            archive.addfile(entry, io.BytesIO(data))
    return path


def persistent(word):
    return b"U" + bytes([len(word)]) + word + b"Q"


@pytest.fixture
def old_tar(tmp_path):
    tree = b"\x80\x02}(U\x01aK\x0bQU\x01b" + persistent(b"12") + b"U\x01c" + persistent(b"13") + b"U\x01dK\x0eQu."
    tensors = {11: (1, (4, 3), (1, 4), 0), 12: (2, (3,), (1,), 0), 13: (5, (2, 2), (2, 1), 1), 14: (2, (), (), 2)}
    flat = X.flatten()[:12].clone()
    return write_tar(tmp_path / "x", {1: flat, 2: BITS[0].clone()}, [(5, 1, 3, 8)], tensors, tree)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_oldest_container_is_read_as_torch_reads_it(old_tar):
    known = torch.load(old_tar, weights_only=False)

    assert ours(old_tar) == theirs(known)


def test_a_tensor_that_the_oldest_container_lacks_is_named(tmp_path):
    path = write_tar(tmp_path / "x", {}, [], {}, b"}U\x01wK\x0bQs.")

    with pytest.raises(CorruptError, match="x: w: there is no tensor '11'"):
        pth.read(path)


def test_any_other_tar_is_refused(tmp_path, files):
    with tarfile.open(tmp_path / "x", "w") as archive:
        archive.add(files["zip"], "model.pth")

    with pytest.raises(CorruptError, match="without pickle, storages, tensors\n  if it holds a checkpoint, unpack it"):
        pth.read(tmp_path / "x")


# -- zips by other hands ---------------------------------------------------------------------------------------------


def pack(path, members, compression=zipfile.ZIP_STORED):
    """A zip of these members, written by Python."""
    with zipfile.ZipFile(path, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name that comes twice
        for name, data in members.items() if isinstance(members, dict) else members:
            archive.writestr(name, data)
    return path


def unpack(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("root", ["archive/", "x/", ""])
def test_a_checkpoint_packed_again_is_read(tmp_path, small, root):
    members = unpack(small)
    again = {root + name.partition("/")[2]: data for name, data in members.items()}
    path = pack(tmp_path / "x", again, zipfile.ZIP_DEFLATED)

    assert pth.sniff(path, head(path))
    assert ours(path) == ours(small)


def test_a_checkpoint_packed_in_another_order_is_recognised(tmp_path, small):
    path = pack(tmp_path / "x", dict(reversed(unpack(small).items())))

    assert pth.sniff(path, head(path))


def test_big_endian_storages_are_turned(tmp_path):
    widths = {"permuted": 4, "bfloat16": 2, "longs": 8, "bool": 1, "half": 2, "complex": 4}  # a complex has two parts
    tensors = {name: TENSORS[name].contiguous() for name in widths}
    members = unpack(save(tmp_path / "x", tensors))
    for key, width in enumerate(widths.values()):
        elements = np.frombuffer(members[f"x/data/{key}"], np.uint8).reshape(-1, width)
        members[f"x/data/{key}"] = elements[:, ::-1].tobytes()
    path = pack(tmp_path / "y", members | {"x/byteorder": b"big"})

    assert theirs(torch.load(path)) == theirs(tensors)
    assert ours(path) == theirs(tensors)


def test_without_a_byte_order_it_is_little(tmp_path):
    members = unpack(save(tmp_path / "x", {"w": X}))
    del members["x/byteorder"]

    assert ours(pack(tmp_path / "x", members)) == theirs({"w": X})


# -- broken and hostile files ----------------------------------------------------------------------------------------


class Trap:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (SPRUNG,)


SPRUNG = Path("sprung-by-a-test")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", ["beside", "root", "key"])
def test_no_code_of_a_checkpoint_runs(tmp_path, monkeypatch, form, place):
    monkeypatch.chdir(tmp_path)
    thing = {"beside": {"w": X, "trap": Trap()}, "root": [Trap(), X], "key": {Trap(): X}}[place]
    path = save(tmp_path / "x", thing, form)

    loaded = ours(path)

    assert len(loaded) == 1
    assert not SPRUNG.exists()


def test_the_trap_would_have_sprung(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    torch.load(save(tmp_path / "x", {"trap": Trap()}), weights_only=False)

    assert SPRUNG.exists()


def whole_number(n):
    return b"\x8a\x10" + n.to_bytes(16, "little", signed=True)


def view_in_zip(path, **options):
    """A zip of one float32 tensor `w` with this view of its storage."""
    told = {"length": 12, "offset": 0, "shape": (3, 4), "strides": (4, 1), "data": bytes(48)} | options
    length, offset, shape, strides, data = told.values()
    numbers = b"".join(b"(" + b"".join(map(whole_number, part)) + b"t" for part in (shape, strides))
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu" + whole_number(length) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + whole_number(offset) + numbers + b"\x89}tR"
    return pack(path, {"x/data.pkl": b"\x80\x02}U\x01w" + tensor + b"s.", "x/data/0": data})


def test_a_view_by_hand_is_read(tmp_path):
    assert ours(view_in_zip(tmp_path / "x")) == theirs({"w": torch.zeros(3, 4)})


OUTSIDE = {
    "one row too many": {"shape": (4, 4)},
    "offset": {"offset": 1},
    "offset beyond": {"offset": 2**62},
    "negative offset": {"offset": -1},
    "negative size": {"shape": (-3, -4)},
    "one negative size": {"shape": (3, -4)},
    "negative stride": {"offset": 11, "strides": (-4, -1)},
    "huge size": {"shape": (2**62, 4)},
    "huge stride": {"strides": (2**62, 1)},
    "sizes that overflow to 0": {"shape": (2**32, 2**32), "strides": (0, 0)},
    "repeated without end": {"shape": (2**40, 12), "strides": (0, 1)},
    "empty and huge": {"shape": (2**62, 2**62, 0), "strides": (0, 0, 1)},
    "a stride too few": {"strides": (4,)},
    "too many axes": {"shape": (1,) * 100, "strides": (1,) * 100},
    "storage shorter than told": {"data": bytes(47)},
    "storage of negative length": {"length": -12},
    "storage of huge length": {"length": 2**62},
    "no storage": {"data": b""},
}


@pytest.mark.parametrize("options", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_a_view_outside_of_its_storage_is_refused_and_takes_no_memory(tmp_path, options):
    path = view_in_zip(tmp_path / "x", **options)
    pth.read(view_in_zip(tmp_path / "y"))  # caches of the import system and of re are not the file's fault

    def refused():
        with pytest.raises(CorruptError):
            pth.read(path)

    assert peak(refused) < 2_000_000


def test_a_storage_that_is_cut_short_is_named(tmp_path):
    path = view_in_zip(tmp_path / "x", data=bytes(47))

    with pytest.raises(CorruptError) as caught:
        pth.read(path)

    assert str(caught.value) == (
        f"{path}: storage 0 of w is cut short: expected 48 bytes, found 47\n  fetch or copy the file again"
    )


def test_a_stream_that_is_cut_short_names_the_tensor(tmp_path):
    path = save(tmp_path / "x", {"first": X, "second": X.clone()}, "legacy")
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(
        CorruptError, match=r"storage \d+ of (first|second) is cut short: expected 1440 bytes, found 1340"
    ):
        pth.read(path)


def test_a_stream_is_whole_or_refused_whoever_needs_the_rest(tmp_path):
    """A strange object's storage is not ours to read, but a file that lacks it is not the file that was written."""
    data = stream(b"](" + TENSOR + b"cm\nn\n" + old_storage(b"FloatStorage", "2", 6) + b"\x85Re", {"1": SIX, "2": SIX})
    (tmp_path / "x").write_bytes(data[:-4])

    with pytest.raises(CorruptError, match="x: storage 2 is cut short: expected 24 bytes, found 20"):
        pth.read(tmp_path / "x")


def test_a_stream_whose_storage_counts_otherwise_is_refused(tmp_path):
    data = stream(b"}" + text("w") + OLD["_rebuild_tensor"] + b"s", {"1": np.arange(7, dtype="<f4")})
    (tmp_path / "x").write_bytes(data)

    with pytest.raises(CorruptError, match="expected 24 bytes, announced are 7 elements"):
        pth.read(tmp_path / "x")


@pytest.mark.parametrize("keys", [["1", "2"], [], ["2"], [1], [["1"]], "1", None], ids=str)
def test_a_stream_that_lists_other_storages_is_refused(tmp_path, keys):
    tree = b"\x80\x02}" + text("w") + OLD["_rebuild_tensor"] + b"s."
    (tmp_path / "x").write_bytes(MAGIC + tree + pickle.dumps(keys, 2) + bytes(200))

    with pytest.raises(CorruptError, match="the list of storages does not agree"):
        pth.read(tmp_path / "x")


def test_a_stream_of_another_protocol_is_refused(tmp_path):
    path = save(tmp_path / "x", {"w": X}, "legacy")
    path.write_bytes(path.read_bytes().replace(pickle.dumps(1001, 2), pickle.dumps(1002, 2)))

    with pytest.raises(CorruptError, match="expected a stream of protocol 1001"):
        pth.read(path)


def bomb(levels):
    """A list of two lists, each of which is a list of two lists …, in a few bytes each."""
    return b"]q\0" + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(levels))


ENDLESS = {
    "a bomb of lists": bomb(60),
    "a bomb of more lists": bomb(250),
    "a ring": b"]q\0h\0a",
    "a ring of dicts": b"}q\0U\1ah\0s",
    "many rings": b"]q\0(" + b"h\0" * 100 + b"e",
    "deep lists": b"(" * 100_000 + b"l" * 100_000,
    "a tensor down a hundred lists": b"(" * 100 + TENSOR + b"l" * 100,
    "many times the pairs of Python 2, of which one is none": (
        b"](ccollections\nOrderedDict\n((" + b"NN\x86" * 100_000 + b"NltRq\0" + b"h\0" * 100_000 + b"e"
    ),
    "a name of a megabyte": b"}X" + struct.pack("<I", 2**20) + bytes(2**20) + TENSOR + b"s",
}
HARMLESS = {
    "deep calls": b"cm\nn\n" + b")R" * 100_000,
    "a call": b"cm\nn\nU\x04exit\x85R",
    "a key that is a deep tuple": b"})" + b"\x85" * 100_000 + b"K\1s",
}


def beside_a_tensor(path, tree):
    path.write_bytes(stream(b"](" + TENSOR + tree + b"e", {"1": SIX}))
    return path


@pytest.mark.parametrize("tree", ENDLESS.values(), ids=ENDLESS.keys())
def test_what_nests_without_end_is_refused_soon(tmp_path, tree):
    path = beside_a_tensor(tmp_path / "x", tree)

    with pytest.raises(CorruptError, match=r"x: the pickle nests without end, from '[01]"):
        pth.read(path)


@pytest.mark.parametrize("tree", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_is_only_strange_does_not_hide_the_tensors(tmp_path, tree):
    path = beside_a_tensor(tmp_path / "x", tree)

    assert ours(path) == {"0": ("float32", spelled(SIX.reshape(2, 3)))}


def test_a_parameter_within_a_parameter_without_end_is_refused(tmp_path):
    deep = b"ctorch._utils\n_rebuild_parameter\nq\0" + b"h\0" * 50_000 + b")" + b"R\x85" * 49_999 + b"R"

    with pytest.raises(CorruptError, match="x: 2: _rebuild_parameter with arguments that make no tensor"):
        pth.read(beside_a_tensor(tmp_path / "x", deep))


WINDOWS = {
    "beyond": ((2, 5), 0, 6),
    "before": ((-1, 4), 0, 4),
    "of negative length": ((4, -2), 0, 1),
    "passed by its tensor": ((1, 4), 0, 5),
    "passed by its tensor's offset": ((1, 4), 1, 4),
}


@pytest.mark.parametrize(("window", "offset", "size"), WINDOWS.values(), ids=WINDOWS.keys())
def test_a_window_on_a_storage_holds(tmp_path, window, offset, size):
    """A tensor must lie in its window, and the window in its storage."""
    spelled_window = b"(" + text("2") + b"".join(map(whole_number, window)) + b"t"
    tensor = old_tensor(old_storage(b"FloatStorage", "1", 6, spelled_window), offset, (size,), (1,))
    (tmp_path / "x").write_bytes(stream(b"](ctorch._utils\n_rebuild_tensor\n(" + tensor + b"tRe", {"1": SIX}))

    with pytest.raises(CorruptError, match=r"cannot have the window|reaches beyond storage '1' of 4 elements"):
        pth.read(tmp_path / "x")


def lie_about(path, member, lie):
    """Overwrite a field of a member's entry in the central directory: offset, form and value."""
    offset, form, value = lie
    data = bytearray(path.read_bytes())
    at = data.rindex(member.encode()) - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    struct.pack_into(form, data, at + offset, value)
    path.write_bytes(data)
    return path


LIES = {
    "larger": (24, "<I", 4000),
    "larger in the file": (20, "<I", 4000),
    "smaller": (24, "<I", 12),
    "encrypted": (8, "<H", 1),
    "packed by bzip2": (10, "<H", 12),
    "packed by deflate": (10, "<H", 8),
    "packed by nothing known": (10, "<H", 77),
    "elsewhere": (42, "<I", 3),
    "beyond": (42, "<I", 10**6),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_zip_that_lies_about_a_member_is_refused(tmp_path, lie):
    path = lie_about(view_in_zip(tmp_path / "x", data=np.random.default_rng(0).bytes(48)), "x/data/0", lie)

    with pytest.raises(CorruptError):
        pth.read(path).tensors["w"].load()


def test_a_member_that_inflates_to_less_than_announced_is_refused(tmp_path):
    view_in_zip(tmp_path / "x", length=25, shape=(25,), strides=(1,), data=np.random.default_rng(0).bytes(48))
    path = pack(tmp_path / "y", unpack(tmp_path / "x"), zipfile.ZIP_DEFLATED)
    tensor = pth.read(lie_about(path, "x/data/0", (24, "<I", 100))).tensors["w"]

    with pytest.raises(CorruptError, match="y: member 'x/data/0' of the zip inflates to 48, expected 100 bytes"):
        tensor.load()


def test_a_member_that_does_not_inflate_is_refused(tmp_path):
    view_in_zip(tmp_path / "x", data=b"0123456789ab" * 4)
    path = pack(tmp_path / "y", unpack(tmp_path / "x"), zipfile.ZIP_DEFLATED)
    tensor = pth.read(path).tensors["w"]
    data = path.read_bytes()
    at = data.index(b"x/data/0") + 8
    path.write_bytes(data[:at] + b"\xff\xff" + data[at + 2 :])

    with pytest.raises(CorruptError, match="y: member 'x/data/0' of the zip cannot be inflated"):
        tensor.load()


@pytest.mark.parametrize("offset", [2**64 - 1, 2**63, 10**9])
def test_a_member_beyond_the_file_is_refused(tmp_path, offset):
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        info = zipfile.ZipInfo("x/data.pkl")
        info.extra = struct.pack("<HHQ", 1, 8, offset)  # where a large archive keeps the offset
        archive.writestr(info, b"N.")

    with pytest.raises(CorruptError, match=r"member 'x/data.pkl' of the zip does not begin at byte"):
        pth.read(lie_about(tmp_path / "x", "x/data.pkl", (42, "<I", 2**32 - 1)))


def test_a_bomb_of_zeros_is_not_inflated(tmp_path):
    members = {"x/data.pkl": unpack(view_in_zip(tmp_path / "x"))["x/data.pkl"], "x/data/0": bytes(10**6)}
    path = lie_about(pack(tmp_path / "x", members, zipfile.ZIP_DEFLATED), "x/data/0", (24, "<I", 3 * 10**9))

    with pytest.raises(CorruptError, match="x: member 'x/data/0' of the zip cannot hold 3000000000 bytes in"):
        pth.read(path)


@pytest.mark.parametrize("member", ["x/data.pkl", "x/data/0"])
def test_sizes_that_lie_take_no_memory(tmp_path, member):
    path = view_in_zip(tmp_path / "x", length=3 * 10**8, shape=(3 * 10**8,), strides=(1,))
    lie_about(lie_about(path, member, (20, "<I", 12 * 10**8)), member, (24, "<I", 12 * 10**8))

    used = peak(lambda: outcome(pth.read, path, path.read_bytes()))

    assert used < 2_000_000


ODD_ZIPS = {
    "two members of the zip are called 'x/a'": [("x/data.pkl", b"N."), ("x/a", b""), ("x/a", b"")],
    "2 members `data.pkl`": {"x/data.pkl": b"N.", "y/data.pkl": b"N."},
    "0 members `data.pkl`": {"x/data/0": b""},
    "broken pickle": {"x/data.pkl": b""},
    "unknown byte order b'middle'": {"x/data.pkl": b"N.", "x/byteorder": b"middle"},
    "its record is unreadable: Expecting": {"x/data.pkl": b"N.", "x/densenet_port.json": b"{"},
    "its record: expected an object, found []": {"x/data.pkl": b"N.", "x/densenet_port.json": b"[]"},
    "its record is unreadable: maximum": {"x/data.pkl": b"N.", "x/densenet_port.json": b"[" * 10**5},
}


@pytest.mark.parametrize(("message", "members"), ODD_ZIPS.items(), ids=ODD_ZIPS.keys())
def test_an_odd_zip_is_refused(tmp_path, message, members):
    path = pack(tmp_path / "x", members)

    with pytest.raises(CorruptError, match=re.escape(message)):
        pth.read(path)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"hello", bytes(1000)], ids=["empty", "zip", "text", "zeros"])
def test_what_is_no_checkpoint_is_refused(tmp_path, data):
    (tmp_path / "x").write_bytes(data)

    with pytest.raises(CorruptError):
        pth.read(tmp_path / "x")


def test_a_file_that_goes_after_it_was_read_is_there_as_long_as_its_tensors(tmp_path):
    tensor = pth.read(view_in_zip(tmp_path / "x")).tensors["w"]
    (tmp_path / "x").unlink()

    assert np.array_equal(tensor.load(), np.zeros((3, 4)))


MANY = settings(max_examples=150, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=9)), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """The members of a small file with all kinds of things in it."""
    state = OrderedDict(a=X[0, 0], b=BITS.T, c=X[1].bfloat16())
    thing = {"epoch": 3, "state_dict": state, "args": argparse.Namespace()}
    return unpack(save(tmp_path_factory.mktemp("odd") / "zip", thing))


@given(edits=EDITS)
@MANY
def test_any_edited_pickle_gives_a_checkpoint_or_an_error(odd, tmp_path, edits):
    program = bytearray(odd["zip/data.pkl"])
    for part, piece in edits:
        at = int(part * len(program))
        program[at : at + len(piece)] = piece
    data = pack(tmp_path / "y", odd | {"zip/data.pkl": bytes(program)}).read_bytes()

    assert outcome(pth.read, tmp_path / "x", data) in ("read", "corrupt", "misfit")


# -- memory ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A DenseNet-121 as torch saves it."""
    return checkpoint_file(tmp_path_factory.mktemp("full"), "121", "zip")


LARGEST = 1024 * 1000 * 4  # bytes of the head's kernel, the largest tensor of a DenseNet-121


def test_arrays_are_read_one_by_one(full):
    tensors = pth.read(full).tensors

    used = peak(lambda: [tensor.load().shape for tensor in tensors.values()])

    assert used < 1.1 * LARGEST


def test_arrays_are_written_one_by_one(full, tmp_path):
    tensors = pth.read(full).tensors

    used = peak(lambda: pth.write(tmp_path / "x", tensors, lambda: b"{}"))

    assert used < 1.5 * LARGEST


# -- writing ---------------------------------------------------------------------------------------------------------


WRITABLE = {
    name: tensor(value.detach().numpy())
    for name, value in TENSORS.items()
    if value.dtype is not torch.bfloat16 and "unsigned" not in name
}


def write(path, tensors=None, record=lambda: b'{"layout": "torchvision"}'):
    pth.write(path, WRITABLE if tensors is None else tensors, record)
    return path


@pytest.mark.parametrize("mapped", [False, True], ids=["read", "mapped"])
def test_torch_reads_what_was_written(tmp_path, mapped):
    loaded = torch.load(write(tmp_path / "x"), weights_only=True, mmap=mapped)

    assert {name: spelled(value.numpy()) for name, value in loaded.items()} == {
        name: spelled(tensor.load()) for name, tensor in WRITABLE.items()
    }


def test_what_was_written_is_an_ordered_dict_without_metadata(tmp_path):
    loaded = torch.load(write(tmp_path / "x"), weights_only=True)

    assert (type(loaded), vars(loaded), list(loaded)) == (OrderedDict, {}, list(WRITABLE))


def test_what_was_written_is_read_back(tmp_path):
    checkpoint = pth.read(write(tmp_path / "x"))

    assert checkpoint.record == {"layout": "torchvision"}
    assert list(checkpoint.tensors) == list(WRITABLE)
    assert ours(tmp_path / "x") == {name: (tensor.dtype, spelled(tensor.load())) for name, tensor in WRITABLE.items()}


def test_bfloat16_is_written_as_the_half_that_it_is(tmp_path):
    source = pth.read(save(tmp_path / "x", {"w": TENSORS["bfloat16"]}))

    path = write(tmp_path / "y", source.tensors)

    assert torch.equal(torch.load(path, weights_only=True)["w"], TENSORS["bfloat16"])
    assert ours(path) == theirs({"w": TENSORS["bfloat16"]})


def test_a_network_takes_what_was_written(full, tmp_path):
    path = write(tmp_path / "x", pth.read(full).tensors)
    network = torchvision_network("121", seed=1)

    network.load_state_dict(torch.load(path, weights_only=True), strict=True)

    assert theirs(network.state_dict()) == ours(full)


def test_a_network_takes_it_without_counters(full, tmp_path):
    tensors = {name: t for name, t in pth.read(full).tensors.items() if not name.endswith("num_batches_tracked")}
    path = write(tmp_path / "x", tensors)

    result = torchvision_network("121", seed=1).load_state_dict(torch.load(path), strict=True)

    assert str(result) == "<All keys matched successfully>"


def test_every_payload_is_aligned(tmp_path):
    path = write(tmp_path / "x")
    data = path.read_bytes()

    with zipfile.ZipFile(path) as archive:
        begins = [
            i.header_offset + 30 + sum(struct.unpack_from("<HH", data, i.header_offset + 26))
            for i in archive.infolist()
        ]
        assert archive.testzip() is None
    assert {begin % 64 for begin in begins} == {0}


def test_what_no_storage_holds_is_a_misfit(tmp_path):
    with pytest.raises(MisfitError) as caught:
        write(tmp_path / "x", {"w": tensor(np.ones(2, np.uint16))})

    assert str(caught.value) == "w: PyTorch's storages hold no uint16"


def test_long_numbers_are_spelled_in_eight_bytes(tmp_path):
    """No tensor of a DenseNet is so long, but a file may be; the shape of an empty one stands for it."""
    empty = tensor(np.empty((0, 2**31 + 5), np.int8))

    loaded = torch.load(write(tmp_path / "x", {"w": empty}), weights_only=True)

    assert loaded["w"].shape == (0, 2**31 + 5)
