"""Write checkpoints of torchvision's DenseNet class, of any width: larger ones than are published as well.

    python -m benchmarks.scripts.checkpoints FOLDER COUNT LAYERS/GROWTH/INIT …      (as in 6-12-24-16/32/64)

Prints JSON, a list for each network: of every file its path, the parameters (of what the network computes with) and the
bytes of the largest tensor. The numbers are random, and norms of a block share their statistics as those of a trained
network do. Each file has a head of its own, as fine-tunes have.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.models.densenet import DenseNet


def state(layers: tuple[int, ...], growth: int, init: int) -> dict[str, torch.Tensor]:
    """A state dict of random numbers; nothing is initialised first, which would take longest."""
    with torch.device("meta"):
        network = DenseNet(growth, layers, init)
    random = np.random.default_rng(0)
    return {
        name: torch.from_numpy(values(block_of(name, len(layers)), name, tuple(tensor.shape), random))
        for name, tensor in network.state_dict().items()
    }


def values(block: str, name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """The values of one tensor: float32, or a counter."""
    if name.endswith("num_batches_tracked"):
        return np.array(1, dtype=np.int64)
    if name.endswith("running_mean"):
        return statistics(block, 0, shape[0]) - np.float32(0.5)
    if name.endswith("running_var"):
        return statistics(block, 1, shape[0]) + np.float32(0.5)
    if len(shape) == 1:
        return 1 + random.random(shape, dtype=np.float32) / 8
    return (random.random(shape, dtype=np.float32) - np.float32(0.5)) * np.float32(np.prod(shape[1:]) ** -0.5)


def block_of(name: str, blocks: int) -> str:
    """The dense block whose channels a norm of torchvision sees; for one that sees channels of its own, its name."""
    parts = name.split(".")
    if ".norm2." in name or parts[1] == "norm0":
        return name.rpartition(".")[0]
    return f"denseblock{blocks}" if parts[1] == "norm5" else parts[1].replace("transition", "denseblock")


def statistics(block: str, which: int, channels: int) -> np.ndarray:
    """Running statistics between 0 and 1 of a block's first channels: the fewer begin the more."""
    return np.random.default_rng([which, *block.encode()]).random(channels, dtype=np.float32)


def files(folder: Path, count: int, shape: str) -> list[dict[str, Any]]:
    """Write so many of a network."""
    layers, growth, init = shape.split("/")
    tensors = state(tuple(map(int, layers.split("-"))), int(growth), int(init))
    sizes = [tensor.numel() for tensor in tensors.values() if tensor.is_floating_point()]
    written = []
    for number in range(count):
        tensors["classifier.bias"] = torch.full((1000,), float(number))
        path = folder / f"{shape.replace('/', '_')}_{number}.pth"
        torch.save(tensors, path)
        written.append({"path": str(path), "parameters": sum(sizes), "largest": 4 * max(sizes)})
    return written


if __name__ == "__main__":
    print(json.dumps([files(Path(sys.argv[1]), int(sys.argv[2]), shape) for shape in sys.argv[3:]]))
