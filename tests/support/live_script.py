"""Live Keras models on TensorFlow, checked in the process that they are in; prints one JSON value.

    python live_script.py

Torch is imported first: the other way round the process dies.
"""

import json
import sys

from tests.support.networks import torchvision_network  # isort: skip (torch comes before TensorFlow)

import keras
import numpy as np
from keras.src.applications.densenet import DenseNet as KerasDenseNet

import densenet_port as dp

SMALL = "layers=2-1,growth_rate=4,init_channels=8,classes=3"


def said(parity):
    """What a check says, without its numbers."""
    sides = {name: [side["name"].partition(" (")[0], side["read_by"]] for name, side in parity.sides.items()}
    return [parity.grade, sides, [finding["mistake"] for finding in parity.diagnosis], parity.where]


def applications():
    """A small network of keras.applications' own class with a softmax, for pictures of one size."""
    model = KerasDenseNet([1, 1, 1, 1], weights=None, input_shape=(96, 96, 3), classes=3)
    random = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name == "kernel":
            weight.assign(random.standard_normal(weight.shape) * np.sqrt(2 / np.prod(weight.shape[:-1])))
        else:
            spread = (0.5, 1.5) if weight.name in ("gamma", "moving_variance") else (-0.2, 0.2)
            weight.assign(random.uniform(*spread, weight.shape))
    return model


def main():
    """Each case once."""
    module, own = torchvision_network(SMALL, 0), applications()
    port = dp.read(module).keras(data_format="channels_first")
    settings = keras.config.floatx(), keras.config.dtype_policy().name
    answers = {
        "a torch original": said(dp.diagnose(port, module)),
        "an original of keras.applications": said(dp.diagnose(dp.read(own).torch(), own)),
    }
    kernel = port.get_layer("block1_layer2_conv1").kernel
    changed = np.array(kernel)
    changed[..., 5] *= 1.01
    kernel.assign(changed)
    answers["a channel that was changed"] = said(dp.diagnose(port, module))
    same = settings == (keras.config.floatx(), keras.config.dtype_policy().name)
    answers |= {"settings stay": same, "its softmax stays": own.layers[-1].activation.__name__}
    sys.stdout.write(f"{json.dumps(answers)}\n")


if __name__ == "__main__":
    main()
