"""Where the biases of convolutions go, which a DenseNet of ours does not have: into the units that read them.

A convolution's bias adds a number to each channel. Joining maps and averaging places keep that, until a norm takes its
mean off: `(x + bias) − mean` is `x − (mean − bias)`. Where no norm stands behind the last block, the head's first dense
layer reads them: `(x + bias) · kernel` is `x · kernel + bias · kernel`.
"""

from collections.abc import Collection

from densenet_port.errors import MisfitError
from densenet_port.network.graph import Graph

Pieces = tuple[tuple[str | None, int], ...]  # the convolution whose bias some channels carry, if any, and how many
KEEPING = ("concat", "average_pool", "mean", "max", "flatten")  # what adds a channel's number to its result


def offsets(network: Graph, biased: Collection[str]) -> dict[str, Pieces]:
    """Norm, or dense layer, → the pieces of what it reads, for those that read a channel with a bias of `biased`.

    `biased` are convolutions. Raises MisfitError where a bias comes to nothing that can take it up.
    """
    carried: dict[str, Pieces] = {}
    taken: dict[str, Pieces] = {}
    for name, step in network.operations.items():
        before = tuple(piece for read in step.inputs for piece in carried.get(read, ()))
        is_biased = any(conv for conv, _ in before)
        if is_biased and step.kind in ("norm", "dense"):
            taken[name] = before
        elif is_biased and step.kind not in KEEPING:
            raise _lost(before, name)
        if step.kind in KEEPING:
            carried[name] = before * (step.kernel**2 if step.kind == "flatten" else 1)
        else:
            carried[name] = ((name if name in biased else None, step.channels),)
    if any(conv for conv, _ in carried[network.output]):
        raise _lost(carried[network.output], "the last map")
    return taken


def _lost(pieces: Pieces, name: str) -> MisfitError:
    """The error for a bias that nothing takes up."""
    conv = next(conv for conv, _ in pieces if conv)
    return MisfitError(
        f"{conv} has a bias that reaches {name}, and no norm or dense layer takes it up",
        hint="with its head the network has a layer for it; without one only its own software runs it",
    )
