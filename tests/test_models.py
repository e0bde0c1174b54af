"""The Keras models on Keras's torch backend, in this process; test_frameworks runs them on TensorFlow and JAX."""

import os
import sys
from dataclasses import replace

import numpy as np
import pytest

os.environ["KERAS_BACKEND"] = "torch"  # TensorFlow and torch do not share a process well
import keras
import torch

from densenet_port import extras, models
from densenet_port.conversion.load import read
from densenet_port.errors import DiskError, MisfitError, NetworkError, UsageError
from densenet_port.extras import framework
from densenet_port.fetch import registry as fetch
from densenet_port.files import file_digest
from densenet_port.layouts.layout import Layout
from densenet_port.models import DenseNet, load
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract, Input, same_input
from densenet_port.network.keras import assign, build, slots
from densenet_port.network.numpy import forward
from densenet_port.network.pictures import prepared
from densenet_port.network.units import Slot
from tests.record.cards import keras_file
from tests.support.hosting import Host
from tests.support.networks import checkpoint_file, images, torchvision_network
from tests.support.random_weights import random_weights

SMALL = Architecture.named("layers=2-3-2,growth_rate=8,init_channels=16,classes=7")
NUMBERS = {
    "nb_layers_per_block": [2, 3, 2],
    "growth_rate": 8,
    "nb_filter": 16,
    "bottleneck": True,
    "reduction": 0.5,
    "subsample_initial_block": True,
    "classes": 7,
    "input_shape": (40, 40, 3),
}
FLOAT32 = 1e-5  # of the logits' deviation: what two float32 passes differ by, at most, in networks of this size


# -- helpers ---------------------------------------------------------------------------------------------------------


def held_by(network):
    """The model's variables, in our words."""
    return {slot: keras.ops.convert_to_numpy(variable) for slot, variable in slots(network).items()}


def put_out(network, pictures):
    return keras.ops.convert_to_numpy(network(np.asarray(pictures, np.float32), training=False))


def apart(found, truth):
    """The largest difference, in deviations of the truth."""
    assert found.shape == truth.shape
    return float(np.abs(found - truth).max() / truth.std())


def first(pictures):
    """Images `n h w c` as `n c h w`."""
    return pictures.transpose(0, 3, 1, 2)


@pytest.fixture
def setting():
    """Keras's global data format, put back afterwards."""
    before = keras.config.image_data_format()
    yield keras.config.set_image_data_format
    keras.config.set_image_data_format(before)


@pytest.fixture(scope="module")
def truth():
    """Torchvision's float32 logits of the small checkpoint, for four images."""
    with torch.inference_mode():
        return torchvision_network(SMALL, seed=0)(torch.from_numpy(first(images(4, 40)))).numpy()


# -- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "total"),
    [
        ({}, 1_078_018),
        ({"nb_filter": 16}, 1_037_818),
        ({"depth": 100, "bottleneck": True, "reduction": 0.5}, 793_150),
        ({"bottleneck": True, "reduction": 0.5}, 181_210),
    ],
)
def test_cifar_networks_have_the_published_counts(numbers, total):
    assert DenseNet(**numbers).count_params() == total


def test_121_has_the_published_counts():
    network = build(Architecture.named("121"), Contract(), blank=True)

    trainable = sum(int(np.prod(variable.shape)) for variable in network.trainable_variables)
    assert (trainable, network.count_params()) == (7_978_856, 8_062_504)


@pytest.fixture
def built(monkeypatch):
    """What a constructor asks `build` for; nothing is built."""
    asked = {}
    monkeypatch.setattr(models, "build", lambda numbers, contract, **how: asked.update(how, is_=(numbers, contract)))
    monkeypatch.setattr(models, "_pooled", lambda *_: None)
    return asked


@pytest.mark.parametrize("name", ["121", "161", "169", "201", "264"])
def test_each_imagenet_constructor_builds_its_own_network(built, name):
    getattr(models, f"DenseNetImageNet{name}")(classes=12, weights=None)

    assert built["is_"] == (replace(Architecture.named(name), classes=12), Contract())
    assert built["input_shape"] == (224, 224, 3)


