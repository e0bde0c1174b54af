"""Whole modules are read as their state dict would be, and nothing of them, friendly or hostile, runs."""

import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from densenet_port.errors import CorruptError, MisfitError, PortError
from densenet_port.formats.torch import pth
from tests.support.networks import torchvision_network

SMALL = "layers=2-3-2,growth_rate=8,init_channels=16,classes=7"
FORMS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
SIX = np.arange(6, dtype="<f4")
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x011U\x03cpuK\x06tQK\x00"
    b"K\x02K\x03\x86K\x03K\x01\x86\x89}tR"
)


class Branching(nn.Module):
    """Everything that a state dict treats in a way of its own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, bias=False)
        self.again = self.first
        self.norm = nn.BatchNorm2d(4)
        self.empty = nn.Sequential(nn.ReLU(), nn.Identity())
        self.tied = nn.Linear(4, 4)
        self.tied.weight = nn.Parameter(torch.randn(4, 4))
        self.scale = self.tied.weight
        self.attribute = torch.ones(3)
        self.register_buffer("kept", torch.arange(5))
        self.register_buffer("made_anew", torch.randn(3), persistent=False)
        self.register_buffer("nothing", None)
        self.register_parameter("absent", None)


class Inner(nn.Module):
    """Part of another."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)


class AlsoInner(Inner):
    """Of another class, with the same in it."""


class Outer(nn.Module):
    """Holds another and is no class of torch's."""

    def __init__(self):
        super().__init__()
        self.backbone = Inner()
        self.norm = nn.BatchNorm1d(2)


class Loss(nn.Module):
    """Without a tensor."""


class Secretive(nn.Linear):
    """Pickles itself in a way of its own."""

    def __getstate__(self):
        return {"packed": [self.weight]}


def aged(module):
    """A module as torch pickled it before buffers could be left out."""
    for part in module.modules():
        del part.__dict__["_non_persistent_buffers_set"]
    return module


def save(path, thing, form="zip"):
    torch.save(thing, path, **FORMS[form])
    return path


def ours(path):
    return {name: (tensor.dtype, tensor.load().tobytes()) for name, tensor in pth.read(path).tensors.items()}


def theirs(state):
    return {
        name: (str(value.dtype).removeprefix("torch."), value.detach().numpy().tobytes())
        for name, value in state.items()
    }


MODULES = {
    "torchvision's": lambda: torchvision_network(SMALL, 0),
    "in parallel": lambda: nn.DataParallel(torchvision_network(SMALL, 0)),
    "branching": Branching,
    "of torch alone": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
    "with half its numbers": lambda: Branching().half(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES.keys())
def test_a_whole_module_is_its_state_dict(tmp_path, make, form):
    """The same names, in the same order, with the same bits."""
    module = make()

    read = ours(save(tmp_path / "x", module, form))

    assert list(read.items()) == list(theirs(module.state_dict()).items())


def test_a_module_from_before_buffers_could_be_left_out_is_read(tmp_path):
    """Files of that time lack the set; every buffer counts."""
    network = torchvision_network(SMALL, 0)
    known = theirs(network.state_dict())

    assert ours(save(tmp_path / "x", aged(network))) == known


def test_a_module_within_a_training_checkpoint_is_read(tmp_path):
    """Its names have its key before them; what stands beside it is read as ever."""
    module = Outer()
    checkpoint = pth.read(save(tmp_path / "x", {"model": module, "epoch": 3, "momentum": [torch.ones(2)]}))

    names = [*(f"model.{name}" for name in module.state_dict()), "momentum.0"]
    assert (list(checkpoint.tensors), checkpoint.metadata["values"]) == (names, {"epoch": 3})


def kind(cls):
    return f"{cls.__module__}.{cls.__qualname__}"


OWNERS = {
    "the module itself": (Outer, kind(Outer)),
    "a module in a dict": (lambda: {"model": Outer(), "epoch": 3}, kind(Outer)),
    "a module in parallel": (lambda: nn.DataParallel(Outer()), kind(Outer)),
    "a module in a sequence": (lambda: nn.Sequential(Outer(), nn.Linear(2, 2)), kind(Outer)),
    "torch's alone": (lambda: nn.Sequential(nn.Linear(2, 2)), "torch.nn.modules.container.Sequential"),
    "a loss beside it": (lambda: {"loss": Loss(), "model": Outer(), "other": nn.MSELoss()}, kind(Outer)),
    "a loss beside tensors": (lambda: {"loss": Loss(), "w": torch.ones(3)}, None),
    "two of a class": (lambda: {"model": Outer(), "ema": Outer()}, kind(Outer)),
    "two classes": (lambda: {"model": Outer(), "other": Inner()}, None),
    "two classes of like parts": (lambda: {"model": Inner(), "other": AlsoInner()}, None),
}


@pytest.mark.parametrize(("make", "expected"), OWNERS.values(), ids=OWNERS.keys())
@pytest.mark.parametrize("form", FORMS)
def test_the_class_of_the_outermost_module_is_told(tmp_path, make, expected, form):
    """The class that says which software the network is of, whatever of torch's own is wrapped around it."""
    assert pth.read(save(tmp_path / "x", make(), form)).metadata.get("module") == expected


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_part_is_refused(tmp_path):
    """Its weights are packed in a way of their own: the network without them would be another."""
    network = torchvision_network(SMALL, 0)
    torch.save(torch.ao.quantization.quantize_dynamic(network, {nn.Linear}), tmp_path / "x.pth")

    with pytest.raises(MisfitError, match="x.pth: classifier: a quantised module .*whose weights are no plain arrays"):
        pth.read(tmp_path / "x.pth")


def test_a_part_that_cannot_be_looked_into_is_refused(tmp_path):
    """Its tensors would be lost unseen."""
    path = save(tmp_path / "x", nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 1, 1), head=Secretive(2, 2))))

    with pytest.raises(MisfitError) as caught:
        pth.read(path)

    assert str(caught.value) == (
        f"{path}: module '': its part 'head' ({kind(Secretive)}) keeps its tensors in a way of its own\n"
        "  in PyTorch, save `model.state_dict()`"
    )


