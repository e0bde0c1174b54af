"""Record what Keras 1 and 2 wrote of titu1994's networks and of keras.applications', and what they computed with it.

    python3.6 -m tests.record.old_family save FOLDER ROW     FOLDER/ROW.h5, saved by Keras, and FOLDER/ROW.json
    python3.6 -m tests.record.old_family load ROW FILE       logits with a file of ours, loaded by order
    python3.6 -m tests.record.old_family names FOLDER        lists of names such as keys.py makes
    python -m tests.record.old_family pack FOLDER            data/old-keras/ from the first, with today's Python

The environments are those of flyyufelix.py, with keras_applications 1.0.8. Networks are built from the
description of titu1994's graphs, in our own words, after another one in the same session, so that Keras 2's numbers go
on from it; keras.applications' is the real one. Weights are multiples of 1/32: random, but small when compressed.
Logits are in float64 on Theano, in float32 on TensorFlow.
"""

import gzip
import json
import os
import sys
from datetime import date

import numpy as np

from tests.record.old_keras import pictures, started

HERE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data", "old-keras")  # noqa: PTH100, PTH118, PTH120

SMALL = (2, 3, 1), 4, 8, 5  # layers of each block, growth rate, channels of the stem, classes
NAMED = {  # titu1994's networks with published weights
    "121": ((6, 12, 24, 16), 32, 64, 1000),
    "161": ((6, 12, 36, 24), 48, 96, 1000),
    "169": ((6, 12, 32, 32), 32, 64, 1000),
}
ROWS = {  # network, Keras, backend, order of axes
    "titu1994-keras2-tensorflow": ("titu1994", 2, "tensorflow", "tf"),
    "titu1994-keras2-theano": ("titu1994", 2, "theano", "tf"),
    "titu1994-v2-keras1-theano-th": ("cifar", 1, "theano", "th"),
    "titu1994-v2-keras1-tensorflow-tf": ("cifar", 1, "tensorflow", "tf"),
    "titu1994-v2-keras2-tensorflow": ("cifar", 2, "tensorflow", "tf"),
    "applications-keras2-tensorflow": ("applications", 2, "tensorflow", "tf"),
}


def save(folder, row):
    """Save one network, load it into another, and note that one's logits."""
    kind, generation, software, ordering = ROWS[row]
    told = started(generation, software, ordering)
    network(row)
    model = network(row)
    randomise(model, ordering == "th" and generation == 1)
    path = os.path.join(folder, row + ".h5")  # noqa: PTH118 (h5py 2.10 takes no Path)
    model.save_weights(path)
    if kind == "applications":
        told["keras_applications"] = sys.modules["keras_applications"].__version__
    told["logits"] = logits(row, path).tolist()
    with open(os.path.join(folder, row + ".json"), "w") as file:  # noqa: PTH118, PTH123 (as above)
        json.dump(told, file)


def load(row, path):
    """Print the logits with a file of ours."""
    started(*ROWS[row][1:])
    sys.stdout.write(json.dumps(logits(row, path).tolist()) + "\n")


def logits(row, path):
    """Logits `n classes` of a network that has loaded a file, in float64 on Theano; the head's product is numpy's."""
    from keras import backend

    _, _, software, ordering = ROWS[row]
    if software == "theano":
        backend.set_floatx("float64")
        sys.modules["theano"].config.floatX = "float64"
    model = network(row)
    model.load_weights(path)
    images = pictures().transpose(0, 3, 1, 2) if ordering == "th" else pictures()
    run = backend.function([model.input, backend.learning_phase()], [model.layers[-1].input])
    kernel, bias = model.layers[-1].get_weights()
    return np.array(run([images, 0])[0], np.float64) @ kernel.astype(np.float64) + bias


def randomise(model, first):
    """Give a model weights that keep activations of order one; `first`: kernels have their outputs in front."""
    draw = np.random.RandomState(0)

    def drawn(weight, array):
        if array.ndim > 1:
            inputs = array.size / (array.shape[0] if first and array.ndim == 4 else array.shape[-1])
            return np.round(32 * draw.standard_normal(array.shape) * np.sqrt(2 / inputs)) / 32
        if any(word in weight.name for word in ("gamma", "running_std", "variance")):
            return draw.randint(16, 48, array.shape) / 32
        return np.round(32 * draw.normal(0, 0.3, array.shape)) / 32

    for layer in model.layers:
        layer.set_weights(list(map(drawn, layer.weights, layer.get_weights())))


def network(row):
    """The network of a row."""
    kind, generation, _, ordering = ROWS[row]
    if kind == "applications":
        import keras
        from keras_applications.densenet import DenseNet

        parts = {name: getattr(keras, name) for name in ("backend", "layers", "models", "utils")}
        settings = {"include_top": True, "weights": None, "input_shape": pictures().shape[1:], "classes": SMALL[-1]}
        return DenseNet([2, 1, 1, 1], **settings, **parts)
    return titu1994(kind, generation, ordering, *SMALL)


