"""KerasHub and kimm in a process of their own: writes files of their networks with random weights.

python owners_script.py FOLDER
python owners_script.py FOLDER PRESET: what KerasHub makes of a preset, and of its own in FOLDER, for the same pixels
"""

import sys
from pathlib import Path

import keras
import keras_hub
import kimm
import numpy as np

from tests.support.family_script import randomised

HUB = {"stackwise_num_repeats": [2, 3, 2], "growth_rate": 8}
CLASSES = 7
PIXELS = np.random.default_rng(3).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)


def save(folder):
    backbone = keras_hub.models.DenseNetBackbone(**HUB)
    classifier = randomised(keras_hub.models.DenseNetImageClassifier(backbone, num_classes=CLASSES))
    classifier.save_weights(folder / "classifier.weights.h5")
    classifier.save(folder / "classifier.keras")
    classifier.save(folder / "classifier.h5")
    backbone.save_weights(folder / "backbone.weights.h5")
    backbone.save(folder / "backbone.keras")
    converter = keras_hub.layers.DenseNetImageConverter(
        image_size=(64, 64), scale=[1 / 64, 1 / 32, 1 / 16], offset=[-1.0, -2.0, -3.0], antialias=True
    )
    classifier.preprocessor = keras_hub.models.DenseNetImageClassifierPreprocessor(image_converter=converter)
    classifier.save_to_preset(folder / "preset")

    network = randomised(kimm.models.DenseNet121(weights=None, input_shape=(None, None, 3), classes=CLASSES))
    network.save(folder / "kimm.keras")
    network.save_weights(folder / "kimm.weights.h5")
    bare = keras.Model(network.input, network.get_layer("classifier").input)
    kernel, bias = network.get_layer("classifier").get_weights()
    np.save(folder / "kimm.npy", np.array(bare(PIXELS, training=False)) @ kernel + bias)


def answers(folder):
    """What a classifier of a preset answers to pixels that its own preprocessor prepared, and the backbone to them."""
    classifier = keras_hub.models.ImageClassifier.from_preset(str(folder))
    backbone = keras_hub.models.Backbone.from_preset(str(folder))
    prepared = classifier.preprocessor(PIXELS)
    return np.array(classifier(prepared, training=False)), np.array(backbone(prepared, training=False))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        save(Path(sys.argv[1]))
    else:
        for own, ours in zip(answers(Path(sys.argv[1], "preset")), answers(Path(sys.argv[2])), strict=True):
            np.testing.assert_array_equal(ours, own)
