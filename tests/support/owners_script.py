"""KerasHub and kimm in a process of their own: writes files of their networks with random weights.

python owners_script.py FOLDER
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
    classifier.save_to_preset(folder / "preset")

    network = randomised(kimm.models.DenseNet121(weights=None, input_shape=(None, None, 3), classes=CLASSES))
    network.save(folder / "kimm.keras")
    network.save_weights(folder / "kimm.weights.h5")
    bare = keras.Model(network.input, network.get_layer("classifier").input)
    kernel, bias = network.get_layer("classifier").get_weights()
    np.save(folder / "kimm.npy", np.array(bare(PIXELS, training=False)) @ kernel + bias)


if __name__ == "__main__":
    save(Path(sys.argv[1]))