def test_layers_are_named_after_our_units():
    network = build(Architecture.named("layers=1-1,growth_rate=2,init_channels=4,classes=3"), Contract())

    assert " ".join(layer.name for layer in network.layers) == (
        "images stem_conv_pad stem_conv stem_norm stem_relu stem_pool_pad stem_pool "
        "block1_layer1_norm1 block1_layer1_relu1 block1_layer1_conv1 "
        "block1_layer1_norm2 block1_layer1_relu2 block1_layer1_conv2 block1_layer1_concat "
        "transition1_norm transition1_relu transition1_conv transition1_pool "
        "block2_layer1_norm1 block2_layer1_relu1 block2_layer1_conv1 "
        "block2_layer1_norm2 block2_layer1_relu2 block2_layer1_conv2 block2_layer1_concat "
        "final_norm final_relu head_pool head_dense"
    )


def test_a_deep_stem_and_a_blur_pool_are_named_alike():
    architecture = Architecture.named("layers=1,growth_rate=2,init_channels=4,classes=3,stem=deep")
    network = build(architecture, Contract(stem_pool="blur"))

    assert " ".join(layer.name for layer in network.layers).partition(" block1")[0] == (
        "images stem_conv1_pad stem_conv1 stem_norm1 stem_relu1 stem_conv2 stem_norm2 stem_relu2 "
        "stem_conv3 stem_norm3 stem_relu3 stem_pool_pad stem_pool stem_blur1 stem_blur2"
    )


@pytest.mark.parametrize(
    "architecture",
    [
        SMALL,
        replace(SMALL, stem="deep"),
        SMALL.without_head(),
        replace(SMALL, bottleneck=0, channels=1),
        replace(SMALL, stem="cifar", reduction=0.0),
    ],
)
def test_variables_are_our_slots_in_our_axes_and_order(architecture):
    network = build(architecture, Contract())

    found = {slot: tuple(variable.shape) for slot, variable in slots(network).items()}
    assert list(found.items()) == list(architecture.slots.items())


@pytest.mark.parametrize("epsilon", [1e-5, 1.001e-5, 1e-3])
def test_every_norm_has_the_contracts_epsilon_and_the_papers_momentum(epsilon):
    network = build(SMALL, Contract(epsilon=epsilon))

    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(norm.epsilon, norm.momentum) for norm in norms} == {(epsilon, 0.9)}


@pytest.mark.parametrize(
    ("architecture", "contract", "shape"),
    [
        (SMALL, Contract(), (34, 40)),
        (SMALL, Contract(stem_padding="same", epsilon=1.1e-5), (34, 40)),
        (SMALL, Contract(stem_padding="same"), (37, 35)),
        (replace(SMALL, bottleneck=0, stem="cifar", reduction=0.2), Contract(), (37, 37)),
        (replace(SMALL, channels=1), Contract(), (37, 37)),
        (SMALL.without_head(), Contract(), (34, 40)),
        (SMALL, Contract(pool_rounding="ceil"), (37, 35)),
        (replace(SMALL, stem="deep"), Contract(stem_pool="blur"), (37, 40)),
        (replace(SMALL, stem="deep"), Contract(stem_padding="same", pool_rounding="ceil"), (34, 35)),
        (SMALL, Contract(stem_padding="same", stem_pool="blur"), (34, 35)),
    ],
)
def test_it_computes_what_numpy_computes(architecture, contract, shape):
    weights, pictures = random_weights(architecture), images(2, 40, architecture.channels)[:, : shape[0], : shape[1]]
    expected = forward(architecture, contract, weights, pictures)
    network = build(architecture, contract)

    assign(network, weights)

    assert apart(put_out(network, pictures), expected) <= FLOAT32


