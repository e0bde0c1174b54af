"""What `dp.read(state_dict).keras()` of a 121 costs, beside building and filling keras.applications' own 121.

    KERAS_BACKEND=tensorflow OMP_NUM_THREADS=1 python benchmarks/live.py 5

CPU seconds of this process, alternating, after one round that warms up; medians. The floor is what anybody pays who has
the weights as arrays: the model is built, and its weights are set.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable

from torchvision.models import densenet121  # isort: skip (torch comes before TensorFlow)

import keras

import densenet_port as dp


def cost(work: Callable[[], object]) -> float:
    """The CPU seconds that something takes, in a session of Keras's own."""
    keras.backend.clear_session()
    gc.collect()
    begun = time.process_time()
    work()
    return time.process_time() - begun


def main(runs: int) -> None:
    """Print the medians."""
    state = densenet121(weights=None).state_dict()
    weights = keras.applications.DenseNet121(weights=None).get_weights()

    def floor() -> None:
        keras.applications.DenseNet121(weights=None).set_weights(weights)

    rows = [(cost(floor), cost(lambda: dp.read(state)), cost(lambda: dp.read(state).keras())) for _ in range(runs + 1)]
    built, read, whole = (statistics.median(column) for column in zip(*rows[1:], strict=True))
    print(f"keras.applications, built and filled  {built:.2f} s")
    print(f"dp.read(state)                        {read:.2f} s, {read / built:.2f} of it")
    print(f"dp.read(state).keras()                {whole:.2f} s, {whole / built:.2f} times as much")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 5)
