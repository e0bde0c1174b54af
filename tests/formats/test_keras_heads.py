"""Whole Keras models with heads, stems and orders of channels of their own, and the ones that we write for Keras."""

import numpy as np
import pytest

import densenet_port as dp
from densenet_port.errors import MisfitError, UsageError
from densenet_port.network.numpy import run
from densenet_port.prove.images import SIZES
from tests.network.test_lowerings import FORMS, pictures_for
from tests.record.cards import keras_file
from tests.support import warm
from tests.support.random_weights import random_weights

FLOAT32 = 1e-5  # of the outputs' deviation: what two float32 passes differ by, at most, in networks of this size


def keras(verb, folder):
    """What the script does, on TensorFlow."""
    warm.keras("tests.support.heads_script", verb, folder)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of models that Keras saved, with its answers."""
    folder = tmp_path_factory.mktemp("heads")
    keras("save", folder)
    return folder


def answer(network, folder, name):
    """What a network puts out for the model's pictures, and what Keras does."""
    with np.load(folder / f"{name}.npz") as kept:
        return run(network.graph, network.weights, kept["x"]), kept["y"]


def apart(found, truth):
    """The largest difference, in deviations of the truth."""
    assert found.shape == truth.shape
    return float(np.abs(found - truth).max() / truth.std())


HEADS = {
    "two-dense": ("mean/dense:32/relu/norm/dense", {"output": "softmax"}),
    "tanh": ("mean/dense:6/tanh/dense", {}),
    "flatten": ("flatten:2/dense", {"head_pool": 1}),
    "pool-flatten": ("mean/dense", {}),
    "max": ("max/dense", {}),
    "two-pools": ("max+mean/dense:6/norm/relu/dense", {}),
    "new-first": ("mean/dense", {"stem_pool": "none"}),
    "stride-1": ("mean/dense", {"stem_stride": 1}),
}


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.parametrize("name", HEADS)
def test_a_model_is_read_by_its_own_graph(saved, name, ending):
    """Its head, its stride, its order of channels; nothing of them is assumed."""
    head, contract = HEADS[name]

    network = dp.read(saved / f"{name}.{ending}")

    assert (network.architecture.head, network.ledger.assumed) == (head, ())
    assert {key: getattr(network.contract, key) for key in contract} == contract
    assert {network.origins[key] for key in contract} <= {"graph"}
    assert apart(*answer(network, saved, name)) <= FLOAT32


@pytest.mark.parametrize("name", HEADS)
def test_its_port_is_the_same_function(saved, name, tmp_path):
    """Through our own layout, in float64."""
    network = dp.read(saved / f"{name}.keras")

    port = dp.read(network.write(tmp_path / "port.weights.h5", dtype="float64").out)

    found, truth = (answer(one, saved, name)[0] for one in (port, network))
    assert apart(found, truth) <= 1e-10


def test_an_order_of_channels_and_a_second_epsilon_are_told(saved):
    notes = [dp.read(saved / f"{name}.keras").ledger.notes for name in ("new-first", "two-dense")]

    assert notes == [
        ("its graph joins the channels of dense layers new-first: they are read in that order",),
        (
            "dense, batch_normalization, dense_1 are taken for the head: each reads what the one before puts out",
            "the head's norms have the epsilon 0.001: their variances or scales take up the difference",
        ),
    ]


def test_another_activation_in_the_head_is_refused(saved):
    with pytest.raises(MisfitError) as error:
        dp.read(saved / "swish.keras")

    assert "its own graph is another network: behind head.dense1 expected ReLU, found silu of Dense" in str(error.value)
    assert error.value.hint == "--no-top takes what is a DenseNet of it"


ENDINGS = (".weights.h5", ".h5", ".keras", ".safetensors")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_written_and_read_back(name, ending, tmp_path):
    """Bit by bit, with architecture and contract; without its record by its own graph, or by an assumption."""
    architecture, contract = FORMS[name]
    weights = random_weights(architecture)
    source = keras_file(tmp_path / "source.safetensors", architecture, contract, weights)

    network = dp.read(dp.read(source).write(tmp_path / f"out{ending}").out)

    assert (network.architecture, network.contract) == (architecture, contract)
    assert {slot: network.weights[slot].tobytes() for slot in network.weights} == {
        slot: array.tobytes() for slot, array in weights.items()
    }


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """What Keras puts out of a `.keras` of each form: name → our own output and Keras's."""
    folder = tmp_path_factory.mktemp("forms")
    truths = {}
    for place, (name, form) in enumerate(FORMS.items()):
        source = keras_file(folder / "source.safetensors", *form, random_weights(form.architecture))
        network = dp.read(source)
        network.write(folder / f"{place}.keras")
        pictures = pictures_for(form)
        np.savez(folder / f"{place}.npz", x=pictures)
        truths[name] = (folder / f"{place}.out.npz", run(network.graph, network.weights, pictures))
    keras("load", folder)
    return {name: (np.load(path)["y"], truth) for name, (path, truth) in truths.items()}


@pytest.mark.parametrize("name", FORMS)
def test_keras_itself_runs_what_is_written(loaded, name):
    """With what the contract puts behind the head, on TensorFlow in float32."""
    assert apart(*loaded[name]) <= FLOAT32


def test_a_layout_of_one_software_takes_none_of_them(tmp_path):
    """Each is refused by what it has that the software cannot build."""
    refusals = {}
    for name in ("two reductions", "no norm at the end", "two dense layers", "a flattened map", "a stem of stride 1"):
        form = FORMS[name]
        source = keras_file(tmp_path / "source.safetensors", *form, random_weights(form.architecture))
        with pytest.raises(MisfitError) as error:
            dp.read(source).write(tmp_path / "out.pth", layout="torchvision")
        refusals[name] = str(error.value).splitlines()[0].removeprefix(f"{source}: ")

    cannot = "torchvision cannot hold this network:"
    assert refusals == {
        "two reductions": f"{cannot} reduction must be 0.5, found (0.4, 0.6)",
        "no norm at the end": f"{cannot} final_norm must be True, found False",
        "two dense layers": f"{cannot} head must be mean/dense, found mean/dense:6/relu/dense",
        "a flattened map": f"{cannot} head must be mean/dense, found flatten:2/dense",
        "a stem of stride 1": (
            "its network has the stem stride 1, torchvision only the usual one: "
            "the same weights would be another function"
        ),
    }


@pytest.mark.parametrize("name", ["two-dense", "two-pools", "flatten"])
def test_a_port_is_proven_by_keras_s_own_run(saved, name, tmp_path):
    """Unit by unit; where the head reads every place of its map, at the one size that fits."""
    port = dp.read(saved / f"{name}.keras").write(tmp_path / "port.weights.h5").out

    parity = dp.check(port, against=saved / f"{name}.keras", backend="numpy", sizes=SIZES, threads=1)

    assert parity.grade == "proven"


def test_a_size_that_a_head_cannot_read_is_refused(saved, tmp_path):
    port = dp.read(saved / "flatten.keras").write(tmp_path / "port.weights.h5").out

    with pytest.raises(UsageError, match="images of 96 pixels are none that the network takes") as error:
        dp.check(port, against=saved / "flatten.keras", backend="numpy", sizes=(96,))

    assert error.value.hint == "its head reads every place of the last map: 64 by 64 pixels fit"
