"""Packages that are optional: which extra brings them, and how they are imported when they are called for."""

from importlib import import_module
from types import ModuleType

from densenet_port.errors import UsageError

EXTRAS = {
    **dict.fromkeys(("keras", "tensorflow"), "keras"),
    **dict.fromkeys(("torch", "torchvision"), "torch"),
    **dict.fromkeys(("keras_hub", "kimm"), "owners"),
    **dict.fromkeys(("onnx", "onnxruntime"), "onnx"),
    **dict.fromkeys(("model_signing", "OpenSSL", "cryptography"), "sign"),
    **dict.fromkeys(("github", "requests"), "publish"),
    "jax": "jax",
}


def framework(name: str) -> ModuleType:
    """A framework, or another optional package, imported now.

    Raises UsageError that says what to install where it, or a part of it, is missing.
    """
    try:
        return import_module(name)
    except ImportError as error:
        missing = (error.name or name).partition(".")[0]
        hint = f'pip install "densenet-port[{EXTRAS.get(missing, "all")}]"'
        raise UsageError(f"{name} cannot be imported: {error}", hint=hint) from error