@pytest.mark.parametrize("head", ["mean/dense", "max+mean/dense"])
def test_dropout_follows_each_dense_layer_and_rests_in_evaluation(head):
    numbers = replace(SMALL, head=head)
    weights, pictures = random_weights(numbers), images(2, 40)
    network, plain = build(numbers, Contract(), dropout_rate=0.5), build(numbers, Contract())
    assign(network, weights)
    assign(plain, weights)

    dropouts = [layer.name for layer in network.layers if isinstance(layer, keras.layers.Dropout)]
    assert dropouts == [f"block{b}_layer{i}_dropout" for b, n in ((1, 2), (2, 3), (3, 2)) for i in range(1, n + 1)]
    assert np.array_equal(put_out(network, pictures), put_out(plain, pictures))


@pytest.mark.parametrize("bottleneck", [0, 4])
def test_weight_decay_holds_for_all_kernels_but_the_3x3_ones_in_blocks_and_the_head(bottleneck):
    network = build(replace(SMALL, bottleneck=bottleneck), Contract(), weight_decay=1e-4)

    decayed = {layer.name for layer in network.layers if getattr(layer, "kernel_regularizer", None) is not None}
    narrow = {f"block{b}_layer{i}_conv1" for b, n in ((1, 2), (2, 3), (3, 2)) for i in range(1, n + 1)}
    assert decayed == {"stem_conv", "transition1_conv", "transition2_conv"} | (narrow if bottleneck else set())


def test_a_blur_pool_survives_keras_own_file(tmp_path):
    """Its reflection is an operation of Keras, so that nothing custom has to be known to whoever loads it."""
    architecture, pictures = replace(SMALL, stem="deep"), images(2, 40)
    network = build(architecture, Contract(stem_pool="blur", pool_rounding="ceil"))
    assign(network, random_weights(architecture))
    network.save(tmp_path / "blur.keras")

    again = keras.saving.load_model(tmp_path / "blur.keras")

    assert np.array_equal(put_out(again, pictures), put_out(network, pictures))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_activations_make_probabilities_of_the_logits(activation):
    weights, pictures = random_weights(SMALL), images(2, 40)
    logits, network = build(SMALL, Contract()), build(SMALL, Contract(), activation=activation)
    assign(logits, weights)

    assign(network, weights)

    expected = keras.ops.convert_to_numpy(getattr(keras.ops, activation)(put_out(logits, pictures)))
    np.testing.assert_allclose(put_out(network, pictures), expected, rtol=1e-6)


# -- shapes and orders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("globally", "shape", "order"),
    [
        ("channels_first", (224, 224, 3), "channels_last"),
        ("channels_last", (3, 224, 224), "channels_first"),
        ("channels_first", (None, None, 3), "channels_last"),
        ("channels_last", (3, None, None), "channels_first"),
        ("channels_first", (32, 32, 1), "channels_last"),
        ("channels_last", (1, 32, 32), "channels_first"),
        ("channels_last", (32, 32, 32), "channels_last"),
        ("channels_first", (32, 32, 32), "channels_first"),
    ],
)
def test_the_end_with_one_or_three_channels_tells_the_order(setting, built, globally, shape, order):
    setting(globally)

    DenseNet(shape, include_top=False)

    channels = shape[-1] if order == "channels_last" else shape[0]
    found = built["is_"][0].channels, built["input_shape"], built["data_format"]
    assert found == (channels, shape, order)


@pytest.mark.parametrize("order", ["channels_last", "channels_first"])
@pytest.mark.parametrize("shape", [(32, 32, 32), (9, 32, 32), (32, 32, 9)])
def test_an_order_that_is_asked_for_holds(built, shape, order):
    DenseNet(shape, data_format=order)

    assert (built["is_"][0].channels, built["data_format"]) == (shape[-1 if order == "channels_last" else 0], order)


def test_an_end_with_the_networks_own_channels_tells_build(setting):
    setting("channels_last")
    architecture = Architecture.named("layers=1,growth_rate=2,init_channels=4,stem=cifar,channels=5,classes=3")

    network = build(architecture, Contract(), input_shape=(5, 9, 9))

    assert network.layers[1].name == "channels_to_last"


