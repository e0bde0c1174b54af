"""Run in a process of its own: TensorFlow and Keras write a network in their forms that are no checkpoint.

python -m tests.support.tensorflow_script FOLDER
"""

import os
import sys
from pathlib import Path

os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

import tensorflow as tf
from keras.src.applications.densenet import DenseNet
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from densenet_port import formats
from densenet_port.errors import MisfitError


def main(folder):
    """Write them all, and do what the refusal of a SavedModel says."""
    os.chdir(folder)
    model = DenseNet([1, 1, 1, 1], weights=None, classes=5, input_shape=(32, 32, 3))
    model.export("exported", verbose=False)
    follow(Path("exported"))
    tf.train.Checkpoint(model).write("plain.ckpt")
    tf.train.CheckpointManager(tf.train.Checkpoint(model), "managed", 1).save()
    Path("m.tflite").write_bytes(tf.lite.TFLiteConverter.from_saved_model("exported").convert())
    call = tf.function(lambda image: model(image, training=False))
    concrete = call.get_concrete_function(tf.TensorSpec((1, 32, 32, 3), name="image"))
    tf.io.write_graph(convert_variables_to_constants_v2(concrete).graph, ".", "frozen.pb", as_text=False)
    Path("architecture.json").write_text(model.to_json())
    model.save("whole.h5")
    model.quantize("int8")
    model.save("int8.keras")


def follow(path):
    """Run the Python that stands in a refusal's hint."""
    try:
        formats.read(path)
    except MisfitError as error:
        exec(error.hint.split("`")[1])  # noqa: S102 (our own words, which must work)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
