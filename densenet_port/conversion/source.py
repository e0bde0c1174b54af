"""What is written: a network, and where its weights came from."""

from collections.abc import Mapping
from typing import Protocol

from densenet_port.checkpoint import Array, Checkpoint
from densenet_port.conversion.statistics import Witness
from densenet_port.layouts.match import Ledger
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract, Origin
from densenet_port.network.follow import Evidence
from densenet_port.network.units import Slot


class Source(Protocol):
    """A network that was read from a checkpoint: `conversion.load.Network` is one."""

    @property
    def checkpoint(self) -> Checkpoint:
        """Where its tensors are."""

    @property
    def ledger(self) -> Ledger:
        """Where each of them went."""

    @property
    def architecture(self) -> Architecture:
        """Its numbers."""

    @property
    def contract(self) -> Contract:
        """What must hold beside its weights."""

    @property
    def origins(self) -> Mapping[str, Origin]:
        """Entry of the contract → where it is known from."""

    @property
    def evidence(self) -> Evidence | None:
        """What the file's own graph says; None without one."""

    @property
    def witness(self) -> Witness | None:
        """What its statistics say; None where nobody asked them."""

    @property
    def weights(self) -> Mapping[Slot, Array]:
        """Slot → tensor in our axes."""

    @property
    def within(self) -> str | None:
        """What the names of this network begin with, where somebody had to say."""

    @property
    def layout(self) -> str:
        """The name of its checkpoint's layout."""