@pytest.mark.parametrize("globally", ["channels_last", "channels_first"])
def test_neither_order_nor_setting_changes_weights_or_logits(setting, globally):
    """A user's global setting must not reach a layer; both orders of input give the same logits to the last bit."""
    weights, pictures = random_weights(SMALL), images(2, 40)
    plain = build(SMALL, Contract(), input_shape=(None, None, 3))
    assign(plain, weights)
    setting(globally)
    last, turned = (build(SMALL, Contract(), input_shape=shape) for shape in ((None, None, 3), (3, None, None)))

    assign(last, weights)
    assign(turned, weights)

    logits = put_out(plain, pictures)
    assert np.array_equal(put_out(last, pictures), logits)
    assert np.array_equal(put_out(turned, first(pictures)), logits)
    assert all(np.array_equal(array, weights[slot]) for slot, array in held_by(turned).items())


@pytest.mark.parametrize(
    ("how", "shape"),
    [
        ({}, (None, 32, 32, 3)),
        ({"data_format": "channels_first"}, (None, 3, 32, 32)),
        ({"include_top": False}, (None, None, None, 3)),
        ({"include_top": False, "data_format": "channels_first"}, (None, 3, None, None)),
    ],
)
def test_the_default_input_is_cifars(how, shape):
    assert DenseNet(nb_layers_per_block=1, growth_rate=2, **how).input_shape == shape


def test_the_imagenet_default_is_224_pixels_in_either_order(setting, built):
    setting("channels_first")

    models.DenseNetImageNet121(weights=None)

    assert (built["input_shape"], built["data_format"]) == ((3, 224, 224), "channels_first")


@pytest.mark.parametrize("shape", [(40, 40, 3), (3, 40, 40)])
def test_without_the_head_a_constructor_gives_the_pooled_last_map(shape):
    weights, pictures = random_weights(SMALL.without_head()), images(2, 40)
    network = DenseNet(**{**NUMBERS, "input_shape": shape}, include_top=False)

    assign(network, weights)

    expected = forward(SMALL.without_head(), Contract(), weights, pictures).mean(axis=(1, 2))
    assert apart(put_out(network, pictures if shape[-1] == 3 else first(pictures)), expected) <= FLOAT32


def test_without_a_head_a_channels_first_network_gives_a_channels_first_map():
    assert build(SMALL.without_head(), Contract(), input_shape=(3, 64, 64)).output_shape == (None, 36, 4, 4)


def test_an_input_tensor_keeps_what_stands_before_it():
    """Layers in front of the network stay in the model, and stay as they were when weights are assigned."""
    entering = keras.Input((40, 40, 3))
    grey = keras.layers.Conv2D(3, 1, name="before")(entering)
    weights, pictures = random_weights(SMALL), images(2, 40)

    network = DenseNet(**{**NUMBERS, "input_shape": None}, input_tensor=grey, activation=None)
    assign(network, weights)

    mixed = pictures @ keras.ops.convert_to_numpy(network.get_layer("before").kernel)[0, 0]
    assert apart(put_out(network, pictures), forward(SMALL, Contract(), weights, mixed)) <= FLOAT32


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "relu"}, "activation must be 'softmax', 'sigmoid' or None, found 'relu'"),
        ({"activation": "sigmoid"}, "activation='sigmoid' means classes=1, found classes=10"),
        ({"reduction": 1.5}, "reduction must be at least 0 and below 1, found 1.5"),
        ({"reduction": -0.5}, "reduction must be at least 0 and below 1, found -0.5"),
        ({"reduction": 1.0}, "reduction must be at least 0 and below 1, found 1.0"),
        ({"nb_layers_per_block": [3, 3]}, "nb_layers_per_block has 2 counts, nb_dense_block is 3"),
        ({"nb_layers_per_block": (3, 3, 3, 3)}, "nb_layers_per_block has 4 counts, nb_dense_block is 3"),
        ({"depth": 41}, "depth must be 3 n + 4 unless nb_layers_per_block is given, found 41"),
        ({"depth": 4}, "no DenseNet has these numbers"),
        ({"growth_rate": 0}, "no DenseNet has these numbers"),
        ({"classes": 0}, "no DenseNet has these numbers"),
        ({"input_shape": (32, 32)}, "input_shape must be (h, w, c) or (c, h, w), found (32, 32)"),
        (
            {"input_shape": (7, 32, 3)},
            "height and width must be at least 8, found input_shape=(7, 32, 3) (channels_last)",
        ),
        ({"input_shape": (None, None, 3)}, "include_top=True needs a height and a width, found input_shape"),
        ({"input_shape": (3, 32, None)}, "include_top=True needs a height and a width, found input_shape"),
        ({"input_shape": (32, 32, None), "data_format": "channels_last"}, "the number of channels must be known"),
        ({"input_tensor": np.zeros((1, 32, 32, 3))}, "input_tensor must be a Keras tensor, found ndarray"),
        ({"data_format": "NHWC"}, "data_format must be 'channels_last' or 'channels_first', found 'NHWC'"),
        ({"stem_padding": "valid"}, "stem_padding must be 'symmetric' or 'same', found 'valid'"),
        (
            {"subsample_initial_block": True, "input_shape": (12, 12, 3)},
            "needs 13 by 13, found input_shape=(12, 12, 3) (channels_last)",
        ),
    ],
)
def test_arguments_that_do_not_fit_each_other_are_refused(arguments, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the message is compared below)
        DenseNet(**arguments)

    assert message in str(error.value)


