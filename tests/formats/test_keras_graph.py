"""A configuration says what is plain in it, in the words of each Keras."""

import pytest

from densenet_port.formats.keras.graph import metadata_of

CONV3 = {"kernel_size": [7, 7], "padding": "same"}


def layer(kind, name, **config):
    return {"class_name": kind, "config": {"name": name, **config}}


def model(*layers, **more):
    return {"class_name": "Functional", "config": {"name": "m", "layers": list(layers)}, **more}


def said(*layers):
    """What is told beside the configuration and the names."""
    return {key: value for key, value in metadata_of(model(*layers)).items() if key not in ("config", "layers")}


def test_layers_of_models_within_the_model_are_listed_too():
    inner = model(layer("Conv2D", "conv"), layer("ReLU", "relu"))

    found = metadata_of(model(layer("InputLayer", "input"), inner, layer("Dense", "head", activation="sigmoid")))

    assert (found["layers"], found["output"]) == (["input", "conv", "relu", "head"], "sigmoid")


def test_a_sequential_of_keras_1_is_a_list():
    found = metadata_of(
        {"class_name": "Sequential", "config": [layer("Dense", "a"), layer("Activation", "b", activation="softmax")]}
    )

    assert (found["layers"], found["output"]) == (["a", "b"], "softmax")


def test_norms_that_disagree_give_no_epsilon():
    """One of them stands deep within another model."""
    norms = [layer("BatchNormalization", f"n{place}", epsilon=value) for place, value in enumerate((1e-3, 1e-5))]

    assert said(norms[0], model(*norms)) == {}
    assert said(norms[1], model(norms[1])) == {"epsilon": 1e-5}


PADS = [layer("ZeroPadding2D", "a"), layer("ZeroPadding2D", "b")]
STEMS = {
    "Keras 3, same": ([layer("Conv2D", "c", **CONV3), layer("MaxPooling2D", "p", padding="same")], "same"),
    "Keras 1, same": (
        [
            layer("Convolution2D", "c", nb_row=7, nb_col=7, border_mode="same"),
            layer("MaxPooling2D", "p", border_mode="same"),
        ],
        "same",
    ),
    "padded by layers": (
        [*PADS, layer("Conv2D", "c", **CONV3 | {"padding": "valid"}), layer("MaxPooling2D", "p", padding="valid")],
        "symmetric",
    ),
    "CIFAR": (
        [layer("Conv2D", "c", kernel_size=[3, 3], padding="same"), layer("MaxPooling2D", "p", padding="same")],
        None,
    ),
    "no pool": ([layer("Conv2D", "c", **CONV3)], None),
}


@pytest.mark.parametrize(("layers", "padding"), STEMS.values(), ids=STEMS)
def test_a_stem_says_how_it_pads(layers, padding):
    assert said(*layers) == ({"stem_padding": padding} if padding else {})


@pytest.mark.parametrize(
    ("conv", "pool"), [("same", "valid"), ("valid", "same"), ("valid", "valid")], ids=lambda padding: padding
)
def test_a_stem_that_pads_in_two_ways_or_not_at_all_is_told(conv, pool):
    found = said(layer("Conv2D", "c", **CONV3 | {"padding": conv}), layer("MaxPooling2D", "p", padding=pool))

    assert found == {"notes": [f"its stem pads its convolution {conv!r} and its pool {pool!r}, which no layout does"]}


@pytest.mark.parametrize(
    ("activation", "output"), [("linear", "logits"), ("softmax", "softmax"), ("sigmoid", "sigmoid"), ("relu", None)]
)
def test_the_last_activation_is_the_output(activation, output):
    assert said(layer("Dense", "head", activation=activation)) == ({"output": output} if output else {})


def test_a_class_of_a_package_is_not_looked_into():
    """It says its package, and of its layers nothing."""
    config = {"class_name": "DenseNet121", "config": {"name": "m"}, "registered_name": "keras_hub>DenseNet121"}

    assert metadata_of(config) == {"config": config, "package": "keras-hub"}


STRANGE = [
    *([], "x", 3, None, {}, {"config": 1}, {"class_name": "M", "config": []}),
    model(),
    model(1, None, "x", {"config": {}}, {"class_name": "Conv2D", "config": 3}),
]


@pytest.mark.parametrize("config", STRANGE, ids=str)
def test_what_is_no_configuration_says_nothing(config):
    """Weights can be read all the same."""
    assert metadata_of(config) == {"config": config}


def test_settings_of_strange_kinds_say_nothing():
    layers = [
        layer("BatchNormalization", "n", epsilon="small"),
        layer("Conv2D", 3, kernel_size=7),
        layer("Dense", "head", activation={"class_name": "mine"}),
    ]

    assert metadata_of(model(*layers)) == {"config": model(*layers), "layers": ["n", "3", "head"]}
