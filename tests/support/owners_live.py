"""Live models of KerasHub's and kimm's, read, filled and checked in a process of their own; prints one JSON value.

python owners_live.py
"""

import json
import sys

from tests.support.networks import images, torchvision_network  # isort: skip (torch comes before TensorFlow)

import keras
import keras_hub
import kimm
import numpy as np

import densenet_port as dp
from tests.support.family_script import randomised
from tests.support.owners_script import CLASSES, HUB

PICTURES = images(2, 64)


def classifier():
    """KerasHub's classifier, small."""
    backbone = keras_hub.models.DenseNetBackbone(**HUB)
    return keras_hub.models.DenseNetImageClassifier(backbone, num_classes=CLASSES)


def small_kimm(**settings):
    """The network of kimm that is the smallest it has."""
    given = {"include_preprocessing": False, "classifier_activation": None, "classes": CLASSES, **settings}
    return kimm.models.DenseNet121(weights=None, input_shape=(None, None, 3), **given)


def apart(model, network):
    """How far a model's logits are from a network's, in their deviations."""
    truth = network(PICTURES)
    return float(np.abs(keras.ops.convert_to_numpy(model(PICTURES, training=False)) - truth).max() / truth.std())


def filled(source, model):
    """What came of putting a network into a model: its layout, and whether it gives the network's logits."""
    return [source.assign(model).target.name, apart(model, source) < 1e-4]  # float32


def main():
    """Each case once."""
    own = randomised(classifier())
    hub, foreign = dp.read(own), dp.read(torchvision_network("121", 0, classes=CLASSES))
    backbone = keras_hub.models.DenseNetBackbone(**HUB)
    hub.assign(backbone, no_top=True)
    maps = [keras.ops.convert_to_numpy(model(PICTURES)) for model in (backbone, own.backbone)]
    try:
        wide = torchvision_network("layers=2-3-2,growth_rate=8,init_channels=64,classes=7", 0)
        refusal = dp.read(wide).assign(classifier()) and ""
    except dp.MisfitError as error:
        refusal = error.message.partition(": ")[2]
    answers = {
        "hub": [hub.layout, hub.contract.stem_padding, hub.origins["stem_padding"], apart(own, hub) < 1e-4],
        "hub filled": filled(hub, classifier()),
        "its backbone": bool(np.array_equal(*maps)),
        "its padding": refusal,
        "hub checked": dp.diagnose(hub.torch(), own).grade,
        "kimm filled": filled(foreign, small_kimm()),
        "kimm's pixels": dp.read(small_kimm(include_preprocessing=True)).origins["input"],
    }
    sys.stdout.write(f"{json.dumps(answers)}\n")


if __name__ == "__main__":
    main()
