"""What `dp.read(state_dict).keras()` of a 121 costs, beside building and filling keras.applications' own 121.

    KERAS_BACKEND=tensorflow OMP_NUM_THREADS=1 python -m benchmarks.scripts.live RUNS

Prints JSON: CPU seconds of this process, in turn, after one round that warms up. The floor is what anybody pays who has
the weights as arrays: the model is built, and its weights are set.
"""

import gc
import json
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
    """Measure, and print."""
    state = densenet121(weights=None).state_dict()
    weights = keras.applications.DenseNet121(weights=None).get_weights()
    tasks = {
        "filled": lambda: keras.applications.DenseNet121(weights=None).set_weights(weights),
        "read": lambda: dp.read(state),
        "model": lambda: dp.read(state).keras(),
    }
    rounds = [{name: round(cost(task), 4) for name, task in tasks.items()} for _ in range(runs + 1)]
    print(json.dumps({name: [row[name] for row in rounds[1:]] for name in tasks}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
