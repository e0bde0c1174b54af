"""Objects in memory are read as their files are: the same bits, the same contract, the same words."""

import copy
import re
from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

import densenet_port as dp
from densenet_port.conversion.write import plan
from densenet_port.errors import MisfitError, UsageError
from densenet_port.formats.live import TRAINING
from densenet_port.layouts import cards
from densenet_port.layouts.layout import Layout, layouts
from densenet_port.network.architecture import NAMED, Architecture
from tests.record.cards import keras_file
from tests.support.networks import torchvision_network
from tests.support.random_weights import random_weights
from tests.support.torch_networks import timm_network

SMALL = Architecture.named("layers=2-1,growth_rate=4,init_channels=8,classes=3")
DEEP = replace(SMALL, stem="deep")
NUMBERS = [  # the first that a layout can hold
    Architecture.named("layers=2-3-2,growth_rate=8,init_channels=16,classes=7"),
    Architecture.named("layers=2-3-2,growth_rate=8,init_channels=64,classes=7"),
    Architecture.named("layers=2-1,growth_rate=32,init_channels=64,classes=7"),
    Architecture.named("layers=2-3-2,growth_rate=8,init_channels=16,classes=7,stem=cifar"),
    Architecture.named("layers=6-12-24-16,growth_rate=4,init_channels=8,classes=7"),
    Architecture.named("layers=2-3-2,growth_rate=48,init_channels=96,classes=7,stem=deep"),
    replace(NAMED["121d"], classes=7),
    *(
        Architecture.named(f"layers=2-3-2,growth_rate=8,init_channels=16,classes=7,head={head}")
        for head in ("no-relu/max+mean/norm/dense:512/relu/norm/dense", "mean/dense:512/norm/relu/dense")
    ),
]
NAME = "torchvision.models.densenet.DenseNet"


def network():
    """A small network of torchvision's, evaluating."""
    return torchvision_network(SMALL, 0)


def facts(source, **words):
    """All that a network is, but for what it is called."""
    read = dp.read(source, **words)
    planned = plan(read, Layout.load("keras"))
    weights = {slot: (array.dtype.name, array.tobytes()) for slot, array in read.weights.items()}
    called = rf"{re.escape(str(read.checkpoint.path))}|tests\.\S*Holder"
    return (
        *(read.layout, read.architecture, read.contract, dict(read.origins), weights, read.evidence, read.witness),
        [re.sub(called, "IT", text) for text in (*planned.notes, planned.assumption or "")],
    )


class Holder(nn.Module):
    """Somebody's own class around a network, whose code must not run when it is read."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __getattr__(self, name):
        """What is looked up by name, by torch itself when it saves the module too."""
        if name in ("shape", "dtype", "__array__", "__dlpack__"):
            raise AssertionError(name)
        return super().__getattr__(name)

    def state_dict(self, *_arguments, **_keywords):
        """Never asked for."""
        raise AssertionError("state_dict")


FORMS = {
    "a module": network,
    "a state dict": lambda: network().state_dict(),
    "a training checkpoint": lambda: {"epoch": 7, "net": [network().state_dict(), {"lr": 0.1}], "best": None},
    "a module in a dict": lambda: {"model": network(), "epoch": 3},
    "in parallel": lambda: nn.DataParallel(network()).eval(),
    "compiled": lambda: torch.compile(network()),
    "a program": lambda: torch.jit.trace(network(), torch.zeros(1, 3, 32, 32)),
    "halved": lambda: network().half(),
    "bfloat16": lambda: network().bfloat16(),
    "within a class of one's own": lambda: Holder(network()),
    "hooked": lambda: hooked(network()),
    "timm's, with a buffer that is in no file": lambda: timm_network(DEEP, "blur"),
}


def hooked(module):
    """A module with code of somebody's behind its body."""
    module.features.register_forward_hook(print)
    return module


@pytest.mark.parametrize("form", FORMS)
def test_an_object_is_read_as_its_file(form, tmp_path):
    """Bits, contract, where each entry is known from, what the graph says, and what is told, are those of the file."""
    thing = FORMS[form]()
    (torch.jit.save if form == "a program" else torch.save)(thing, tmp_path / "it.pth")

    assert facts(thing) == facts(tmp_path / "it.pth")