# -- hostile files ---------------------------------------------------------------------------------------------------


def short(word):
    return b"U" + bytes([len(word)]) + word


def module(parameters=b"}", buffers=b"}", modules=b"}", more=b"", cls=b"cmy.models\nNet\n"):
    """The pickle of a module, by hand, its parts given as pickles of dicts."""
    parts = {b"_parameters": parameters, b"_buffers": buffers, b"_modules": modules}
    return cls + b")\x81}(" + b"".join(short(name) + part for name, part in parts.items()) + more + b"ub"


def stream(tree):
    storages = {"1": struct.pack("<q", 6) + SIX.tobytes()} if TENSOR in tree else {}
    return MAGIC + b"\x80\x02" + tree + b"." + pickle.dumps(list(storages), 2) + b"".join(storages.values())


def written(path, tree):
    path.write_bytes(stream(tree))
    return path


WEIGHT = b"}" + short(b"w") + TENSOR + b"s"


def test_a_module_by_hand_is_read(tmp_path):
    """What the hostile ones below are made of, unspoilt."""
    path = written(tmp_path / "x", module(modules=b"}" + short(b"part") + module(WEIGHT) + b"s"))

    assert ours(path) == {"part.w": ("float32", SIX.tobytes())}


def test_python_2_gives_a_module_s_dicts_their_pairs_as_arguments(tmp_path):
    """Its ordered dicts are calls with a list."""
    pairs = b"ccollections\nOrderedDict\n((" + b"(" + short(b"w") + TENSOR + b"lltR"

    assert ours(written(tmp_path / "x", module(pairs))) == {"w": ("float32", SIX.tobytes())}


SPRUNG = "sprung-by-a-test"
COMMAND = f"touch {SPRUNG}".encode()
CODE = f"__import__('pathlib').Path({SPRUNG!r}).touch()".encode()
ATTACKS = {
    "REDUCE": b"cos\nsystem\n" + short(COMMAND) + b"\x85R",
    "REDUCE of another name": b"cposix\nsystem\n" + short(COMMAND) + b"\x85R",
    "NEWOBJ": b"csubprocess\nPopen\n" + short(COMMAND) + b"\x85\x81",
    "OBJ": b"(cos\nsystem\n" + short(COMMAND) + b"o",
    "INST": b"(" + short(COMMAND) + b"ios\nsystem\n",
    "a name from the stack": b"\x8c\x02os\x8c\x06system\x93" + short(COMMAND) + b"\x85R",
    "eval": b"cbuiltins\neval\n" + short(CODE) + b"\x85R",
    "exec of Python 2": b"c__builtin__\nexecfile\n" + short(CODE) + b"\x85R",
    "an import": b"cimportlib\nimport_module\n" + short(b"os") + b"\x85R",
    "a package within": b"cimportlib.util\nfind_spec\n" + short(b"os") + b"\x85R",
    "a call by way of another": b"cfunctools\npartial\ncos\nsystem\n" + short(COMMAND) + b"\x86R",
    "a method of a state": b"cm\nNet\n)\x81}" + short(b"__setstate__") + b"cos\nsystem\nsb" + short(COMMAND) + b"b",
}  # fmt: skip
PLACES = {
    "alone": lambda attack: attack,
    "beside": lambda attack: b"}(" + short(b"w") + TENSOR + short(b"x") + attack + b"u",
    "as a module": lambda attack: module(WEIGHT, modules=b"}" + short(b"part") + attack + b"s"),
    "as a buffer": lambda attack: module(WEIGHT, b"}" + short(b"b") + attack + b"s"),
    "as an attribute": lambda attack: module(WEIGHT, more=short(b"hook") + attack),
    "as a class": lambda attack: module(WEIGHT, cls=attack),
    "as the dict itself": module,
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path, monkeypatch, attack, place):
    """Wherever in a module it stands, and by whatever operation it would be called."""
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "x", place(attack))

    with pytest.raises(CorruptError, match=r"a hostile pickle: it names (\w+\.)+\w+, to run code where it is loaded"):
        pth.read(path)

    assert not Path(SPRUNG).exists()


