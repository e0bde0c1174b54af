"""The forms of Keras's and TensorFlow's files in which people bring DenseNets, small and random."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from keras import layers
from keras.src.applications.densenet import DenseNet

from tests.support.inputs import SIZE, form, noise

# -- Keras -------------------------------------------------------------------------------------------------------------


def keras_small(**settings: Any) -> Any:
    """A small DenseNet of keras.applications', its norms' numbers all different."""
    usual = {"include_top": True, "weights": None, "classes": 5, "classifier_activation": None}
    return keras_shaken(DenseNet(**{"blocks": [2, 2, 2, 2], "input_shape": (SIZE, SIZE, 3), **usual, **settings}))


def keras_body() -> Any:
    """The same without the head, up to the means of its last map."""
    return keras_small(include_top=False, pooling="avg")


def keras_shaken(model: Any) -> Any:
    """A model whose norms and heads have random numbers."""
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape
            drawn = random.uniform(0.5, 1.5, (2, *size)), random.normal(0, 0.2, (2, *size))
            layer.set_weights([drawn[0][0], drawn[1][0], drawn[1][1], drawn[0][1]])
        elif isinstance(layer, keras.layers.Dense):
            layer.set_weights([weight + random.normal(0, 0.2, weight.shape) for weight in layer.get_weights()])
        elif hasattr(layer, "layers"):
            keras_shaken(layer)
    return model


def keras_saved(path: Path, model: Any, *, scale: float = 1.0, channels: int = 3, weights: bool = False) -> None:
    """A model as Keras saves it, or its weights, and its own answer."""
    if weights:
        model.save_weights(path)
    else:
        model.save(path)
    answered(path, model, scale=scale, channels=channels)


def answered(path: Path, model: Any, *, scale: float = 1.0, channels: int = 3) -> None:
    """A model's own answer, beside its file."""
    x = noise(channels, scale=scale)
    y = np.asarray(model(x.astype(np.float32), training=False), np.float64)
    np.savez(path.with_name(path.name.partition(".")[0] + ".npz"), x=x, y=y)


def headed(*behind: Any, before: Any = ()) -> Any:
    """A transfer model: layers in front of a body, and behind it."""
    return keras_shaken(keras.Sequential([keras.Input((SIZE, SIZE, 3)), *before, keras_body(), *behind]))


@form("a whole model of keras.applications'", ".keras")
def keras_whole(path: Path) -> None:
    keras_saved(path, keras_small())


@form("swish in place of ReLU", ".keras")
def keras_swish(path: Path) -> None:
    net = keras_small()
    config = net.get_config()
    for layer in config["layers"]:
        if layer["class_name"] == "Activation":
            layer["config"]["activation"] = "swish"
    other = keras.Model.from_config(config)
    other.set_weights(net.get_weights())
    keras_saved(path, other)


@form('a regression: `Dense(1, "relu")`', ".keras")
def keras_relu_output(path: Path) -> None:
    model = headed(layers.Dense(1, activation="relu"))
    model.layers[-1].bias.assign([2.0])
    keras_saved(path, model)


@form("`Rescaling(1/255)` in front", ".keras")
def keras_rescaling(path: Path) -> None:
    keras_saved(path, headed(layers.Dense(3), before=[layers.Rescaling(1 / 255)]), scale=60)


@form("`preprocess_input` within the model", ".keras")
def keras_preprocessing(path: Path) -> None:
    images = keras.Input((SIZE, SIZE, 3))
    prepared = keras.applications.densenet.preprocess_input(images)
    model = keras.Model(images, keras.layers.Dense(3)(keras_body()(prepared)))
    keras_saved(path, keras_shaken(model), scale=60)


@form("augmentation in front, Dropout behind", ".keras")
def keras_augmentation(path: Path) -> None:
    before = [layers.RandomFlip(), layers.RandomRotation(0.1)]
    keras_saved(path, headed(layers.Dropout(0.3), layers.Dense(3), before=before))


@form("augmentation in front, called layer by layer", ".keras")
def keras_augmentation_by_layer(path: Path) -> None:
    """Keras writes `training=True` into each call, and its models call them as they are called."""
    images = keras.Input((SIZE, SIZE, 3))
    changed = layers.RandomZoom(0.1)(layers.RandomFlip()(images))
    keras_saved(path, keras_shaken(keras.Model(images, layers.Dense(3)(keras_body()(changed)))))


@form("grey pictures, three times in front", ".keras")
def keras_grey_repeated(path: Path) -> None:
    images = keras.Input((SIZE, SIZE, 1))
    coloured = layers.Concatenate()([images] * 3)
    model = keras.Model(images, layers.Dense(3)(keras_body()(coloured)))
    keras_saved(path, keras_shaken(model), channels=1)


@form("`Resizing` in front", ".keras")
def keras_resizing(path: Path) -> None:
    keras_saved(path, headed(layers.Dense(3), before=[layers.Resizing(SIZE, SIZE)]))


@form("a convolution in front, for grey pictures", ".keras")
def keras_convolution_in_front(path: Path) -> None:
    images = keras.Input((SIZE, SIZE, 1))
    coloured = keras.layers.Conv2D(3, 3, padding="same")(images)
    model = keras.Model(images, keras.layers.Dense(3)(keras_body()(coloured)))
    keras_saved(path, keras_shaken(model), channels=1)


