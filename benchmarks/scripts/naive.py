"""What a user would write: build the network in both frameworks, set the weights, save.

    python benchmarks/scripts/naive.py LAYERS GROWTH INIT CHECKPOINT OUT      (LAYERS as in 6-12-24-16)

Torch's tensors are turned by hand and assigned in order of execution; the Keras network is this project's own, since
Keras has no DenseNet-161. The backend is KERAS_BACKEND's.
"""

import sys


def main(layers: str, growth: str, init: str, checkpoint: str, out: str) -> None:
    """Convert one torchvision checkpoint to a Keras `.weights.h5` with both frameworks at hand."""
    import torch
    from torchvision.models.densenet import DenseNet

    blocks = tuple(map(int, layers.split("-")))
    network = DenseNet(int(growth), blocks, int(init))
    network.load_state_dict(torch.load(checkpoint, weights_only=True))

    import densenet_port

    model = densenet_port.DenseNet(
        input_shape=(224, 224, 3),
        nb_dense_block=len(blocks),
        nb_layers_per_block=blocks,
        growth_rate=int(growth),
        nb_filter=int(init),
        bottleneck=True,
        reduction=0.5,
        subsample_initial_block=True,
        classes=1000,
    )
    values = [
        value.numpy().transpose(2, 3, 1, 0) if value.ndim == 4 else value.numpy().T
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    ]
    for layer in [layer for layer in model.layers if layer.weights]:
        layer.set_weights(values[: len(layer.weights)])
        del values[: len(layer.weights)]
    model.save_weights(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
