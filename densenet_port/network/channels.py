"""In which order channels stand where a file joins maps, or flattens one, otherwise than the graph does.

In the graph a dense block joins old channels first, then the new ones, and a flattened map is read row by row, each
place with all its channels. Some software joins the new channels first, and whatever keeps channels before height and
width flattens a map channel by channel. The function is the same, with the channels of its readers in another order.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.network.graph import IMAGES, Graph, Operation

Concatenation = Literal["old-first", "new-first"]
Flatten = Literal["h w c", "c h w"]
CONCATENATIONS: tuple[Concatenation, ...] = get_args(Concatenation)
FLATTENS: tuple[Flatten, ...] = get_args(Flatten)


@lru_cache(maxsize=1 << 4)
def channel_order(network: Graph, concatenation: Concatenation, flatten: Flatten) -> Mapping[str, Array]:
    """Unit → for each channel that it reads, in the graph's order, its place in a file that joins and flattens so.

    Units whose channels stand in the same order are left out.
    """
    orders: dict[str, Array] = {IMAGES: np.arange(network.channels)}
    units: dict[str, Array] = {}
    for name, step in network.operations.items():
        inputs = [orders[read] for read in step.inputs]
        if step.unit and not np.array_equal(inputs[0], np.arange(len(inputs[0]))):
            units[name] = inputs[0]
        orders[name] = _order(network, step, inputs, concatenation, flatten)
    return units


def _order(
    network: Graph, step: Operation, inputs: list[Array], concatenation: Concatenation, flatten: Flatten
) -> Array:
    """The places of the channels that an operation puts out."""
    if step.kind in ("conv", "dense"):
        return np.arange(step.channels)
    if step.kind == "concat":
        first, second = inputs
        if concatenation == "new-first" and not network.is_flat(step.name):
            return np.concatenate([first + len(second), second])
        return np.concatenate([first, second + len(first)])
    if step.kind == "flatten":
        places = np.arange(step.kernel**2)[:, np.newaxis]
        channels = inputs[0][np.newaxis]
        order = places * channels.size + channels if flatten == "h w c" else channels * places.size + places
        return order.reshape(-1)
    return inputs[0]
