"""Live Keras models are read as the `.keras` files that Keras writes of them, on its torch backend, in this process."""

import os

import numpy as np
import pytest

os.environ["KERAS_BACKEND"] = "torch"  # TensorFlow and torch do not share a process well
import keras
from keras import layers
from keras.src.applications.densenet import DenseNet as KerasDenseNet

import densenet_port as dp
from densenet_port.errors import MisfitError, UsageError
from densenet_port.network.architecture import Architecture
from tests.formats.test_live import facts
from tests.support.networks import torchvision_network

SMALL = Architecture.named("layers=2-1,growth_rate=4,init_channels=8,classes=3")
SIDES = (64, 64, 3)


def randomised(model):
    """A model with other numbers than it begins with."""
    random = np.random.default_rng(0)
    model.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    return model


def ours(**settings):
    """A model of this project's."""
    return dp.read(torchvision_network(SMALL, 0)).keras(**settings)


def applications(**settings):
    """A small network of keras.applications' own class."""
    return randomised(KerasDenseNet([1, 1, 1, 1], weights=None, input_shape=SIDES, **{"classes": 3, **settings}))


def transfer():
    """One's own transfer: pixels are scaled, a body is called as it answers, and another head stands behind it."""
    pictures = keras.Input(SIDES)
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(pictures)
    x = applications(include_top=False)(x, training=False)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(pictures, layers.Dense(5, activation="sigmoid")(x))


def sequential():
    """A body and a head, one after the other."""
    return keras.Sequential([keras.Input(SIDES), applications(include_top=False, pooling="avg"), layers.Dense(4)])


FORMS = {
    "ours": ours,
    "ours, channels first": lambda: ours(data_format="channels_first", input_shape=(3, 64, 64)),
    "keras.applications": applications,
    "ours, channels first, without a head": lambda: dp.read(ours(), no_top=True).keras(
        data_format="channels_first", input_shape=(3, 64, 64)
    ),
    "without a head": lambda: applications(include_top=False),
    "a transfer": transfer,
    "sequential": sequential,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:The structure of `inputs` doesn't match")
def test_a_model_is_read_as_its_file(form, tmp_path):
    """Bits, contract, and where each entry is known from: all as Keras's own file of the model has them."""
    model = FORMS[form]()
    model.save(tmp_path / "it.keras")

    assert facts(model, ignore_inheritance=True) == facts(tmp_path / "it.keras", ignore_inheritance=True)


@keras.saving.register_keras_serializable(package="mine")
class Named(keras.Model):
    """A graph under a constructor of its own, which lists no layers, as KerasHub's and kimm's are."""

    def __init__(self, width=3, **settings):
        model = applications(classes=width)
        super().__init__(inputs=model.inputs, outputs=model.outputs, **settings)
        self.width = width

    def get_config(self):
        """What its constructor takes."""
        return {"width": self.width}


class Doubling(Named):
    """One that does something beside its graph."""

    def call(self, *arguments, **keywords):
        """Twice what the graph gives."""
        return 2 * super().call(*arguments, **keywords)


class Made(keras.Model):
    """A model that is all code."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        """As the one within."""
        return self.inner(x)


def test_a_class_that_lists_no_layers_is_read_by_its_graph(tmp_path):
    """Its file says nothing of the graph; the live one does, and its head's activation with it."""
    model = Named()
    model.save(tmp_path / "it.keras")

    live, file = (dp.read(one, ignore_inheritance=True) for one in (model, tmp_path / "it.keras"))

    assert (live.origins["epsilon"], file.origins["epsilon"], live.evidence.assumed) == ("graph", "software", ())
    assert dp.diff(live, file).same


def test_what_a_class_does_beside_its_graph_is_an_assumption():
    """Its own `call` is code that nobody reads: what goes in and out is not known."""
    network = dp.read(Doubling(), ignore_inheritance=True)

    assert network.evidence.assumed == ("what Doubling does beside its layers",)
    assert network.origins["output"] == "assumed"


def test_a_class_without_a_graph_is_read_by_its_weights():
    """As a file of its weights is, and that is said."""
    model = Made(applications())

    network = dp.read(model, ignore_inheritance=True)

    name = f"{Made.__module__}.Made"
    notes = [f"the class of {name} does not tell its graph: what weights do not tell is assumed"]
    assert (network.layout, network.evidence) == ("keras-applications", None)
    assert network.checkpoint.metadata["notes"] == notes


def test_what_was_changed_in_a_model_is_read():
    """A layer's own epsilon, as it is now."""
    model = applications()
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.epsilon = 1e-3

    network = dp.read(model, ignore_inheritance=True)

    assert (network.contract.epsilon, network.origins["epsilon"]) == (1e-3, "graph")


def patched():
    """A model one of whose layers runs other code."""
    model = applications()
    model.get_layer("bn").call = lambda x: x
    return model


REFUSED = {
    "a layer that was replaced": (
        patched,
        MisfitError,
        (
            "keras.Functional densenet: the call of layer bn was replaced by code that is not its class's\n"
            "  read its weights alone: give a mapping of names to arrays"
        ),
    ),
    "not built": (
        lambda: keras.Sequential([layers.Dense(3)], name="empty"),
        UsageError,
        "keras.Sequential empty: has no weights\n  build the model first: give it an input shape, or call it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused(name):
    """In words, with the next step."""
    make, kind, message = REFUSED[name]

    with pytest.raises(kind) as caught:
        dp.read(make(), ignore_inheritance=True)

    assert str(caught.value) == message