def test_28_pixels_are_refused_by_121():
    with pytest.raises(ValueError, match="DenseNet 121 needs 29 by 29"):
        models.DenseNetImageNet121(input_shape=(28, 28, 3), weights=None)


def test_build_refuses_other_channels():
    with pytest.raises(ValueError, match=r"the network takes 3 channels, found input_shape=\(32, 32, 1\)"):
        build(SMALL, Contract(), input_shape=(32, 32, 1))


FLAT = replace(SMALL, head="flatten:3/dense")


@pytest.mark.parametrize(
    ("how", "shape"),
    [({}, (48, 48, 3)), ({"data_format": "channels_first"}, (3, 48, 48)), ({"input_shape": (50, 49, 3)}, (50, 49, 3))],
)
def test_a_head_that_reads_every_place_fixes_the_size(how, shape):
    """By default to as many pixels as the strides divide; any other of as large a map will do."""
    assert build(FLAT, Contract(), **how).input_shape == (None, *shape)


@pytest.mark.parametrize("shape", [(None, None, 3), (48, None, 3), (64, 64, 3)])
def test_a_size_that_a_head_cannot_read_is_refused(shape):
    with pytest.raises(ValueError, match="reads every place of its map: 48 by 48 fit, found input_shape"):
        build(FLAT, Contract(), input_shape=shape)


# -- weights ---------------------------------------------------------------------------------------------------------


def test_assigned_weights_are_exact_to_the_bit():
    """Denormal numbers, both zeros, and what is no number at all."""
    weights = random_weights(SMALL)
    awkward = np.array([1e-45, -1e-45, 1.1754942e-38, -0.0, 0.0, 3.4028235e38, np.inf, np.nan], np.float32)
    weights[Slot("block1.layer1.norm2", "variance")] = np.tile(awkward, 4)
    network = build(SMALL, Contract())

    assign(network, weights)

    assert {slot: array.tobytes() for slot, array in held_by(network).items()} == {
        slot: array.tobytes() for slot, array in weights.items()
    }


def test_a_slot_that_is_not_given_stops_everything():
    weights, network = random_weights(SMALL), build(SMALL, Contract())
    before = held_by(network)
    del weights[Slot("block2.layer3.norm2", "mean")]

    with pytest.raises(MisfitError) as error:
        assign(network, weights)

    expected = "1 slots are not given, 0 have no variable\n  block2.layer3.norm2.mean"
    assert str(error.value) == f"the weights do not fit the model: {expected}"
    assert all(np.array_equal(array, before[slot]) for slot, array in held_by(network).items())


def test_a_slot_without_a_variable_stops_everything():
    weights, network = random_weights(SMALL), build(SMALL.without_head(), Contract())

    with pytest.raises(MisfitError, match=r"0 slots are not given, 2 have no variable\n  head\.dense\.kernel"):
        assign(network, weights)


