"""Networks written anew after software that does not run here any more; they take the very files that it took.

Each gives float64 logits of pictures `n h w c` with a file as it is stored, and the versions of what took part.
"""

import os
import sys

import numpy as np

from tests.support import slim as anew_slim
from tests.support import titu1994 as anew


def titu1994(told, pictures, epsilon=anew.EPSILON):
    """titu1994's graph in Keras 3 on TensorFlow, which loads the file by the order of its layers."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
    import tensorflow as tf

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    anew.EPSILON = epsilon
    network = anew.network(keras, told.architecture, None)
    network.load_weights(str(told.checkpoint.path))
    logits = np.array(network(pictures.astype(np.float64), training=False))
    assert logits.dtype == np.float64
    return logits, {"keras": keras.__version__, "tensorflow": tf.__version__}


def titu1994_v2(told, pictures):
    """The same graph, with the epsilon of Keras 1.2."""
    return titu1994(told, pictures, epsilon=1e-3)


def slim(told, pictures):
    """TF-Slim's network of TensorFlow's own operations."""
    import tensorflow as tf

    with np.load(told.checkpoint.path) as archive:
        weights = {anew_slim.SCOPE + name: array for name, array in archive.items() if array.dtype.kind == "f"}
    exact = {name: array.astype(np.float64) for name, array in weights.items()}
    return anew_slim.logits(exact, pictures.astype(np.float64)), {"tensorflow": tf.__version__}


def versions():
    """Of what all of them stand on."""
    return {"numpy": np.__version__, "python": ".".join(map(str, sys.version_info[:3]))}
