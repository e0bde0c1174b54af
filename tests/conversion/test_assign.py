"""A network is put into a model that is there: whole, after every check, or not at all."""

import os

import numpy as np
import pytest

os.environ["KERAS_BACKEND"] = "torch"  # TensorFlow and torch do not share a process well
import keras
import torch
from keras.src.applications.densenet import DenseNet as KerasDenseNet
from torch import nn
from torchvision.models.densenet import DenseNet

import densenet_port as dp
from densenet_port.errors import MisfitError, UsageError
from densenet_port.network.architecture import Architecture
from tests.record.cards import keras_file
from tests.support.networks import images, torchvision_network
from tests.support.random_weights import random_weights

NUMBERS = {"growth_rate": 4, "block_config": (2, 1), "num_init_features": 8}
SMALL = Architecture.named("layers=2-1,growth_rate=4,init_channels=8,classes=3")
WIDE = Architecture.named("layers=1-1-1-1,growth_rate=32,init_channels=64,classes=3")  # keras.applications' widths
NAME = "torchvision.models.densenet.DenseNet"
IMAGES = images(2, 64)


@pytest.fixture(scope="module")
def source():
    """A small network of torchvision's that is read in memory."""
    return dp.read(torchvision_network(SMALL, 0))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A network as wide as keras.applications' are."""
    path = tmp_path_factory.mktemp("wide") / "wide.safetensors"
    return dp.read(keras_file(path, WIDE, dp.Contract(), random_weights(WIDE)))


def apart(model, source):
    """How far a model's logits are from the network's, in their deviations."""
    truth = source(IMAGES)
    if isinstance(model, keras.Model):
        logits = keras.ops.convert_to_numpy(model(IMAGES, training=False))
    else:
        logits = model.eval()(torch.from_numpy(IMAGES).permute(0, 3, 1, 2).to(model_dtype(model))).detach().numpy()
    return float(np.abs(logits - truth).max() / truth.std())


def model_dtype(model):
    """The type of a torch module's numbers."""
    return next(model.parameters()).dtype


def held(model):
    """Every bit of a model."""
    if isinstance(model, keras.Model):
        return [weight.tobytes() for weight in model.get_weights()]
    return [value.numpy().tobytes() for value in model.state_dict().values()]


def torchvision():
    """A model of torchvision's, as initialised, after a step of training."""
    model = DenseNet(**NUMBERS, num_classes=3)
    model(torch.zeros(2, 3, 32, 32))
    return model.eval()


def timm():
    """A model of timm's, as initialised."""
    from timm.models.densenet import DenseNet as Timm

    return Timm(growth_rate=4, block_config=(2, 1), num_classes=3).eval()


def applications(**settings):
    """A model of keras.applications' own class, small."""
    given = {"classifier_activation": None, "classes": 3, "input_shape": (64, 64, 3), **settings}
    return KerasDenseNet([1, 1, 1, 1], weights=None, **given)


def scaled(module, epsilon):
    """A module whose norms add another epsilon."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = epsilon
    return module


def biased(module):
    """A module whose stem has a bias."""
    module.features.conv0 = nn.Conv2d(3, 8, 7, 2, 3)
    return module


MODELS = {
    "torchvision": torchvision,
    "timm": timm,
    "in parallel": lambda: nn.DataParallel(torchvision()).eval(),
    "in double": lambda: torchvision().double(),
    "with a bias of its own": lambda: biased(torchvision()),
    "another epsilon": lambda: scaled(torchvision(), 1e-3),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_torch_model_gives_the_networks_logits(source, name):
    """Whatever it held, and whatever epsilon it has; what counts its batches stays."""
    model = MODELS[name]()
    counters = [value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")]

    done = source.assign(model)

    assert apart(model, source) < 1e-6
    assert counters == [value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")]
    assert (done.out, done.target.name, done.notes) == (None, "torchvision", ())


def test_a_model_of_keras_applications_gives_the_networks_logits(wide):
    """Its epsilon is another: the norms absorb it, as in a file of its layout."""
    model = applications()

    done = wide.assign(model)

    assert apart(model, wide) < 1e-6
    assert (done.target.name, done.absorbed["from"], done.absorbed["to"]) == ("keras-applications", 1e-5, 1.001e-5)
    written = wide.state("keras-applications")
    assert [weight.tobytes() for weight in model.get_weights()] == [written[name].tobytes() for name in names(model)]


def names(model):
    """What a file of keras.applications calls a model's weights, in the model's order."""
    return [f"{layer.name}/{weight.name}" for layer in model.layers for weight in layer.weights]


def test_a_model_of_ours_gives_back_the_same_bits(source):
    """What `keras` makes, emptied and filled again, is what it was; and so is its network."""
    model = source.keras()
    before = held(model)
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])

    source.assign(model)

    assert held(model) == before
    assert dp.diff(model, source).same


def test_objects_and_files_are_the_same_bits(source, tmp_path):
    """`keras`, `torch` and `state` give what is read from the files of the same network."""
    path = source.write(tmp_path / "port.weights.h5").out
    state = source.write(tmp_path / "port.pth", layout="torchvision").out

    assert held(source.keras()) == held(dp.load(path))
    assert held(source.torch()) == held(dp.read(path).torch())
    written = torch.load(state)
    assert {name: array.tobytes() for name, array in source.state("torchvision").items()} == {
        name: value.numpy().tobytes() for name, value in written.items()
    }


def padded():
    """A model whose stem sees the picture elsewhere."""
    model = torchvision()
    model.features.conv0 = nn.Sequential(nn.ZeroPad2d((2, 3, 2, 3)), nn.Conv2d(3, 8, 7, 2, bias=False))
    return model


def unpooled():
    """A model without the stem's pool."""
    model = torchvision()
    model.features.pool0 = nn.Identity()
    return model