def titu1994(kind, generation, ordering, counts, growth, width, classes):
    """`kind` is "titu1994", an ImageNet network of September 2017, or "cifar", one of releases v1.0 and v2.0."""
    from keras import backend, layers, models

    axis = 1 if ordering == "th" else 3
    conv, join = calls(generation, axis)
    epsilon = {} if kind == "cifar" else {"epsilon": 1.1e-5}

    def norm(x):
        return layers.Activation("relu")(layers.BatchNormalization(axis=axis, **epsilon)(x))

    data = layers.Input((3, None, None) if ordering == "th" else (None, None, 3), dtype=backend.floatx())
    if kind == "cifar":
        x = conv(data, width, 3, name="initial_conv2D")
    else:
        same = {"border_mode" if generation == 1 else "padding": "same"}
        x = layers.MaxPooling2D((3, 3), strides=(2, 2), **same)(norm(conv(data, width, 7, stride=2)))
    for block, count in enumerate(counts, start=1):
        for _ in range(count):
            y = norm(x) if kind == "cifar" else norm(conv(norm(x), 4 * growth, 1))
            x = join([x, conv(y, growth, 3)])
        width += count * growth
        if block < len(counts):
            width = width if kind == "cifar" else width // 2
            x = layers.AveragePooling2D((2, 2), strides=(2, 2))(conv(norm(x), width, 1))
    x = layers.GlobalAveragePooling2D()(norm(x))
    return models.Model(data, layers.Dense(classes, activation="softmax")(x))


def calls(generation, axis):
    """How the two Keras convolve and concatenate."""
    from keras import layers

    def conv(x, channels, size, stride=1, name=None):
        named = {"name": name} if name else {}
        if generation == 1:
            settings = {"subsample": (stride, stride), "border_mode": "same", "bias": False}
            return layers.Convolution2D(channels, size, size, **settings, **named)(x)
        return layers.Conv2D(channels, size, strides=stride, padding="same", use_bias=False, **named)(x)

    def join(maps):
        if generation == 1:
            return layers.merge(maps, mode="concat", concat_axis=axis)
        return layers.concatenate(maps, axis=axis)

    return conv, join


def names(folder):
    """Names, shapes and types of the weights of full-size networks, as a legacy file of Keras 2 has them."""
    started(2, "tensorflow", "tf")
    import keras
    from keras.applications import densenet

    for arch in ("121", "169", "201"):
        keras.backend.clear_session()
        model = getattr(densenet, "DenseNet" + arch)(weights=None)
        said = "keras_applications " + sys.modules["keras_applications"].__version__
        listed(keras, model, os.path.join(folder, "keras-applications_old-" + arch), said)  # noqa: PTH118 (as above)
    for arch, numbers in NAMED.items():
        keras.backend.clear_session()
        model = titu1994("titu1994", 2, "tf", *numbers)
        said = "titu1994's graph in our own words"
        listed(keras, model, os.path.join(folder, "titu1994-" + arch), said)  # noqa: PTH118 (as above)


def listed(keras, model, path, said):
    """One list of names."""
    lines = [f"# keras {keras.__version__} {date.today()} ({said})"]  # noqa: DTZ011 (a day)
    pairs = [(layer, weight) for layer in model.layers for weight in layer.weights]
    for layer, weight in pairs:
        shape = " ".join(map(str, keras.backend.int_shape(weight)))
        variable = weight.name.rpartition(":")[0].rpartition("/")[2]
        lines.append(f"{layer.name}/{variable}\t{shape}\tfloat32")
    with open(path + ".txt", "w") as file:  # noqa: PTH123 (as above)
        file.write("\n".join(lines) + "\n")


def pack(folder):
    """Put what the old environments wrote where the tests find it: files compressed, and one table of the rest."""
    told = {}
    for row in ROWS:
        with open(os.path.join(folder, row + ".h5"), "rb") as file:  # noqa: PTH118, PTH123
            data = gzip.compress(file.read(), mtime=0)
        with open(os.path.join(HERE, row + ".h5.gz"), "wb") as file:  # noqa: PTH118, PTH123
            file.write(data)
        with open(os.path.join(folder, row + ".json")) as file:  # noqa: PTH118, PTH123
            told[row] = json.load(file)
    with open(os.path.join(HERE, "family.json"), "w") as file:  # noqa: PTH118, PTH123
        json.dump(told, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    {"save": save, "load": load, "names": names, "pack": pack}[sys.argv[1]](*sys.argv[2:])
