"""Which software is a network's reference, and what it is worth that a port agrees with it.

A class that a software builds has a contract of its own, which no file of weights changes. Where the original's
contract is another one, by its own graph or by somebody's word, or its numbers are none that the class can have, that
class is another network: then this project's forward pass stands in, which reads the original by the port's own table
and proves nothing. Software that runs a file as a whole asks neither.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from densenet_port.checkpoint import LIVE_KERAS
from densenet_port.conversion.load import Network
from densenet_port.errors import UsageError
from densenet_port.extras import SOFTWARE, ReadBy, Software
from densenet_port.layouts.layout import Layout, layouts
from densenet_port.network.contract import COMPUTED, Contract, Origin
from densenet_port.prove.job import require_buildable

KERAS = ("keras", "keras-h5", LIVE_KERAS)  # containers whose whole models Keras runs
CLOSE = 1e-6  # of an epsilon: a graph may keep it in float32, which is within 6e-8 of what is meant
BY: dict[Origin, str] = {
    "graph": "by its own graph",
    "record": "by its record",
    "statistics": "by its statistics",
    "software": "by its layout",
    "user": "by your word",
    "assumed": "by assumption",
}
PROOF = (
    "what would prove the port: a recording of the original's own code (densenet-port record), or logits that the "
    "original's own software gives for the same images"
)


class Reference(NamedTuple):
    """The software that runs a network, and why it is not the one that owns the layout, where it is not."""

    software: str
    because: str | None = None


def reference_of(network: Network, *, trust: bool = False) -> Reference:
    """The software that owns the network's layout; numpy where its class is another network, or may be.

    With `trust` the file's own code may run.
    """
    software = SOFTWARE[network.ledger.layout.reference]
    if network.checkpoint.graph is not None and network.checkpoint.container in KERAS and not software.on_keras:
        return Reference("keras")  # a whole model of Keras's, in a layout that no software of ours builds
    because = None if runs_whole(network, software, trust=trust) else _untold(network) or _unlike(network, software)
    return Reference(software.name) if because is None else Reference("numpy", because)


def runs_whole(network: Network, software: Software, *, trust: bool = False) -> bool:
    """Whether the file holds a whole model, which the software runs as it is; code of its own with `trust` alone."""
    metadata = network.checkpoint.metadata
    is_known = not metadata.get("own_code") and not (network.evidence and network.evidence.assumed)
    is_whole = network.checkpoint.graph is not None and software.whole is not None and software.whole in metadata
    return is_whole and (trust or is_known)


def _untold(network: Network) -> str | None:
    """What of the original is code that is not read, and no other class's either; None where it is all read."""
    assumed = network.evidence.assumed if network.evidence else ()
    return f"{assumed[0]} is not known; --trust-code runs the file's own code" if assumed else None


def _unlike(network: Network, software: Software) -> str | None:
    """In what a software's own class is another network; None where it is the same, or where no class runs."""
    if software.reads != "class":
        return None
    try:
        require_buildable(software, network.architecture)
    except UsageError as error:
        return error.message
    contract = network.contract
    difference = difference_of(network.ledger.layout, software, contract)
    if difference is None:
        return None
    key, value = difference
    by = BY[network.origins.get(key, "assumed")]
    return (
        f"{software.name}'s own class has the {key} {_shown(value)}, the original {_shown(getattr(contract, key))} {by}"
    )


def difference_of(layout: Layout, software: Software, contract: Contract) -> tuple[str, Any] | None:
    """An entry in which a software's own class computes otherwise than a contract says, and what it has there."""
    differing = [[*_differing(stock, contract)] for stock in _stock(layout, software)]
    return min(differing, key=len)[0] if differing and [] not in differing else None


def _stock(layout: Layout, software: Software) -> Iterator[Contract]:
    """What a software's class computes: as the layout says, or of a user's own table any layout of that software."""
    if layout.is_own:
        yield layout.contract
        return
    for name in layouts():
        shipped = Layout.load(name)
        if shipped.reference == software.name:
            yield shipped.contract


def _differing(stock: Contract, contract: Contract) -> Iterator[tuple[str, Any]]:
    """The entries in which a class computes otherwise, and what it has there."""
    for key in COMPUTED:
        value, wanted = getattr(stock, key), getattr(contract, key)
        same = abs(value - wanted) <= CLOSE * value if isinstance(value, float) else value == wanted
        if not same:
            yield key, value


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# -- what agreement is worth -------------------------------------------------------------------------------------------


def read_by(metadata: Mapping[str, Any]) -> ReadBy:
    """How what ran came by the network, by a recording's metadata; by the software's name where it is not said."""
    if "read_by" in metadata:
        by: ReadBy = metadata["read_by"]
        return by
    software = SOFTWARE.get(str(metadata["name"]).partition(" ")[0])  # of `keras on jax`
    return "table" if software is None else software.reads


def dependence(metadata: Mapping[str, Any]) -> str:
    """Why a reference that read the original by this project's own table proves nothing, and what would."""
    name, layout, because = metadata["name"], metadata["layout"], metadata.get("because")
    parts = [
        f"the reference ({name}) read the original by {layout}, the table that the port was made by",
        *([because] if because else []),
        *_shared(metadata),
        PROOF,
    ]
    return "; ".join(parts)


def _shared(metadata: Mapping[str, Any]) -> Iterator[str]:
    """What both sides take of the contract by somebody's word, and what by assumption."""
    origins: Mapping[str, Origin] = metadata.get("origins", {})
    untold: tuple[Origin, ...] = ("user", "assumed")
    for origin in untold:
        contract = metadata["contract"]
        keys = [key for key in COMPUTED if origins.get(key) == origin and key in contract]
        entries = [f"{key} {_shown(contract[key])}" for key in keys]
        if entries:
            yield f"both sides take {', '.join(entries)} {BY[origin]}"
