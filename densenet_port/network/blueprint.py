"""What a file that holds a graph is made from: the network, and whose its tensors are."""

from collections.abc import Mapping
from dataclasses import dataclass

from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.graph import Graph, graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """The network that a file is to run, and the layout's names for it.

    `layers` gives the layout's own name of each unit, in order of execution. `tensors` gives for each unit part → name
    of the tensor; a part is a role, or what a fold of the layout has beside the roles (`second_scale`, `factor`).
    """

    architecture: Architecture
    contract: Contract
    layers: Mapping[str, str]
    tensors: Mapping[str, Mapping[str, str]]

    @property
    def graph(self) -> Graph:
        """The operations, in order of execution."""
        return graph(self.architecture, self.contract)
