"""Run in a process of its own: TensorFlow and Keras write a network in their forms.

python -m tests.support.tensorflow_script FOLDER
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

import keras
import numpy as np
import tensorflow as tf
from keras.src.applications.densenet import DenseNet
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

v1 = tf.compat.v1
NUMBERS = {"weights": None, "input_shape": (32, 32, 3)}


def main(folder):
    """Write them all."""
    os.chdir(folder)
    for name in ("named", "parted"):
        Path(name).mkdir()
    model = shaken(DenseNet([1, 1, 1, 1], classes=5, **NUMBERS))
    model.save("whole.h5")
    model.export("exported", verbose=False)
    checkpoints(model)
    by_names({f"model/{weight.path}": np.asarray(weight) for weight in model.weights})
    transfer()
    if find_spec("tf_keras"):
        keras_2(model.get_weights())
    Path("m.tflite").write_bytes(tf.lite.TFLiteConverter.from_saved_model("exported").convert())
    call = tf.function(lambda image: model(image, training=False))
    concrete = call.get_concrete_function(tf.TensorSpec((1, 32, 32, 3), name="image"))
    tf.io.write_graph(convert_variables_to_constants_v2(concrete).graph, ".", "frozen.pb", as_text=False)
    Path("architecture.json").write_text(model.to_json())
    model.quantize("int8")
    model.save("int8.keras")


def shaken(model):
    """The model with random numbers in every tensor, which none has twice; variances are positive."""
    random = np.random.default_rng(0)
    model.set_weights([random.uniform(0.5, 1.5, weight.shape).astype("f4") for weight in model.get_weights()])
    return model


def checkpoints(model):
    """By objects: alone, with the state of an optimiser, and in a folder with a list."""
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    tf.train.Checkpoint(model).write("plain.ckpt")
    tf.train.CheckpointManager(tf.train.Checkpoint(net=model, optimizer=optimizer), "managed", 1).save()


def by_names(arrays):
    """By names, as TensorFlow 1 wrote them: with slots, on two devices, and a variable in two parts."""
    with v1.Graph().as_default(), v1.Session(config=v1.ConfigProto(device_count={"CPU": 2})) as session:
        for number, (name, array) in enumerate(arrays.items()):
            with tf.device(f"/cpu:{number % 2}"):
                v1.get_variable(name, initializer=array, use_resource=False)
                v1.get_variable(f"{name}/Momentum", initializer=0 * array, use_resource=False)
        v1.train.get_or_create_global_step()
        session.run(v1.global_variables_initializer())
        v1.train.Saver(sharded=True).save(session, "named/model.ckpt")
    with v1.Graph().as_default(), v1.Session() as session:
        v1.get_variable("w", (4, 2), partitioner=v1.fixed_size_partitioner(2))
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, "parted/model.ckpt")


def transfer():
    """A user's own network around one, which prepares its pictures."""
    image = keras.Input((32, 32, 3))
    body = DenseNet([1, 1, 1, 1], include_top=False, pooling="avg", **NUMBERS)
    prepared = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    features = keras.layers.Dropout(0.2)(body(prepared))
    model = shaken(keras.Model(image, keras.layers.Dense(3, "sigmoid")(features)))
    model.save("transfer.h5")
    model.export("transfer", verbose=False)


def keras_2(weights):
    """Keras 2's weights in TensorFlow's format, and its SavedModel, of a compiled model."""
    import tf_keras
    from tf_keras.src.applications.densenet import DenseNet as DenseNet2

    model = DenseNet2([1, 1, 1, 1], classes=5, **NUMBERS)
    model.set_weights(weights)
    model.compile(tf_keras.optimizers.SGD(), metrics=["accuracy"])
    model.save_weights("keras2/weights")
    model.save("keras2-saved")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