@form("one Dense of one's own name", ".keras")
def keras_dense_by_name(path: Path) -> None:
    keras_saved(path, headed(layers.Dense(3, name="output")))


@form("two Dense layers and a norm behind the network", ".keras")
def keras_two_dense(path: Path) -> None:
    behind = [layers.Dense(16, activation="relu"), layers.BatchNormalization(), layers.Dense(3)]
    keras_saved(path, headed(*behind))


@form("`Flatten` in place of the mean", ".keras")
def keras_flatten(path: Path) -> None:
    body = keras_small(include_top=False)
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), body, keras.layers.Flatten(), keras.layers.Dense(3)])
    keras_saved(path, keras_shaken(model))


@form('`model.quantize("int8")`', ".keras")
def keras_int8(path: Path) -> None:
    model = keras_small()
    model.quantize("int8")
    model.save(path)


@form('weights alone, `Dense(1, "sigmoid")`', ".weights.h5")
def keras_binary_weights(path: Path) -> None:
    body = keras_body()
    head = keras.layers.Dense(1, name="logits")
    model = keras_shaken(keras.Model(body.input, head(body.output)))
    other = keras.Model(body.input, keras.layers.Dense(1, activation="sigmoid")(body.output))
    other.layers[-1].set_weights(head.get_weights())
    keras_saved(path, model, weights=True)
    other.save_weights(path)


@form("weights alone, 14 sigmoids", ".weights.h5")
def keras_sigmoid_weights(path: Path) -> None:
    body = keras_body()
    model = keras_shaken(keras.Model(body.input, keras.layers.Dense(14, name="predictions")(body.output)))
    keras_saved(path, model, weights=True)


@form("weights alone behind an adapted `Normalization`", ".weights.h5")
def keras_normalization_weights(path: Path) -> None:
    front = layers.Normalization()
    front.adapt(np.random.default_rng(2).uniform(0, 1, (4, SIZE, SIZE, 3)))
    keras_saved(path, headed(layers.Dense(3), before=[front]), weights=True)


class Headed(keras.Model):
    """A class of somebody's own around the network."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.fc = keras_body(), layers.Dense(3)

    def call(self, x: Any) -> Any:
        """Logits of `n h w c`."""
        return self.fc(self.base(x))


@form("weights alone of a class of one's own around the network", ".weights.h5")
def keras_own_class_weights(path: Path) -> None:
    model = Headed()
    model(noise())
    keras_saved(path, keras_shaken(model), weights=True)


class OwnLayer(layers.Layer):
    """A dense layer of somebody's own network."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.squeeze = layers.BatchNormalization(), layers.Conv2D(32, 1, use_bias=False)
        self.second, self.grow = layers.BatchNormalization(), layers.Conv2D(8, 3, padding="same", use_bias=False)

    def call(self, x: Any) -> Any:
        """New channels behind the old ones."""
        new = self.squeeze(keras.ops.relu(self.first(x)))
        return keras.ops.concatenate([x, self.grow(keras.ops.relu(self.second(new)))], -1)


class OwnNet(keras.Model):
    """Somebody's own DenseNet, its last norm as wide as its transition's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = layers.Conv2D(16, 7, 2, padding="same", use_bias=False), layers.BatchNormalization()
        self.pool = layers.MaxPooling2D(3, 2, padding="same")
        self.early, self.between = [OwnLayer(), OwnLayer()], layers.BatchNormalization()
        self.narrow, self.halve = layers.Conv2D(16, 1, use_bias=False), layers.AveragePooling2D(2)
        self.late, self.after = [OwnLayer(), OwnLayer()], layers.BatchNormalization()
        self.answer = layers.Dense(5)

    def call(self, x: Any) -> Any:
        """Logits of `n h w c`."""
        x = self.pool(keras.ops.relu(self.norm(self.stem(x))))
        for layer in self.early:
            x = layer(x)
        x = self.halve(self.narrow(keras.ops.relu(self.between(x))))
        for layer in self.late:
            x = layer(x)
        return self.answer(keras.ops.mean(keras.ops.relu(self.after(x)), (1, 2)))


@form("weights alone of a DenseNet in a class of one's own", ".weights.h5")
def keras_own_net_weights(path: Path) -> None:
    keras.backend.clear_session()  # names count from the first layer on, whatever was made before
    model = OwnNet()
    model(noise())
    random = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.endswith(("gamma", "variance")):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
        elif "kernel" not in weight.path:
            weight.assign(random.normal(0, 0.2, weight.shape))
    keras_saved(path, model, weights=True)


@form("weights of a U-Net on the network", ".weights.h5")
def keras_unet(path: Path) -> None:
    body = keras_small(include_top=False)
    x = keras.layers.Conv2D(8, 3, padding="same", name="decoder_conv")(keras.layers.UpSampling2D()(body.output))
    keras_shaken(keras.Model(body.input, keras.layers.Conv2D(1, 3, padding="same", name="final_conv")(x))).save_weights(
        path
    )


@form("a SavedModel", "")
def saved_model(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    model = keras_small()
    model.export(path, verbose=False)
    answered(path, model)


@form("a TensorFlow checkpoint", ".index")
def tensorflow_checkpoint(path: Path) -> None:
    model = keras_small()
    tf.train.Checkpoint(model=model).write(str(path.with_suffix("")))
    answered(path, model)


@form("a TFLite model", ".tflite")
def tflite(path: Path) -> None:
    model = keras_small()
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