def test_an_array_of_another_shape_stops_everything():
    weights, network = random_weights(SMALL), build(SMALL, Contract())
    before, slot = held_by(network), Slot("head.dense", "kernel")
    weights[slot] = weights[slot].T

    with pytest.raises(MisfitError) as error:
        assign(network, weights)

    assert str(error.value) == "head.dense.kernel: expected shape (36, 7), found (7, 36)"
    assert all(np.array_equal(array, before[slot]) for slot, array in held_by(network).items())


@pytest.mark.parametrize("shape", [(40, 40, 3), (3, 40, 40)])
def test_a_constructor_takes_any_checkpoint(small, truth, shape):
    """A torchvision file, read by its layout, with the original's epsilon and padding."""
    network = DenseNet(**{**NUMBERS, "input_shape": shape}, weights=small, activation=None)

    found = put_out(network, images(4, 40) if shape[-1] == 3 else first(images(4, 40)))
    assert apart(found, truth) <= FLOAT32


def test_a_head_that_is_not_asked_for_is_dropped(small):
    network = DenseNet(**NUMBERS, weights=str(small), include_top=False)

    kept = {slot: array.tobytes() for slot, array in held_by(network).items()}
    assert kept == {slot: array.tobytes() for slot, array in read(small, no_top=True).weights.items()}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"classes": 9}, "has 7 classes, the model asked for has classes=9"),
        ({"growth_rate": 12}, "holds a layers=2-3-2,growth_rate=8"),
        ({"nb_layers_per_block": [2, 2, 2]}, "holds a layers=2-3-2"),
        ({"input_shape": (40, 40, 1)}, "with 3 input channels, not the layers=2-3-2"),
        ({"epsilon": 1e-3}, "the weights go with epsilon=1e-05, the call says epsilon=0.001"),
        ({"stem_padding": "same"}, "the weights go with stem_padding='symmetric', the call says stem_padding='same'"),
    ],
)
def test_a_checkpoint_that_does_not_fit_the_call_is_refused(small, other, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the message is compared below)
        DenseNet(**{**NUMBERS, **other}, weights=small)

    assert message in str(error.value)


def test_a_checkpoint_of_another_head_is_refused(tmp_path):
    """Also where its tensors have the same shapes."""
    numbers = replace(SMALL, head="max/dense")
    path = keras_file(tmp_path / "max.safetensors", numbers, Contract(), random_weights(numbers))

    with pytest.raises(ValueError, match="holds a network with the head max/dense, the constructors build mean/dense"):
        DenseNet(**NUMBERS, weights=path)


def test_a_checkpoint_may_be_called_what_it_is(small, truth):
    """An epsilon and a padding that say what the file says are no contradiction."""
    network = DenseNet(**NUMBERS, weights=small, activation=None, epsilon=1e-5, stem_padding="symmetric")

    assert apart(put_out(network, images(4, 40)), truth) <= FLOAT32


def test_a_checkpoint_without_a_head_gives_none(small, monkeypatch):
    monkeypatch.setattr(models, "read", lambda path: read(path, no_top=True))

    with pytest.raises(ValueError, match="has no head, the model asked for has classes=7"):
        DenseNet(**NUMBERS, weights=small)


def test_a_registered_name_means_its_file(small, truth, monkeypatch):
    asked = []
    monkeypatch.setattr(fetch, "registered", lambda *names, **how: asked.append(names) or small)

    network = DenseNet(**NUMBERS, weights="somewhere", activation=None)

    assert asked == [("somewhere", SMALL)]
    assert apart(put_out(network, images(4, 40)), truth) <= FLOAT32


