"""TF-Slim's DenseNet of pudae/tensorflow-densenet, written anew of TensorFlow's own operations, on a file's own names.

`python -m tests.support.slim FOLDER` writes `model.ckpt`, as a training leaves it, and `answer.npz`.
"""

import sys
from pathlib import Path

import numpy as np

EPSILON = 1.1e-5
SCOPE = "densenet121/"


def logits(weights, pictures):
    """Logits (`n classes`) of pictures `n h w c`, in the type of the weights, which are by name."""
    import tensorflow as tf

    def conv(x, name, stride=1):
        return tf.nn.conv2d(x, weights[f"{name}/weights"], stride, "SAME")

    def norm(x, name):
        mean, variance, shift, scale = (
            weights[f"{name}BatchNorm/{part}"] for part in ("moving_mean", "moving_variance", "beta", "gamma")
        )
        return tf.nn.relu(tf.nn.batch_normalization(x, mean, variance, shift, scale, EPSILON))

    x = norm(conv(tf.constant(pictures), f"{SCOPE}conv1", 2), SCOPE)
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")
    for block in range(1, 1 + _count(weights, f"{SCOPE}dense_block{{}}/")):
        inside = f"{SCOPE}dense_block{block}/conv_block{{}}/"
        for layer in range(1, 1 + _count(weights, inside)):
            new = x
            for step in ("x1/", "x2/"):
                place = inside.format(layer) + step
                new = conv(norm(new, place), f"{place}Conv")
            x = tf.concat([x, new], 3)
        place = f"{SCOPE}transition_block{block}/blk/"
        if f"{place}Conv/weights" in weights:
            x = tf.nn.avg_pool2d(conv(norm(x, place), f"{place}Conv"), 2, 2, "VALID")
    x = tf.reduce_mean(norm(x, f"{SCOPE}final_block/"), [1, 2], keepdims=True)
    return (conv(x, f"{SCOPE}logits") + weights[f"{SCOPE}logits/biases"]).numpy()[:, 0, 0]


def _count(weights, start):
    """How many numbers, from 1, the names have in a place."""
    count = 0
    while any(name.startswith(start.format(count + 1)) for name in weights):
        count += 1
    return count


def save(path, tensors):
    """Have TensorFlow write tensors by name, as its Saver of version 1 does."""
    import tensorflow as tf

    parts = f"{path}-parts"
    tf.raw_ops.SaveV2(
        prefix=parts,
        tensor_names=[*tensors],
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(array) for array in tensors.values()],
    )
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[parts], destination_prefix=str(path))


def main():
    """A network that was converted, with what a training has beside it, and its own answer."""
    folder = Path(sys.argv[1])
    with np.load(folder / "weights.npz") as archive:
        weights = {SCOPE + name: array for name, array in archive.items() if name != "densenet_port"}
    pictures = np.random.default_rng(0).standard_normal((2, 64, 65, 3))
    beside = {f"{SCOPE}conv1/weights/RMSProp": weights[f"{SCOPE}conv1/weights"], "global_step": np.int64(7)}
    save(folder / "model.ckpt", weights | beside)
    exact = {name: array.astype(np.float64) for name, array in weights.items()}
    np.savez(folder / "answer.npz", pictures=pictures, logits=logits(exact, pictures))


if __name__ == "__main__":
    main()
