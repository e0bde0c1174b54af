"""Move DenseNet weights between frameworks, and prove that the port is the same network.

The verbs (`convert`, `ours`, `verify`, `diff`) need no framework. The Keras constructors are handed on from
`densenet_port.models` when they are first asked for, which is when Keras is imported.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

VERBS = {
    "Architecture": "network.architecture",
    "Contract": "network.contract",
    "PortError": "errors",
    "convert": "conversion.write",
    "diff": "conversion.compare",
    "read": "conversion.load",
    "verify": "conversion.write",
    "forward": "network.numpy",
    "DenseNet": "models",
    "DenseNetImageNet121": "models",
    "DenseNetImageNet161": "models",
    "DenseNetImageNet169": "models",
    "DenseNetImageNet201": "models",
    "DenseNetImageNet264": "models",
    "load": "models",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for."""
    if name not in VERBS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{VERBS[name]}"), name)


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *VERBS})
