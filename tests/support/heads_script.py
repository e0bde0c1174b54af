"""Keras in a process of its own: whole models around small DenseNets, with what the networks answer.

python -m tests.support.heads_script save FOLDER     every model as NAME.keras and NAME.h5, its answer in NAME.npz
python -m tests.support.heads_script load FOLDER     for each `*.keras` what Keras itself puts out for `x` in NAME.npz
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers
from keras.src.applications.densenet import DenseNet

SIDE = 64  # the last map has 2 × 2 places
CLASSES = 3


def body(*, pooling=None):
    """A small DenseNet of keras.applications' without a head."""
    return DenseNet(blocks=[1, 2, 1, 1], include_top=False, weights=None, input_shape=(SIDE, SIDE, 3), pooling=pooling)


def behind(network, *others):
    """A sequence of a network within the model, and layers."""
    return keras.Sequential([keras.Input((SIDE, SIDE, 3)), network, *others])


def two_pools():
    """The maximum and the mean, joined, within one model."""
    network = body()
    pools = [layers.GlobalMaxPooling2D()(network.output), layers.GlobalAveragePooling2D()(network.output)]
    x = layers.Dense(6, use_bias=False)(layers.Concatenate()(pools))
    x = layers.ReLU()(layers.BatchNormalization(epsilon=1.001e-5)(x))
    return keras.Model(network.input, layers.Dense(CLASSES)(x))


def new_first():
    """Keras's own layers, the new channels in front of the old ones; names as densenet-port has them."""

    def norm(x, name):
        x = layers.BatchNormalization(name=name, epsilon=1e-5)(x)
        return layers.ReLU(name=name.replace("norm", "relu"))(x)

    images = x = keras.Input((SIDE, SIDE, 3))
    x = norm(layers.Conv2D(8, 5, padding="same", use_bias=False, name="stem_conv")(x), "stem_norm")
    for block, count in enumerate((2, 3), start=1):
        for layer in range(1, count + 1):
            name = f"block{block}_layer{layer}"
            y = layers.Conv2D(8, 1, use_bias=False, name=f"{name}_conv1")(norm(x, f"{name}_norm1"))
            y = layers.Conv2D(4, 3, padding="same", use_bias=False, name=f"{name}_conv2")(norm(y, f"{name}_norm2"))
            x = layers.Concatenate()([y, x])
        if block == 1:
            x = layers.Conv2D(8, 1, use_bias=False, name="transition1_conv")(norm(x, "transition1_norm"))
            x = layers.AveragePooling2D(2)(x)
    x = layers.GlobalAveragePooling2D()(norm(x, "final_norm"))
    return keras.Model(images, layers.Dense(CLASSES, name="head_dense")(x))


def small_stride():
    """The stem's convolution without a stride, as people change it for small pictures."""
    network = body(pooling="avg")
    config = network.get_config()
    for layer in config["layers"]:
        if layer["config"]["name"] == "conv1_conv":
            layer["config"]["strides"] = (1, 1)
    network = keras.Model.from_config(config)
    return keras.Model(network.input, layers.Dense(CLASSES)(network.output))


MODELS = {
    "two-dense": lambda: behind(
        *(body(pooling="avg"), layers.Dense(32, activation="relu"), layers.BatchNormalization(), layers.Dropout(0.5)),
        layers.Dense(CLASSES, activation="softmax"),
    ),
    "tanh": lambda: behind(body(pooling="avg"), layers.Dense(6, activation="tanh"), layers.Dense(CLASSES)),
    "flatten": lambda: behind(body(), layers.Flatten(), layers.Dense(CLASSES)),
    "pool-flatten": lambda: behind(body(), layers.AveragePooling2D(2), layers.Flatten(), layers.Dense(CLASSES)),
    "max": lambda: behind(body(pooling="max"), layers.Dense(CLASSES)),
    "two-pools": two_pools,
    "new-first": new_first,
    "stride-1": small_stride,
    "swish": lambda: behind(body(pooling="avg"), layers.Dense(6, activation="swish"), layers.Dense(CLASSES)),
}


def shaken(model, seed=0):
    """Random norms and biases, of order one."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            size = layer.gamma.shape
            spread = random.uniform(0.5, 1.5, (2, *size)), random.normal(0, 0.2, (2, *size))
            layer.set_weights([spread[0][0], spread[1][0], spread[1][1], spread[0][1]])
        elif isinstance(layer, layers.Dense) and layer.use_bias:
            layer.set_weights([weight + random.normal(0, 0.2, weight.shape) for weight in layer.get_weights()])
        elif hasattr(layer, "layers"):
            shaken(layer)
    return model


def save(folder):
    """Every model, and what it answers."""
    for name, make in MODELS.items():
        keras.utils.set_random_seed(1)
        model = shaken(make())
        model.save(folder / f"{name}.keras")
        model.save(folder / f"{name}.h5")
        x = np.random.default_rng(1).standard_normal((2, SIDE, SIDE, 3)).astype(np.float32)
        np.savez(folder / f"{name}.npz", x=x, y=np.asarray(model(x, training=False), np.float64))


def load(folder):
    """What Keras puts out of the files there."""
    for path in sorted(folder.glob("*.keras")):
        model = keras.models.load_model(path)
        x = np.load(path.with_suffix(".npz"))["x"]
        np.savez(path.with_suffix(".out.npz"), y=np.asarray(model(x, training=False)))


if __name__ == "__main__":
    {"save": save, "load": load}[sys.argv[1]](Path(sys.argv[2]))
