"""Keras in a process of its own, for configurations that were changed: what the network of each answers.

    python planted_script.py save FOLDER     flat.keras and nested.h5, their configurations and `weights.npz`
    python planted_script.py run FOLDER      `answers.npz`: for each of `configs.json`, what Keras puts out

A configuration has the weights of the file, layer by layer; where Keras makes no network of it, it has no answer.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np

from tests.support.family_script import network, randomised

SIDE = 40


def pictures(name):
    """Two pictures `n h w c`: prepared ones for `flat`, pixels from 0 to 255 for `nested`, which prepares them."""
    random = np.random.default_rng(7)
    pixels = random.integers(0, 256, (2, SIDE, SIDE, 3))
    return (pixels if name == "nested" else random.standard_normal(pixels.shape)).astype(np.float32)


def save(folder):
    layers = keras.layers
    inputs = keras.Input((SIDE, SIDE, 3))
    flat = randomised(network("applications", "softmax"))
    flat.save(folder / "flat.keras")
    inner = network("applications", None)
    inner = keras.Model(inner.input, inner.layers[-3].output, name="densenet121")
    front = keras.Sequential([layers.RandomFlip(), layers.RandomZoom(0.1)], name="augmentation")
    x = inner(front(layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)), training=False)
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    nested = randomised(keras.Model(inputs, layers.Dense(3, activation="sigmoid", name="predictions")(x)))
    nested.save(folder / "nested.h5")
    nested.save(folder / "nested.keras")
    for name, model in (("flat", flat), ("nested", nested)):
        (folder / f"{name}.json").write_text(model.to_json())
        np.savez(folder / f"{name}.npz", **weights_of(model))


def layers_with_weights(model):
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from layers_with_weights(layer)
        elif layer.weights:
            yield layer


def weights_of(model):
    return {
        f"{layer.name}|{number}": array
        for layer in layers_with_weights(model)
        for number, array in enumerate(layer.get_weights())
    }


def answer(config, weights, images):
    """What a configuration's network puts out; in words where Keras makes none, or its layers have other weights."""
    try:
        model = keras.models.model_from_json(json.dumps(config))
        for layer in layers_with_weights(model):
            names = [name for name in weights if name.rpartition("|")[0] == layer.name]
            layer.set_weights([weights[name] for name in names])
        outputs = model(images, training=False)
    except Exception as error:  # noqa: BLE001 (whatever Keras says to a configuration that is none)
        return str(error)
    return keras.ops.convert_to_numpy(outputs[0] if isinstance(outputs, list) else outputs)


def run(folder):
    answers = {}
    weights = {name: dict(np.load(folder / f"{name}.npz")) for name in ("flat", "nested")}
    for number, (name, config) in enumerate(json.loads((folder / "configs.json").read_text())):
        made = answer(config, weights[name], pictures(name))
        answers[f"{number}"] = made if isinstance(made, np.ndarray) else np.array(f"no network: {made}")
    np.savez(folder / "answers.npz", **answers)


if __name__ == "__main__":
    {"save": save, "run": run}[sys.argv[1]](Path(sys.argv[2]))