@pytest.mark.parametrize("attack", ["REDUCE", "OBJ", "INST", "eval", "a name from the stack"])
def test_the_attack_would_have_succeeded(tmp_path, monkeypatch, attack):
    """Python's own machine runs it."""
    monkeypatch.chdir(tmp_path)

    pickle.loads(b"\x80\x04" + ATTACKS[attack] + b".")

    assert Path(SPRUNG).exists()


def test_a_state_that_would_be_called_is_refused_whatever_it_is(tmp_path):
    """A second state goes to the `__setstate__` that the first one brought; no list of names is needed for that."""
    tree = b"cmy.models\nNet\n)\x81}" + short(b"__setstate__") + b"cmy.models\nrun\nsb}b"

    with pytest.raises(CorruptError, match="a second state for one object"):
        pth.read(written(tmp_path / "x", tree))


def test_other_calls_are_tokens_and_no_tensor_is_lost(tmp_path):
    """A function of the user's own, a method of his class: named, not looked up, not refused."""
    call = b"cmy.factory\nbuild\n" + short(b"densenet") + b"\x85R"
    tree = b"}(" + short(b"model") + module(WEIGHT, more=short(b"act") + call) + short(b"args") + call + b"u"

    checkpoint = pth.read(written(tmp_path / "x", tree))

    assert (list(checkpoint.tensors), checkpoint.metadata["opaque"]) == (["model.w"], {"args": "my.factory.build"})


ITSELF = module(modules=b"}q\x00").replace(b")\x81", b")\x81q\x01") + b"0h\x00" + short(b"again") + b"h\x01s0h\x01"
MANY = b"(" + (short(b"a") + b"N") * 3000 + b"d"  # a dict of 3000 entries, of one key
ALL_ITSELF = b"".join(short(name) + b"h\x00" for name in (b"_parameters", b"_buffers", b"_modules"))
TWICE = b"}(" + short(b"a") + b"h\x01" + short(b"b") + b"h\x01u"
ENDLESS = {
    "a module that contains itself": (ITSELF, "the pickle nests without end, from 'again.again"),
    "a module whose parameters are itself": (
        b"cm\nNet\n)\x81q\x00}(" + ALL_ITSELF + b"ub",
        "holds no tensors",
    ),
    "a hundred modules deep": (
        module(WEIGHT) + b"q\x01"
        + b"".join(module(modules=b"}" + short(b"m") + b"h\x01s") + b"q\x01" for _ in range(100)),
        "the pickle nests without end, from 'm.m.m",
    ),
    "doubling modules": (
        module() + b"q\x01"
        + b"".join(module(modules=TWICE) + b"q\x01" for _ in range(30)),
        "the pickle nests without end",
    ),
    "attributes without end, met without end": (
        b"](cm\nNet\n)\x81" + MANY + b"bq\x01" + b"h\x01" * 300_000 + b"e",
        "the pickle nests without end",
    ),
    "parameters without end, met without end": (
        b"](" + module(MANY) + b"q\x01" + b"h\x01" * 300_000 + b"e",
        "the pickle nests without end",
    ),
    "buffers left out without end": (
        module(WEIGHT, more=short(b"_non_persistent_buffers_set") + b"c__builtin__\nset\n(" + b"N" * 1000 + b"l\x85R"),
        "module '' leaves out 1000 buffers; none has so many",
    ),
    "buffers left out by no set": (
        module(WEIGHT, more=short(b"_non_persistent_buffers_set") + b"K\x01"),
        "module '': its _non_persistent_buffers_set is no set",
    ),
    "one name twice": (
        module(WEIGHT, WEIGHT),
        "two tensors are called 'w'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tree", "message"), ENDLESS.values(), ids=ENDLESS.keys())
def test_a_module_without_end_or_sense_is_refused(tmp_path, tree, message):
    """Nothing recurses, and the work is bounded by what the file itself took to say."""
    with pytest.raises(CorruptError, match=message):
        pth.read(written(tmp_path / "x", tree))


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """A small whole module, zipped: name → member's bytes."""
    path = save(tmp_path_factory.mktemp("victim") / "zip", {"model": Branching(), "epoch": 3})
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@given(edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=9)), min_size=1, max_size=5))
@settings(max_examples=150, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_edited_module_gives_a_checkpoint_or_an_error(victim, tmp_path, edits):
    """Of our family."""
    program = bytearray(victim["zip/data.pkl"])
    for part, piece in edits:
        at = int(part * len(program))
        program[at : at + len(piece)] = piece
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        for name, data in victim.items():
            archive.writestr(name, bytes(program) if name.endswith("data.pkl") else data)

    try:
        found = [tensor.load().shape for tensor in pth.read(tmp_path / "x").tensors.values()]
    except PortError as error:
        found = re.sub(r"\W.*", "", error.kind, flags=re.DOTALL)

    assert found
