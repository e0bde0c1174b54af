"""Random weights of any architecture, in our axes, without a framework."""

import numpy as np


def random_weights(architecture, seed=0, dtype=np.float32):
    """Weights of any architecture that keep activations of order one: slot → array."""
    random, found = np.random.default_rng(seed), {}
    for slot, shape in architecture.slots.items():
        if slot.role == "kernel":
            found[slot] = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
        elif slot.role in ("scale", "variance"):
            found[slot] = random.uniform(0.5, 1.5, shape)
        else:
            found[slot] = random.normal(0, 0.2, shape)
    return {slot: array.astype(dtype) for slot, array in found.items()}
