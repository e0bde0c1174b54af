"""Where the biases of convolutions go, which a DenseNet of ours does not have: into the norms that read them.

A convolution's bias adds a number to each channel. Joining maps and averaging places keep that, until a norm takes its
mean off: `(x + bias) − mean` is `x − (mean − bias)`. Nothing but norms reads what a DenseNet's convolutions put out.
"""

from collections.abc import Collection

from densenet_port.network.graph import Graph

Pieces = tuple[tuple[str | None, int], ...]  # the convolution whose bias some channels carry, if any, and how many


def offsets(network: Graph, biased: Collection[str]) -> dict[str, Pieces]:
    """Norm → the pieces of what it reads, for those that read a channel with a bias of the convolutions `biased`."""
    carried: dict[str, Pieces] = {}
    taken: dict[str, Pieces] = {}
    for name, step in network.operations.items():
        before = tuple(piece for read in step.inputs for piece in carried.get(read, ()))
        if step.kind == "norm" and any(conv for conv, _ in before):
            taken[name] = before
        passed = step.kind in ("concat", "average_pool")
        carried[name] = before if passed else ((name if name in biased else None, step.channels),)
    return taken