def headed(classes):
    """A model of another number of classes."""
    return DenseNet(**NUMBERS, num_classes=classes).eval()


REFUSED = {
    "another head": (
        lambda: headed(4),
        (
            f"{NAME} and {NAME} are networks of different numbers: expected and found classes 3 and 4\n"
            "  no_top=True leaves the model's own head alone"
        ),
    ),
    "other numbers": (
        lambda: DenseNet(4, (1, 1), 8, num_classes=3).eval(),
        f"{NAME} and {NAME} are networks of different numbers: expected and found layers [2, 1] and [1, 1]",
    ),
    "another pool": (
        unpooled,
        (
            f"{NAME}: its network pools the stem by max, {NAME} only none: the same weights would be another function\n"
            "  convert to a layout that carries its contract (keras)"
        ),
    ),
    "half precision": (
        lambda: torchvision().half(),
        f"{NAME}: head.dense.bias holds numbers that float16 cannot\n  give the model a wider type first",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_another_function_is_refused_and_nothing_is_set(name):
    """A head of another size, other numbers, another pool, a type that cannot hold the numbers."""
    make, message = REFUSED[name]
    model, module = make(), torchvision_network(SMALL, 0)
    module.classifier.bias[0] = 1e6
    before = held(model)

    with pytest.raises(MisfitError) as caught:
        dp.read(module).assign(model)

    assert (str(caught.value), held(model) == before) == (message, True)


def test_the_models_own_head_is_left_alone(source):
    """`no_top` sets the body, whatever head stands behind it, also one that is no DenseNet's."""
    model = headed(4)
    model.classifier = nn.Sequential(nn.Linear(10, 6), nn.SiLU(), nn.Linear(6, 4))
    before = held(model.classifier)

    source.assign(model, no_top=True)

    assert held(model.classifier) == before
    assert held(model.features.conv0) == [
        source.weights[dp.Slot("stem.conv", "kernel")].transpose(3, 2, 0, 1).tobytes()
    ]


def test_what_cannot_be_set_leaves_everything_as_it_was(source):
    """A variable that refuses in the middle: those before it get back what they held."""
    model = torchvision()
    with torch.inference_mode():
        model.features.norm5.bias = nn.Parameter(torch.ones(12), requires_grad=False)
    before = held(model)

    with pytest.raises(MisfitError) as caught:
        source.assign(model)

    assert held(model) == before
    assert str(caught.value).startswith(f"{NAME}: features.norm5.bias cannot be set: RuntimeError: Inplace update to")


class Around(nn.Module):
    """Somebody's own class around a network."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner


def test_a_network_within_ones_own_class_is_set_where_it_stands(source):
    """Its names have another front, and what stands around it is left alone."""
    model = Around(torchvision())

    source.assign(model)

    assert apart(model.inner, source) < 1e-6


@pytest.mark.parametrize("thing", [{}, 3])
def test_what_is_no_model_is_refused(source, thing):
    """A mapping is none: its arrays are somebody else's."""
    with pytest.raises(UsageError) as caught:
        source.assign(thing)

    assert str(caught.value) == (
        f"weights cannot be put into an object of the class {type(thing).__name__}\n"
        "  give a torch module or a Keras model; `state(layout)` gives the weights by name"
    )


def test_numbers_that_a_model_cannot_hold_are_no_infinities():
    """As in a file: float32 does not take what only float64 holds."""
    module = torchvision_network(SMALL, 0).double()
    module.classifier.bias[0] = 1e300
    source = dp.read(module)

    for build in (source.keras, source.torch):
        with pytest.raises(MisfitError, match=r"head\.dense\.bias holds numbers that float32 cannot"):
            build()


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        (
            "jax",
            (
                "Keras runs on torch in this process, not on jax\n"
                "  set KERAS_BACKEND=jax before Keras is first imported, in a process of its own"
            ),
        ),
        ("theano", "Keras has no backend 'theano'\n  known: tensorflow, torch, jax"),
    ],
)
def test_another_backend_is_refused(source, backend, message):
    """A process has one backend of Keras's."""
    assert source.keras(backend="torch").name == "densenet"
    with pytest.raises(UsageError) as caught:
        source.keras(backend=backend)

    assert str(caught.value) == message
