"""Move DenseNet weights between frameworks, and prove that the port is the same network.

    import densenet_port as dp

    network = dp.read("densenet121.pth")
    network.write("densenet121.weights.h5")
    dp.check("densenet121.weights.h5", against="densenet121.pth")

Every name is imported when it is first asked for. Reading, writing and comparing need no framework.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from densenet_port.about import __version__

if TYPE_CHECKING:
    from densenet_port.batches.run import Batch, batch
    from densenet_port.batches.task import Outcome
    from densenet_port.conversion.compare import Difference, diff
    from densenet_port.conversion.convert import convert, verify
    from densenet_port.conversion.load import Network, read
    from densenet_port.conversion.prediction import Prediction, predict
    from densenet_port.conversion.write import Conversion
    from densenet_port.errors import (
        ComparisonError,
        CorruptError,
        DiskError,
        MisfitError,
        NetworkError,
        PortError,
        UsageError,
    )
    from densenet_port.evaluation.run import Evaluation, evaluate
    from densenet_port.models import (
        DenseNet,
        DenseNetImageNet121,
        DenseNetImageNet161,
        DenseNetImageNet169,
        DenseNetImageNet201,
        DenseNetImageNet264,
        load,
    )
    from densenet_port.network.architecture import Architecture
    from densenet_port.network.contract import Contract, Input, Resize
    from densenet_port.network.graph import Graph, graph
    from densenet_port.network.numpy import forward
    from densenet_port.network.pictures import preprocess
    from densenet_port.network.units import Slot
    from densenet_port.prove.parity import Parity, check, diagnose
    from densenet_port.prove.recorder import record
    from densenet_port.prove.recording import Recording

_HOMES = {
    "batches.run": "Batch batch",
    "batches.task": "Outcome",
    "conversion.compare": "Difference diff",
    "conversion.convert": "convert verify",
    "conversion.load": "Network read",
    "conversion.prediction": "Prediction predict",
    "conversion.write": "Conversion",
    "errors": "ComparisonError CorruptError DiskError MisfitError NetworkError PortError UsageError",
    "evaluation.run": "Evaluation evaluate",
    "models": "DenseNet DenseNetImageNet121 DenseNetImageNet161 DenseNetImageNet169 DenseNetImageNet201 "
    "DenseNetImageNet264 load",
    "network.architecture": "Architecture",
    "network.contract": "Contract Input Resize",
    "network.graph": "Graph graph",
    "network.numpy": "forward",
    "network.pictures": "preprocess",
    "network.units": "Slot",
    "prove.parity": "Parity check diagnose",
    "prove.recorder": "record",
    "prove.recording": "Recording",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "Architecture",
    "Batch",
    "ComparisonError",
    "Contract",
    "Conversion",
    "CorruptError",
    "DenseNet",
    "DenseNetImageNet121",
    "DenseNetImageNet161",
    "DenseNetImageNet169",
    "DenseNetImageNet201",
    "DenseNetImageNet264",
    "Difference",
    "DiskError",
    "Evaluation",
    "Graph",
    "Input",
    "MisfitError",
    "Network",
    "NetworkError",
    "Outcome",
    "Parity",
    "PortError",
    "Prediction",
    "Recording",
    "Resize",
    "Slot",
    "UsageError",
    "__version__",
    "batch",
    "check",
    "convert",
    "diagnose",
    "diff",
    "evaluate",
    "forward",
    "graph",
    "load",
    "predict",
    "preprocess",
    "read",
    "record",
    "verify",
]


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
