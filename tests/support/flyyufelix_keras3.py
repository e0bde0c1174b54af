"""A network of flyyufelix's layers in Keras 3, with a Scale layer of one's own: saved, and its own logits in float64.

    python flyyufelix_keras3.py FOLDER      scale.h5, scale.weights.h5 (float32) and logits.npy (of the same numbers)

Only on TensorFlow does Keras 3 compute in float64.
"""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"

import h5py
import keras
import numpy as np
from keras import layers
from keras.src.legacy.saving import legacy_h5_format

from tests.record.old_keras import EPSILON, pictures
from tests.support.flyyufelix_files import SMALL, layers_of


class Scale(layers.Layer):
    """Scales and shifts each channel."""

    def build(self, shape):
        """Its two variables."""
        self.gamma = self.add_weight(shape=shape[-1:], name="gamma")
        self.beta = self.add_weight(shape=shape[-1:], name="beta")

    def call(self, x):
        """Channels are last."""
        return self.gamma * x + self.beta


def network():
    """The model, layer by layer; what concatenates reads what entered the dense layer as well."""
    x = inputs = old = keras.Input((None, None, 3), name="data")
    for name, what in [*layers_of(SMALL).items()][1:]:
        if name.startswith("concat"):
            x = old = layers.Concatenate(name=name)([old, x])
        else:
            x = layer(name, what)(x)
        if name.startswith("pool"):
            old = x
    return keras.Model(inputs, x)


def layer(name, what):
    """The layer of a name; `what` it is, if it has weights."""
    match what:
        case "conv", side, _, channels:
            strides = 2 if name == "conv1" else 1
            return layers.Conv2D(channels, side, strides=strides, use_bias=False, name=name)
        case "bn", _:
            return layers.BatchNormalization(epsilon=EPSILON, name=name)
        case "scale", _:
            return Scale(name=name)
        case "fc", _, classes:
            return layers.Dense(classes, name=name)
    return weightless(name)


def weightless(name):
    """The layer of a name that has no weights."""
    if "zeropadding" in name:
        return layers.ZeroPadding2D(3 if name.startswith("conv1_") else 1, name=name)
    special = {"pool1": layers.MaxPooling2D(3, 2), "pool5": layers.GlobalAveragePooling2D()}
    if name.startswith("pool"):
        return special.get(name) or layers.AveragePooling2D(2)
    return layers.Activation("softmax" if name == "prob" else "relu")


def randomised(model):
    """The model with random weights that keep activations of order one."""
    random = np.random.default_rng(3)
    for weight in model.weights:
        if len(weight.shape) > 1:
            array = random.standard_normal(weight.shape) * np.sqrt(2 / np.prod(weight.shape[:-1]))
        elif weight.name in ("gamma", "moving_variance"):
            array = random.uniform(0.5, 1.5, weight.shape)
        else:
            array = random.normal(0, 0.3, weight.shape)
        weight.assign(array)
    return model


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    model = randomised(network())
    model.save_weights(folder / "scale.weights.h5")
    with h5py.File(folder / "scale.h5", "w") as file:  # which `save_weights` of 3.15 no longer offers
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    exact = network()
    exact.load_weights(folder / "scale.weights.h5")
    logits = keras.Model(exact.input, exact.get_layer("fc6").output)
    np.save(folder / "logits.npy", logits(pictures()).numpy())
