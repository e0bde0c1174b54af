"""Record what Keras 1 and 2 wrote of a DenseNet with Scale layers, and what they computed with it.

    python3.6 tests/record_old_keras.py save FOLDER ROW          FOLDER/ROW.h5, saved by Keras, and FOLDER/ROW.json
    python3.6 tests/record_old_keras.py load ROW FILE            logits with a file of ours, loaded by order, by name
    python tests/record_old_keras.py pack FOLDER                 data/old-keras/ from the first, with today's Python

ROW.json holds versions, and logits of `pictures` by a second network that Keras loaded the file into: in float64 on
Theano, in float32 on TensorFlow, where these Keras convolve in nothing else. The rows are those of
docs/layouts/flyyufelix.md; these environments ran them, with Python 3.6.15, PyYAML 5.4.1 and setuptools 59.6.0:

    keras1-*    Keras 1.2.2, Theano 0.9.0, tensorflow 1.4.1, numpy 1.13.3, scipy 1.0.0, h5py 2.7.1
    keras2-*    Keras 2.3.1, Theano 1.0.5, tensorflow 1.14.0, numpy 1.16.6, scipy 1.2.3, h5py 2.10.0

Layers, names, order and the Scale layer are those of flyyufelix/DenseNet-Keras, in our own words. Every array is
random, the affine maps of the norms too, as after fine-tuning. The `x1` kernel of the third layer has as many inputs as
outputs, so that its shape does not tell the order of its axes.
"""

import gzip
import json
import os
import sys

import numpy as np

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "old-keras")  # noqa: PTH100, PTH118, PTH120
LAYERS, GROWTH, INITIAL, CLASSES, EPSILON = (3, 1, 1, 1), 4, 8, 5, 1.1e-5
ROWS = {  # Keras, backend, order of axes, a whole model, how many networks stand in the graph before it
    "keras1-theano-th": (1, "theano", "th", False, 0),
    "keras1-theano-tf": (1, "theano", "tf", False, 0),
    "keras1-tensorflow-th": (1, "tensorflow", "th", False, 0),
    "keras1-tensorflow-tf": (1, "tensorflow", "tf", False, 1),
    "keras1-theano-th-whole": (1, "theano", "th", True, 0),
    "keras2-theano": (2, "theano", "th", False, 0),
    "keras2-tensorflow": (2, "tensorflow", "tf", False, 1),
}


def pictures():
    """Two pictures `n h w c` float64, of odd and even size; numpy promises that these numbers stay."""
    return np.random.RandomState(5).standard_normal((2, 44, 37, 3))


def save(folder, row):
    """Save one network, load it into another, and note that one's logits."""
    generation, software, ordering, whole, before = ROWS[row]
    keras = _started(row)
    for _ in range(before + 1):
        model = network(generation, ordering)
    _randomise(model, generation == 1 and ordering == "th")
    path = os.path.join(folder, f"{row}.h5")  # noqa: PTH118 (h5py 2.10 takes no Path)
    (model.save if whole else model.save_weights)(path)
    parts = (keras, sys.modules[software], sys.modules["h5py"], np)
    told = {part.__name__: part.__version__ for part in parts}
    told["python"] = sys.version.split()[0]
    told["logits"] = _logits(row, path).tolist()
    with open(os.path.join(folder, f"{row}.json"), "w") as file:  # noqa: PTH118, PTH123 (as above)
        json.dump(told, file)


def load(row, path):
    """Print the logits with a file of ours; the way that Keras finds its layers makes no difference."""
    _started(row)
    by_order, by_name = _logits(row, path), _logits(row, path, by_name=True)
    sys.stdout.write(json.dumps({"logits": by_order.tolist(), "same": bool((by_order == by_name).all())}) + "\n")


def _started(row):
    """Keras on the row's backend, in its order of axes; without Theano's optimiser, which wants a BLAS of its own."""
    generation, software, ordering, _, _ = ROWS[row]
    os.environ["KERAS_BACKEND"] = software
    os.environ["THEANO_FLAGS"] = "device=cpu,optimizer=None"
    import keras
    from keras import backend

    assert keras.__version__.startswith(f"{generation}."), keras.__version__
    if generation == 1:
        backend.set_image_dim_ordering(ordering)
    else:
        backend.set_image_data_format("channels_first" if ordering == "th" else "channels_last")
    backend.set_floatx("float32")
    return keras


def _logits(row, path, **how):
    """Logits `n classes` of a network that has loaded a file, in float64 on Theano."""
    from keras import backend

    generation, software, ordering, _, _ = ROWS[row]
    if software == "theano":
        backend.set_floatx("float64")
        sys.modules["theano"].config.floatX = "float64"
    model = network(generation, ordering)
    model.load_weights(path, **how)
    images = pictures().transpose(0, 3, 1, 2) if ordering == "th" else pictures()
    run = backend.function([model.input, backend.learning_phase()], [model.get_layer("fc6").output])
    return run([images, 0])[0]