@pytest.mark.parametrize("layout", layouts())
def test_every_layouts_arrays_are_read_as_its_file(layout, tmp_path):
    """Names → arrays in memory are the network of the file that is written with them."""
    table = Layout.load(layout)
    numbers = next(one for one in NUMBERS if cards.holds(table, one))
    start = keras_file(tmp_path / "start.safetensors", numbers, table.contract, random_weights(numbers))
    source = dp.read(start)
    written = source.write(tmp_path / f"it{table.containers[0]}", layout=layout).out

    held, kept = (dp.read(one, src=layout, ignore_inheritance=True) for one in (source.state(layout), written))

    assert (held.architecture, {slot: array.tobytes() for slot, array in held.weights.items()}) == (
        kept.architecture,
        {slot: array.tobytes() for slot, array in kept.weights.items()},
    )


ARRAYS = {
    "numpy": lambda tensor: tensor.numpy(),
    "JAX": lambda tensor: jnp.asarray(tensor.numpy()),
    "DLPack alone": lambda tensor: SimpleNamespace(
        __dlpack__=tensor.__dlpack__, __dlpack_device__=tensor.__dlpack_device__
    ),
    "__array__ alone": lambda tensor: Arrayed(tensor.numpy()),
}


class Arrayed:
    """What gives itself as an array, and says nothing else."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        """The array."""
        return np.array(self.array, dtype, copy=copy)


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_are_anybodys(kind):
    """What gives its elements in one of the usual ways is an array."""
    state = {name: value for name, value in network().state_dict().items() if value.ndim}

    assert facts({name: ARRAYS[kind](value) for name, value in state.items()}) == facts(state)


def test_what_a_module_holds_is_seen_as_it_is_and_cannot_be_changed():
    """An array is looked at when it is asked for: no copy, and none that could be written to."""
    module, slot = network(), dp.Slot("head.dense", "bias")
    read = dp.read(module)
    with torch.no_grad():
        module.classifier.bias[0] = 5

    assert read.weights[slot][0] == 5
    with pytest.raises(ValueError, match="read-only"):
        read.weights[slot][0] = 1


def test_what_was_changed_in_a_module_is_read():
    """Its own epsilon, padding rule and pool, not those of its software."""
    module = network()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 1e-3
    module.features.pool0 = nn.Identity()

    read = dp.read(module, ignore_inheritance=True)

    assert (read.contract.epsilon, read.contract.stem_pool) == (1e-3, "none")
    assert (read.origins["epsilon"], read.origins["stem_pool"]) == ("graph", "graph")


def test_norms_that_train_are_told():
    """A module in training mode answers otherwise than the network that is read; frozen norms do not."""
    module = network().train()
    training = dp.read(module).checkpoint.metadata["notes"]
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()

    assert (training, "notes" in dp.read(module).checkpoint.metadata) == ([TRAINING], False)


TRACED = {  # a network's numbers and contract
    "same": ("layers=2-1,growth_rate=4,init_channels=8,classes=3", {"stem_padding": "same"}),
    "blur, and a softmax": (
        "layers=2-1,growth_rate=4,init_channels=8,classes=3,stem=deep",
        {"stem_pool": "blur", "output": "softmax", "epsilon": 1e-3},
    ),
    "a head of several layers": (
        "layers=2-1,growth_rate=4,init_channels=8,classes=3,head=no-relu/max+mean/norm/dense:6/relu/norm/dense",
        {"pool_rounding": "ceil", "stem_pool": "none"},
    ),
    "a flattened map": ("layers=2-1,growth_rate=4,init_channels=8,classes=3,head=flatten:2/dense", {}),
}


@pytest.mark.parametrize("name", TRACED)
def test_what_torch_makes_of_a_network_is_read_by_its_own_nodes(name, tmp_path):
    """`network.torch()` is a module of `torch.fx`: the same bits and contract, and nothing of it is assumed."""
    spec, contract = TRACED[name]
    numbers = Architecture.named(spec)
    path = keras_file(tmp_path / "it.safetensors", numbers, dp.Contract(**contract), random_weights(numbers))
    source = dp.read(path)

    read = dp.read(source.torch(), ignore_inheritance=True)

    assert dp.diff(read, source).same
    assert (read.architecture, read.contract.output) == (source.architecture, source.contract.output)
    assert ({key for key, origin in read.origins.items() if origin != "graph"}, read.evidence.assumed) == (
        {"input"},
        (),
    )


def test_a_module_that_torch_traced_is_read_by_its_own_nodes():
    """Torchvision's own forward, as torch follows it."""
    read = dp.read(torch.fx.symbolic_trace(network()))

    assert (read.layout, read.evidence.assumed, dp.diff(read, network()).same) == ("torchvision", (), True)


