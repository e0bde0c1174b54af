"""What a user would write: build the network in both frameworks, set the weights, save.

    python benchmarks/naive.py ARCH CHECKPOINT OUT

Torch's tensors are turned by hand and assigned in order of execution; the Keras network is this project's own, since
Keras has no DenseNet-161. The backend is KERAS_BACKEND's.
"""

import sys
from pathlib import Path


def main(arch: str, checkpoint: str, out: str) -> None:
    """Convert one torchvision checkpoint to a Keras `.weights.h5` with both frameworks at hand."""
    import torch
    import torchvision

    network = getattr(torchvision.models, f"densenet{arch}")(weights=None)
    network.load_state_dict(torch.load(checkpoint, weights_only=True))

    import densenet_port

    model = getattr(densenet_port, f"DenseNetImageNet{arch}")(input_shape=(224, 224, 3), weights=None)
    values = [
        value.numpy().transpose(2, 3, 1, 0) if value.ndim == 4 else value.numpy().T
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    ]
    layers = [layer for layer in model.layers if layer.weights]
    for layer in layers:
        layer.set_weights(values[: len(layer.weights)])
        del values[: len(layer.weights)]
    model.save_weights(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
    print(Path(sys.argv[3]).stat().st_size)
