"""Real Keras in a process of its own: writes files for the readers' tests, and loads what the writers wrote.

    python keras_script.py save FOLDER    every file of `save`; the true tensors of NAME in NAME.npz
    python keras_script.py load CASES     what Keras holds after loading the FILE of each case, in FILE.npz

Tensors are called `<layer>/<variable>` in Keras's own words. KERAS_BACKEND=numpy starts fastest.
"""

import json
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers
from keras.src.legacy.saving import legacy_h5_format

from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from tests.support.keras_process import LOGITS, picture


def save(folder):
    model = randomised(automatic())
    model.save_weights(folder / "automatic.weights.h5")
    model.save(folder / "automatic.keras")
    model.save(folder / "whole.h5")
    save_legacy(model, folder / "automatic.h5")
    np.savez(folder / "automatic.npz", **tensors(model))

    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    model.save_weights(folder / "compiled.weights.h5")
    model.save(folder / "compiled.h5")
    model.save(folder / "compiled.keras")

    model = randomised(nested())
    model.save_weights(folder / "nested.weights.h5")
    model.save(folder / "nested.keras")
    save_legacy(model, folder / "nested.h5")
    np.savez(folder / "nested.npz", **tensors(model.get_layer("body")), **tensors(model))

    for policy in ("float16", "bfloat16"):
        keras.config.set_dtype_policy(policy)
        model = randomised(automatic(1))
        model.save_weights(folder / f"{policy}.weights.h5")
        np.savez(folder / f"{policy}.npz", **tensors(model))


def automatic(count=11):
    """Layers with the names that Keras gives them, and one of our own."""
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, use_bias=False, name="stem")(inputs)
    for _ in range(count):
        y = layers.BatchNormalization(epsilon=1.001e-5)(x)
        x = layers.Concatenate()([x, layers.Conv2D(1, 1, use_bias=False)(layers.ReLU()(y))])
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(5)(x))


def nested():
    """A model within a model."""
    inputs = keras.Input((None, None, 3))
    x = layers.BatchNormalization(name="norm", epsilon=1e-3)(layers.Conv2D(4, 3, name="conv")(inputs))
    body = keras.Model(inputs, layers.Conv2D(2, 1, use_bias=False, name="last")(x), name="body")
    outer = keras.Input((None, None, 3))
    x = layers.BatchNormalization(name="top", epsilon=1e-5)(body(outer))
    return keras.Model(outer, layers.Conv2D(3, 1, use_bias=False, name="end")(x))


def randomised(model, seed=0):
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return model


def save_legacy(model, path):
    """The weights alone as a legacy file, which `save_weights` of 3.15 no longer offers."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


def tensors(model):
    """The weights of a model's own layers: name → array; numpy has no bfloat16, so that it is widened."""
    found = {}
    for layer in model.layers:
        for weight in layer.weights if not hasattr(layer, "layers") else []:
            array = np.array(weight)
            found[f"{layer.name}/{weight.name}"] = array if array.dtype.kind == "f" else array.astype("float32")
    return found


def load(cases):
    for case in cases:
        arch, contract, file = Architecture.from_json(case["arch"]), Contract.from_json(case["contract"]), case["file"]
        if file.endswith(".keras"):
            model = keras.models.load_model(file)
        else:
            model = network(arch, contract)
            model.load_weights(file, **({"by_name": True} if file.endswith("by_name.h5") else {}))
        np.savez(f"{file}.npz", **tensors(model), **{LOGITS: np.array(model(picture(arch.channels)))})


def network(arch, contract):
    """A DenseNet of Keras's own layers, named after our units."""
    names = iter([name.replace(".", "_") for name in arch.units])

    def conv(x, channels, size, **settings):
        return layers.Conv2D(channels, size, use_bias=False, name=next(names), **settings)(x)

    def norm(x):
        return layers.ReLU()(layers.BatchNormalization(epsilon=contract.epsilon, name=next(names))(x))

    inputs = x = keras.Input((None, None, arch.channels))
    x = stem(x, arch, contract, conv, norm)
    rounding = "same" if contract.pool_rounding == "ceil" else "valid"
    for block, count in enumerate(arch.layers):
        for _ in range(count):
            y = norm(conv(norm(x), arch.bottleneck * arch.growth_rate, 1)) if arch.bottleneck else norm(x)
            x = layers.Concatenate()([x, conv(y, arch.growth_rate, 3, padding="same")])
        if block < len(arch.layers) - 1:
            x = conv(norm(x), int(x.shape[-1] * (1 - arch.reduction)), 1)
            x = layers.AveragePooling2D(2, padding=rounding)(x)
    x = norm(x)
    if arch.classes is not None:
        activation = None if contract.output == "logits" else contract.output
        x = layers.Dense(arch.classes, activation, name=next(names))(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x)


def stem(x, arch, contract, conv, norm):
    """What stands before the first dense block."""
    padding = "valid" if contract.stem_padding == "symmetric" else "same"
    half = arch.init_channels // 2

    def padded(x, width):
        return layers.ZeroPadding2D(width)(x) if contract.stem_padding == "symmetric" else x

    if arch.stem == "cifar":
        return conv(x, arch.init_channels, 3, padding="same")
    if arch.stem == "imagenet":
        x = norm(conv(padded(x, 3), arch.init_channels, 7, strides=2, padding=padding))
    else:
        x = norm(conv(padded(x, 1), half, 3, strides=2, padding=padding))
        x = norm(conv(x, half, 3, padding="same"))
        x = norm(conv(x, arch.init_channels, 3, padding="same"))
    if contract.stem_pool == "max":
        return layers.MaxPooling2D(3, 2, padding=padding)(padded(x, 1))
    x = keras.ops.pad(layers.MaxPooling2D(3, 1, padding="same")(x), [[0, 0], [1, 1], [1, 1], [0, 0]], "reflect")
    return layers.AveragePooling2D(2, 2)(layers.AveragePooling2D(2, 1)(x))


if __name__ == "__main__":
    if sys.argv[1] == "save":
        save(Path(sys.argv[2]))
    else:
        load(json.loads(sys.argv[2]))