def test_zeros_by_another_rule_are_another_network(tmp_path):
    """A place more in front than "same" has: refused, though every size but the odd ones hides it."""
    path = keras_file(tmp_path / "it.safetensors", SMALL, dp.Contract(stem_padding="same"), random_weights(SMALL))
    module = dp.read(path).torch()
    halves = [node for node in module.graph.nodes if "floordiv" in node.name]
    halves[0].args = (halves[0].args[0], 1)

    with pytest.raises(MisfitError, match="behind the input expected a convolution, found stem.conv"):
        dp.read(module, ignore_inheritance=True)


def changed(change):
    """A network after a change."""
    module = copy.deepcopy(network())
    change(module)
    return module


def meta():
    """A module without numbers."""
    with torch.device("meta"):
        return type(network())(4, (2, 1), 8, num_classes=3)


def looped():
    """A dict that holds itself."""
    thing = {"weights": network().state_dict()}
    thing["self"] = thing
    return thing


REFUSED = {
    "a number": (
        lambda: 3,
        UsageError,
        (
            "an object of the class int cannot be read\n"
            "  give a path, a registered name, a state dict (name → array), a torch module or a Keras model"
        ),
    ),
    "an empty mapping": (
        dict,
        UsageError,
        "a state dict: holds no arrays\n  a state dict is a mapping of names to arrays",
    ),
    "a list": (
        lambda: [network().state_dict()],
        UsageError,
        (
            "an object of the class list cannot be read\n"
            "  give a path, a registered name, a state dict (name → array), a torch module or a Keras model"
        ),
    ),
    "on the meta device": (
        meta,
        MisfitError,
        (
            f"{NAME}: features.conv0.weight: a tensor on torch's meta device, which has a shape and no numbers\n"
            "  load its weights first: `module.load_state_dict(state, assign=True)`"
        ),
    ),
    "sparse": (
        lambda: {**network().state_dict(), "classifier.weight": torch.ones(3, 8).to_sparse()},
        MisfitError,
        (
            "a state dict: classifier.weight: a tensor that is no plain array (sparse_coo)\n"
            "  make it a plain tensor first (`dequantize()`, `to_dense()`)"
        ),
    ),
    "a forward in its class's place": (
        lambda: changed(lambda module: setattr(module.features, "forward", print)),
        MisfitError,
        (
            f"{NAME}: module 'features' (torch.nn.modules.container.Sequential): its forward was replaced by code that "
            "is not in the file\n"
            "  in PyTorch, save `model.state_dict()` where the network is a plain DenseNet all the same"
        ),
    ),
    "another activation": (
        lambda: changed(lambda module: setattr(module.features, "relu0", nn.SiLU())),
        MisfitError,
        (
            f"{NAME}: its own graph is another network: behind stem.norm expected ReLU, found features.relu0 (SiLU)\n"
            "  a DenseNet that was changed is another network: only its own software runs it"
        ),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused(name):
    """In words of the object, with the next step."""
    make, kind, message = REFUSED[name]

    with pytest.raises(kind) as caught:
        dp.read(make())

    assert str(caught.value) == message


def test_what_holds_itself_ends():
    """An object that refers to itself is refused, and does not run for ever."""
    with pytest.raises(dp.CorruptError, match="a state dict: the pickle nests without end"):
        dp.read(looped())


def test_an_output_by_name_is_a_files():
    with pytest.raises(UsageError) as caught:
        dp.read(network(), output_name="logits")

    assert str(caught.value) == f"{NAME}: has no output 'logits'\n  only ONNX models have outputs by name"


def test_files_need_no_torch_for_it(small):
    """What is read of a path does not look at objects."""
    assert dp.diff(dp.read(small), torch.load(small)).same