def _randomise(model, first):
    """Give a model weights that keep activations of order one; `first`: kernels have their outputs in front."""
    draw = np.random.RandomState(0)

    def drawn(weight, array):
        if array.ndim > 1:
            inputs = array.size / (array.shape[0] if first and array.ndim == 4 else array.shape[-1])
            return draw.standard_normal(array.shape) * np.sqrt(2 / inputs)
        if any(word in weight.name for word in ("gamma", "running_std", "variance")):
            return draw.uniform(0.5, 1.5, array.shape)
        return draw.normal(0, 0.3, array.shape)

    for layer in model.layers:
        layer.set_weights(list(map(drawn, layer.weights, layer.get_weights())))


def network(generation, ordering):
    """The network of one Keras, its layers called as flyyufelix calls them."""
    from keras import backend, layers, models

    axis = 1 if ordering == "th" else 3
    conv, join = _calls(generation, axis)
    scale = _scale_class()

    def norm(x, name, relu):
        x = layers.BatchNormalization(epsilon=EPSILON, axis=axis, name=f"{name}_bn")(x)
        return layers.Activation("relu", name=relu)(scale(axis, name=f"{name}_scale")(x))

    def layer(x, stage, number):
        name = f"{stage}_{number}"
        y = norm(x, f"conv{name}_x1", f"relu{name}_x1")
        y = norm(conv(y, 4 * GROWTH, 1, 1, f"conv{name}_x1"), f"conv{name}_x2", f"relu{name}_x2")
        y = conv(layers.ZeroPadding2D((1, 1), name=f"conv{name}_x2_zeropadding")(y), GROWTH, 3, 1, f"conv{name}_x2")
        return join([x, y], f"concat_{name}")

    data = layers.Input((3, None, None) if ordering == "th" else (None, None, 3), name="data", dtype=backend.floatx())
    x = conv(layers.ZeroPadding2D((3, 3), name="conv1_zeropadding")(data), INITIAL, 7, 2, "conv1")
    x = layers.ZeroPadding2D((1, 1), name="pool1_zeropadding")(norm(x, "conv1", "relu1"))
    x, width = layers.MaxPooling2D((3, 3), strides=(2, 2), name="pool1")(x), INITIAL
    for stage, count in enumerate(LAYERS, start=2):
        for number in range(1, count + 1):
            x = layer(x, stage, number)
        width += GROWTH * count
        x = norm(x, f"conv{stage}_blk", f"relu{stage}_blk")
        if stage <= len(LAYERS):
            width //= 2
            x = conv(x, width, 1, 1, f"conv{stage}_blk")
            x = layers.AveragePooling2D((2, 2), strides=(2, 2), name=f"pool{stage}")(x)
    x = layers.Dense(CLASSES, name="fc6")(layers.GlobalAveragePooling2D(name="pool5")(x))
    return models.Model(data, layers.Activation("softmax", name="prob")(x))


def _calls(generation, axis):
    """How the two Keras convolve and concatenate."""
    from keras import layers

    def conv(x, channels, size, stride, name):
        if generation == 1:
            made = layers.Convolution2D(channels, size, size, subsample=(stride, stride), bias=False, name=name)
        else:
            made = layers.Conv2D(channels, size, strides=stride, use_bias=False, name=name)
        return made(x)

    def join(maps, name):
        if generation == 1:
            return layers.merge(maps, mode="concat", concat_axis=axis, name=name)
        return layers.Concatenate(axis=axis, name=name)(maps)

    return conv, join


def _scale_class():
    """A layer that scales and shifts each channel, whose variables bear its name."""
    from keras import backend
    from keras.engine import Layer

    class Scale(Layer):
        def __init__(self, axis, **settings):
            self.axis = axis
            super().__init__(**settings)

        def build(self, shape):
            width = (shape[self.axis],)
            self.gamma = self.add_weight(shape=width, initializer="one", name=f"{self.name}_gamma")
            self.beta = self.add_weight(shape=width, initializer="zero", name=f"{self.name}_beta")
            super().build(shape)

        def call(self, x, mask=None):
            wide = [1] * 4
            wide[self.axis] = -1
            return backend.reshape(self.gamma, wide) * x + backend.reshape(self.beta, wide)

        def get_config(self):
            return dict(super().get_config(), axis=self.axis)

    return Scale


def pack(folder):
    """Put what the old environments wrote where the tests find it: files compressed, and one table of the rest."""
    told = {}
    for row in ROWS:
        with open(os.path.join(folder, f"{row}.h5"), "rb") as file:  # noqa: PTH118, PTH123
            data = gzip.compress(file.read(), mtime=0)
        with open(os.path.join(HERE, f"{row}.h5.gz"), "wb") as file:  # noqa: PTH118, PTH123
            file.write(data)
        with open(os.path.join(folder, f"{row}.json")) as file:  # noqa: PTH118, PTH123
            told[row] = json.load(file)
    with open(os.path.join(HERE, "recorded.json"), "w") as file:  # noqa: PTH118, PTH123
        json.dump(told, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    {"save": save, "load": load, "pack": pack}[sys.argv[1]](*sys.argv[2:])