def test_a_registered_set_is_downloaded_when_it_is_called_for(small, truth, monkeypatch, tmp_path, capsys):
    """Once, with Keras's own bar; the second call takes the cache's."""
    entry = fetch.Registered(url="https://example.org/w.pth", sha256=file_digest(small))
    monkeypatch.setattr(fetch, "registry", lambda: {("somewhere", SMALL.name): entry})
    monkeypatch.setenv("DENSENET_PORT_CACHE", str(tmp_path))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with Host({"w.pth": small.read_bytes()}) as host:
        monkeypatch.setenv("DENSENET_PORT_MIRROR", host.url())

        networks = [DenseNet(**NUMBERS, weights="somewhere", activation=None) for _ in range(2)]

    assert [apart(put_out(network, images(4, 40)), truth) <= FLOAT32 for network in networks] == [True, True]
    assert (len(host.log), f"{small.stat().st_size}/{small.stat().st_size}" in capsys.readouterr().out) == (1, True)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("imagenet", "no weights are registered for imagenet 264"),
        ("torchvision", "no weight file is registered for torchvision 264"),
        ("titu1994", "no weight file is registered for titu1994 264"),
    ],
)
def test_a_named_set_without_the_network_is_never_random(weights, message):
    """What is not there raises, with the way out."""
    with pytest.raises(ValueError, match=f"weights='{weights}' is neither .* for 264: weights=None .*\n{message}\n"):
        models.DenseNetImageNet264(weights=weights)


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """An empty cache, and a server with nothing: whoever asks for a file fails by another error."""
    monkeypatch.delenv("DENSENET_PORT_RELEASE", raising=False)
    monkeypatch.setenv("DENSENET_PORT_CACHE", str(tmp_path / "cache"))
    with Host({}) as host:
        monkeypatch.setenv("DENSENET_PORT_MIRROR", host.url())
        yield host


NONE = "weights=None builds it with random weights"
MEANS = "weights='imagenet' means 3 channels, found input_shape"
BODY = "layers=6-12-24-16,growth_rate=32,init_channels=64"
NEITHER = "weights='imagenet' is neither a file nor a registered set of weights for"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("121", {"classes": 12}, f"weights='imagenet' with its head means classes=1000, found classes=12: {NONE}"),
        ("161", {"input_shape": (224, 224, 1)}, f"{MEANS}=(224, 224, 1) (channels_last): {NONE}"),
        ("121", {"input_shape": (1, 64, 64)}, f"{MEANS}=(1, 64, 64) (channels_first): {NONE}"),
        ("169", {"input_tensor": keras.Input((64, 64, 5))}, f"{MEANS}=(64, 64, 5) (channels_last): {NONE}"),
        ("264", {}, f"{NEITHER} 264: {NONE}\nno weights are registered for imagenet 264\n"),
        ("121", {"bottleneck": False}, f"{NEITHER} {BODY},bottleneck=0: {NONE}"),
        ("121", {"reduction": 0.0}, f"{NEITHER} {BODY},reduction=0.0: {NONE}"),
        ("121", {"input_shape": (28, 28, 3)}, "DenseNet 121 needs 29 by 29, found input_shape=(28, 28, 3)"),
        ("121", {"epsilon": 1e-3}, "the weights go with epsilon=1e-05, the call says epsilon=0.001"),
        ("121", {"stem_padding": "same"}, "the weights go with stem_padding='symmetric', the call says stem_padding="),
        ("121", {"activation": "relu"}, "activation must be 'softmax', 'sigmoid' or None, found 'relu'"),
    ],
)
def test_what_imagenet_s_weights_cannot_be_used_for_is_said_before_a_download(nobody, name, arguments, message):
    """By default an ImageNet network has them: never other numbers, and never random ones unasked."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the message is compared below)
        getattr(models, f"DenseNetImageNet{name}")(**arguments)

    assert (message in str(error.value), nobody.log) == (True, [])


def test_imagenet_is_no_file_that_happens_to_be_called_so(nobody, tmp_path, monkeypatch):
    """Nobody means one by a default."""
    (tmp_path / "imagenet").touch()
    monkeypatch.chdir(tmp_path)

    with pytest.raises(NetworkError, match=r"densenet121-a639ec97\.pth cannot be downloaded \(HTTP 404 Not Found\)"):
        models.DenseNetImageNet121()


def test_densenet_of_imagenet_s_numbers_has_the_same_weights(nobody, monkeypatch, tmp_path):
    """The set is the network's, whoever asks for it."""
    numbers = replace(SMALL, classes=1000)
    file = checkpoint_file(tmp_path, numbers, "hosted")
    nobody.files["w.pth"] = file.read_bytes()
    entry = fetch.Registered(url="https://example.org/w.pth", sha256=file_digest(file))
    monkeypatch.setattr(fetch, "registry", lambda: {("torchvision", numbers.name): entry})

    network = DenseNet(**{**NUMBERS, "classes": 1000}, weights="imagenet", activation=None)

    with torch.inference_mode():
        truth = torchvision_network(numbers, seed=0)(torch.from_numpy(first(images(4, 40)))).numpy()
    assert apart(put_out(network, images(4, 40)), truth) <= FLOAT32


