"""Optional packages: which extra brings them, what of them runs a DenseNet, and how one is imported when it is used."""

from importlib import import_module
from types import ModuleType
from typing import NamedTuple

from densenet_port.errors import UsageError

EXTRAS = {  # extra of pyproject.toml → the distributions that it is for
    "keras": ("keras", "tensorflow"),
    "jax": ("keras", "jax"),
    "torch": ("torch", "torchvision"),
    "caffe": ("opencv-python-headless",),
    "onnx": ("onnx", "onnxruntime"),
    "publish": ("pygithub",),
    "sign": ("model-signing",),
    "owners": ("keras-hub", "kimm", "monai", "timm", "torchxrayvision"),
}
DISTRIBUTIONS = {  # top-level module → what brings it, where that has another name
    "cv2": "opencv-python-headless",
    "github": "pygithub",
    "requests": "pygithub",
    "OpenSSL": "model-signing",
    "cryptography": "model-signing",
}
BACKENDS = ("tensorflow", "torch", "jax")  # of Keras


class Software(NamedTuple):
    """What runs a DenseNet, under the name by which mapping tables call it their `reference`.

    `runner` is a module of `prove/runners` and its function, `packages` are the distributions that take part, beside
    the backend where it is `on_keras`. `float64` says whether it computes in that precision, `float64_name` what does
    where that is other code of the same project; Keras does on TensorFlow alone, because on torch and JAX it turns
    float64 into float32. `own_reader` says that a checkpoint is read by its
    own code, not by this project's tables. `stems` are those that its class can build, and `widths` the number of
    init_channels for each of the growth rate; None where it takes any.
    """

    name: str
    runner: tuple[str, str]
    packages: tuple[str, ...] = ()
    on_keras: bool = False
    float64: bool = True
    float64_name: str | None = None
    own_reader: bool = True
    stems: tuple[str, ...] | None = None
    widths: int | None = None

    def computes_float64(self, backend: str) -> bool:
        """Whether it computes in float64 on a backend of Keras, if it runs on one."""
        return self.float64 and (not self.on_keras or backend == "tensorflow")


SOFTWARE = {
    software.name: software
    for software in (
        Software("torchvision", ("torch", "run_torchvision"), ("torch", "torchvision"), stems=("imagenet",)),
        Software("timm", ("torch", "run_timm"), ("torch", "timm"), stems=("imagenet", "deep"), widths=2),
        Software("monai", ("torch", "run_monai"), ("torch", "monai"), stems=("imagenet",)),
        Software(
            *("torchxrayvision", ("torch", "run_torchxrayvision"), ("torch", "torchxrayvision")), stems=("imagenet",)
        ),
        Software("keras", ("keras", "run_keras"), ("keras",), on_keras=True, own_reader=False),
        Software("keras.applications", ("keras", "run_applications"), ("keras",), on_keras=True),
        Software("keras-hub", ("keras", "run_keras_hub"), ("keras", "keras-hub"), on_keras=True),
        Software("kimm", ("keras", "run_kimm"), ("keras", "kimm"), on_keras=True),
        Software("opencv", ("opencv", "run_opencv"), ("opencv-python-headless",), float64=False),
        Software(
            "onnxruntime", ("onnxruntime", "run_onnxruntime"), ("onnx", "onnxruntime"), float64_name="onnx.reference"
        ),
        Software("numpy", ("numpy", "run_numpy"), own_reader=False),
    )
}


def framework(name: str) -> ModuleType:
    """A framework, or another optional package, imported now.

    Raises UsageError that says what to install where it, or a part of it, is missing.
    """
    try:
        return import_module(name)
    except ImportError as error:
        missing = (error.name or name).partition(".")[0]
        hint = f'pip install "densenet-port[{_extra_of(missing)}]"'
        raise UsageError(f"{name} cannot be imported: {error}", hint=hint) from error


def _extra_of(module: str) -> str:
    """The first extra that brings a top-level module; "all" where none does."""
    distribution = DISTRIBUTIONS.get(module, module.replace("_", "-"))
    return next((extra for extra, distributions in EXTRAS.items() if distribution in distributions), "all")
