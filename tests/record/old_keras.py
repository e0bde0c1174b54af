"""What Keras 1 and 2 write of a DenseNet with Scale layers, and what they compute with it; run in their own Python.

    python3.6 old_keras.py save ROW NETWORK FILE     saves FILE
    python3.6 old_keras.py load ROW NETWORK FILE     loads FILE, by order and by name

Both print, as JSON, versions, and logits of `pictures`: in float64 on Theano, in float32 on TensorFlow, where these
Keras convolve in nothing else. `flyyufelix.py` runs this file. Rows are those of docs/layouts/flyyufelix.md.

Layers, names, order and the Scale layer are those of flyyufelix/DenseNet-Keras, in our own words. Every array is
random, the affine maps of the norms too, as after fine-tuning. The `x1` kernel of the third layer has as many inputs as
outputs, so that its shape does not tell the order of its axes.
"""

import json
import os
import sys

import numpy as np

EPSILON = 1.1e-5
NETWORKS = {  # layers of each block, growth rate, channels of the stem, classes
    "small": ((3, 1, 1, 1), 4, 8, 5),
    "121": ((6, 12, 24, 16), 32, 64, 1000),
    "161": ((6, 12, 36, 24), 48, 96, 1000),
    "169": ((6, 12, 32, 32), 32, 64, 1000),
}
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


def save(row, numbers, path):
    """Save a random network, and load it into another one."""
    generation, _, ordering, whole, before = ROWS[row]
    for _ in range(before + 1):
        model = network(generation, ordering, numbers)
    _randomise(model, generation == 1 and ordering == "th")
    (model.save if whole else model.save_weights)(path)
    return {"logits": _logits(row, numbers, path).tolist()}


def load(row, numbers, path):
    """Load a file in both of Keras's ways."""
    logits = _logits(row, numbers, path)
    same = bool((logits == _logits(row, numbers, path, by_name=True)).all())
    return {"logits": logits.tolist(), "same by name": same}


def started(generation, software, ordering):
    """Versions of a Keras started on a backend, in an order of axes; Theano's optimiser would want a BLAS."""
    os.environ["KERAS_BACKEND"] = software
    os.environ["THEANO_FLAGS"] = "device=cpu,optimizer=None"
    import h5py  # noqa: F401 (Keras imports it late)
    import keras
    from keras import backend

    assert keras.__version__.startswith(f"{generation}."), keras.__version__
    if generation == 1:
        backend.set_image_dim_ordering(ordering)
    else:
        backend.set_image_data_format("channels_first" if ordering == "th" else "channels_last")
    backend.set_floatx("float32")
    parts = (keras, sys.modules[software], sys.modules["h5py"], np)
    return dict({part.__name__: part.__version__ for part in parts}, python=sys.version.split()[0])


def _logits(row, numbers, path, **how):
    """Logits `n classes` of a network that has loaded a file, in float64 on Theano."""
    from keras import backend

    generation, software, ordering, _, _ = ROWS[row]
    if software == "theano":
        backend.set_floatx("float64")
        sys.modules["theano"].config.floatX = "float64"
    model = network(generation, ordering, numbers)
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


def network(generation, ordering, numbers):
    """The network of one Keras, its layers called as flyyufelix calls them."""
    from keras import backend, layers, models

    counts, growth, width, classes = numbers
    axis = 1 if ordering == "th" else 3
    conv, join = _calls(generation, axis)
    scale = _scale_class()

    def norm(x, name, relu):
        x = layers.BatchNormalization(epsilon=EPSILON, axis=axis, name=f"{name}_bn")(x)
        return layers.Activation("relu", name=relu)(scale(axis, name=f"{name}_scale")(x))

    def layer(x, stage, number):
        name = f"{stage}_{number}"
        y = norm(x, f"conv{name}_x1", f"relu{name}_x1")
        y = norm(conv(y, 4 * growth, 1, 1, f"conv{name}_x1"), f"conv{name}_x2", f"relu{name}_x2")
        y = conv(layers.ZeroPadding2D((1, 1), name=f"conv{name}_x2_zeropadding")(y), growth, 3, 1, f"conv{name}_x2")
        return join([x, y], f"concat_{name}")

    data = layers.Input((3, None, None) if ordering == "th" else (None, None, 3), name="data", dtype=backend.floatx())
    x = conv(layers.ZeroPadding2D((3, 3), name="conv1_zeropadding")(data), width, 7, 2, "conv1")
    x = layers.ZeroPadding2D((1, 1), name="pool1_zeropadding")(norm(x, "conv1", "relu1"))
    x = layers.MaxPooling2D((3, 3), strides=(2, 2), name="pool1")(x)
    for stage, count in enumerate(counts, start=2):
        for number in range(1, count + 1):
            x = layer(x, stage, number)
        width += growth * count
        x = norm(x, f"conv{stage}_blk", f"relu{stage}_blk")
        if stage <= len(counts):
            width //= 2
            x = conv(x, width, 1, 1, f"conv{stage}_blk")
            x = layers.AveragePooling2D((2, 2), strides=(2, 2), name=f"pool{stage}")(x)
    x = layers.Dense(classes, name="fc6")(layers.GlobalAveragePooling2D(name="pool5")(x))
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


if __name__ == "__main__":
    action, row, size, file = sys.argv[1:]
    versions = started(*ROWS[row][:3])
    found = {"save": save, "load": load}[action](row, NETWORKS[size], file)
    sys.stdout.write("\n" + json.dumps(dict(versions, **found)) + "\n")  # after what Theano has printed