def test_a_name_that_means_nothing_is_never_random():
    with pytest.raises(ValueError, match="weights='imagnet' is neither a file nor a registered set of weights"):
        models.DenseNetImageNet201(weights="imagnet")


def test_a_path_to_nothing_says_so(tmp_path):
    with pytest.raises(DiskError, match="cannot be read"):
        DenseNet(**NUMBERS, weights=tmp_path / "absent.pth")


@pytest.mark.parametrize("shape", [None, (3, None, None)])
def test_load_builds_what_the_file_says(small, truth, shape):
    network = load(small, input_shape=shape)

    found = put_out(network, images(4, 40) if shape is None else first(images(4, 40)))
    assert apart(found, truth) <= FLOAT32


def test_load_can_put_out_something_else(small):
    network = load(str(small), activation="softmax", input_shape=(40, 40, 3))

    np.testing.assert_allclose(put_out(network, images(4, 40)).sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("output", ["logits", "softmax", "sigmoid"])
def test_load_puts_out_what_the_contract_says(small, monkeypatch, output):
    network_read = read(small)
    monkeypatch.setattr(models, "read", lambda _: replace(network_read, contract=Contract(output=output)))

    network = load(small)

    assert network.layers[-1].name == ("head_dense" if output == "logits" else f"head_{output}")


@pytest.mark.parametrize(("missing", "extra"), [("tensorflow", "keras"), ("jax", "jax"), ("nothing_known", "all")])
def test_a_missing_framework_names_what_to_install(monkeypatch, missing, extra):
    def absent(_):
        raise ModuleNotFoundError(f"No module named {missing!r}", name=f"{missing}.inner")

    monkeypatch.setattr(extras, "import_module", absent)

    with pytest.raises(UsageError) as error:
        framework("keras")

    assert (error.value.message, error.value.hint) == (
        f"keras cannot be imported: No module named {missing!r}",
        f'pip install "densenet-port[{extra}]"',
    )


# -- pictures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["torchvision", "caffe"])
def test_a_model_prepares_its_pictures(layout, small, tmp_path):
    """From pixels in either order of axes, saved and loaded by Keras; its graph is read as the same preparation."""
    picture = Layout.load(layout).contract.input
    network = read(small, contract={"input": picture})
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)
    expected = network(prepared(pixels, picture), dtype="float32")

    network.keras(input_shape=(3, 40, 40), include_preprocessing=True).save(tmp_path / "first.keras")
    network.keras(input_shape=(40, 40, 3), include_preprocessing=True).save(tmp_path / "last.keras")

    for name, given in (("first", first(pixels)), ("last", pixels)):
        assert apart(put_out(keras.saving.load_model(tmp_path / f"{name}.keras"), given), expected) <= FLOAT32
    again = read(tmp_path / "last.keras")
    assert again.origins["input"] == "graph"
    assert same_input(again.contract.input, picture, 3)
    assert replace(again.contract, input=picture, resize=None) == replace(network.contract, resize=None)


def test_deviations_that_keras_cannot_divide_by_are_refused(small):
    """Its layer would divide by its own epsilon in silence."""
    network = read(small, contract={"input": Input(std=(-1.0, 1.0, 1.0))})

    with pytest.raises(ValueError, match="Keras's Normalization divides by deviations of at least 1e-07, found -1"):
        network.keras(include_preprocessing=True)
