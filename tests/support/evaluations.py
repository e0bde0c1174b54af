"""What evaluations are tested with: the sample's held-out digits as pictures, ports of it with faults, no processes."""

from dataclasses import replace
from functools import cache

import numpy as np

from densenet_port.conversion.load import read
from densenet_port.evaluation.sides import Answerer
from densenet_port.network.contract import Resize
from densenet_port.network.units import Slot
from densenet_port.work.pool import Done
from tests.support.trained import SAMPLE

RESIZE = Resize(size=(32, 32), crop=1.0)  # as the sample was trained


@cache
def digits():
    """The held-out digits: ink from 0 to 255 (n, 8, 8) uint8, and labels."""
    with np.load(SAMPLE.with_name("digits-heldout.npz")) as held:
        return np.rint(held["images"] * (255 / 16)).astype(np.uint8), held["labels"].astype(int)


def folder(root, count, *, tint=(1, 1, 1)):
    """The first digits as PNG files in a folder a class, in the colours of a tint: the folder."""
    from PIL import Image

    images, labels = digits()
    for number, (image, label) in enumerate(zip(images[:count], labels[:count], strict=True)):
        place = root / str(label)
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.rint(image[..., None] * np.array(tint)).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{number:03}.png")
    return root


def port(path, change=lambda weights: weights, **contract):
    """A port of the sample with changed weights (by slot) or another contract, as a file of ours: its path."""
    source = read(SAMPLE, contract={"resize": RESIZE, **contract})
    weights = {slot: np.array(source.weights[slot]) for slot in source.weights}
    changed = replace(source, weights=change(weights))
    changed.write(path)
    return path


def turned_classes(weights):
    """The head's classes, each in the next one's place."""
    return {slot: np.roll(array, 1, axis=-1) if slot.unit == "head.dense" else array for slot, array in weights.items()}


def wrong_epsilon(weights):
    """The variance of one norm, with an epsilon of 1e-3 where 1e-5 is meant."""
    slot = Slot("block2.layer2.norm1", "variance")
    return {**weights, slot: weights[slot] + (1e-3 - 1e-5)}


class Here:
    """Stands in for a side's process: the same function, in this one."""

    def __init__(self, job):
        """Make the function."""
        self._answer = Answerer(job)()

    def answer(self, images):
        """As the process does."""
        answer = self._answer(images)
        if "error" in answer:
            raise answer["error"]
        return answer


def one_by_one(items, make, *, jobs, threads):
    """Stands in for the pool: the same function, in this process."""
    task = make()
    for item in items:
        yield Done(item, task(item), None)
