"""What a file that holds a graph is made from: the network, and whose its tensors are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from densenet_port.checkpoint import Tensor
from densenet_port.errors import UsageError
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.graph import Graph, graph
from densenet_port.network.units import Unit


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

    def check(
        self,
        container: str,
        tensors: Mapping[str, Tensor],
        shapes: Callable[[Unit], Mapping[str, tuple[int, ...]]],
    ) -> None:
        """See that tensors are those of the units, each unit's with the `shapes` by part that a container has for them.

        Raises UsageError that names the unit and both shapes, or a tensor that is no unit's.
        """
        for unit in self.graph.units.values():
            parts = self.tensors.get(unit.name, {})
            actual = {part: tensors[name].shape for part, name in parts.items() if name in tensors}
            if actual != (expected := shapes(unit)):
                raise UsageError(f"{container} needs {unit.name} of the shapes {expected}, found {actual}")
        named = {name for parts in self.tensors.values() for name in parts.values()}
        if extra := [name for name in tensors if name not in named]:
            raise UsageError(f"{container} of {self.architecture.name} has no place for {extra[0]}")
