"""Optional packages: which extra brings them, what of them runs a DenseNet, and how one is imported when it is used."""

from importlib import import_module
from types import ModuleType
from typing import Literal, NamedTuple

from densenet_port.errors import UsageError

EXTRAS = {  # extra of pyproject.toml → the distributions that it is for
    "keras": ("keras", "tensorflow"),
    "jax": ("keras", "jax"),
    "torch": ("torch", "torchvision"),
    "pictures": ("pillow",),
    "evaluate": ("pillow", "pyarrow"),
    "caffe": ("opencv-python-headless",),
    "onnx": ("onnx", "onnxruntime"),
    "publish": ("pygithub",),
    "hub": ("huggingface-hub",),
    "ray": ("ray",),
    "sign": ("model-signing",),
    "owners": ("keras-hub", "kimm", "monai", "timm", "torchxrayvision"),
}
DISTRIBUTIONS = {  # top-level module → what brings it, where that has another name
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "github": "pygithub",
    "requests": "pygithub",
    "OpenSSL": "model-signing",
    "cryptography": "model-signing",
}
BACKENDS = ("tensorflow", "torch", "jax")  # of Keras

ReadBy = Literal["file", "model", "class", "table"]
"""How what ran came by the network:

    file   it ran the file itself, graph and weights
    model  it is the user's own model, that ran in the user's own code
    class  the software's own class, filled with the file's tensors by the software's own loader
    table  this project read the file, by one of its tables
"""


class Software(NamedTuple):
    """What runs a DenseNet, under the name by which mapping tables call it their `reference`.

    `runner` is a module of `prove/runners` and its function, `packages` are the distributions that take part, beside
    the backend where it is `on_keras`. `float64` says whether it computes in that precision, `float64_name` what does
    where that is other code of the same project; Keras does on TensorFlow alone, because on torch and JAX it turns
    float64 into float32. `reads` says how it comes by a network, and `whole` which entry of a checkpoint's metadata
    marks a file that its runner runs as a whole instead (None: no file). Of its class, `stems` are those that it can
    build, `widths` the number of init_channels for each of the growth rate, and `names` the architectures that there
    are; None where it takes any.
    """

    name: str
    runner: tuple[str, str]
    packages: tuple[str, ...] = ()
    on_keras: bool = False
    float64: bool = True
    float64_name: str | None = None
    reads: ReadBy = "class"
    whole: str | None = None
    stems: tuple[str, ...] | None = None
    widths: int | None = None
    names: tuple[str, ...] | None = None

    def computes_float64(self, backend: str) -> bool:
        """Whether it computes in float64 on a backend of Keras, if it runs on one."""
        return self.float64 and (not self.on_keras or backend == "tensorflow")


MODULE = "torch_module"  # the entry of the metadata that says where a file has a whole module
CONFIG = "config"  # and the one that has the configuration of a whole model of Keras's
SOFTWARE = {
    software.name: software
    for software in (
        Software(
            "torchvision", ("torch", "run_torchvision"), ("torch", "torchvision"), whole=MODULE, stems=("imagenet",)
        ),
        Software("timm", ("torch", "run_timm"), ("torch", "timm"), whole=MODULE, stems=("imagenet", "deep"), widths=2),
        Software("monai", ("torch", "run_monai"), ("torch", "monai"), whole=MODULE, stems=("imagenet",)),
        Software(
            *("torchxrayvision", ("torch", "run_torchxrayvision"), ("torch", "torchxrayvision")),
            whole=MODULE,
            stems=("imagenet",),
        ),
        Software("keras", ("keras", "run_keras"), ("keras",), on_keras=True, reads="table", whole=CONFIG),
        Software(
            *("keras.applications", ("keras", "run_applications"), ("keras",)),
            on_keras=True,
            whole=CONFIG,
            names=("121", "169", "201"),
        ),
        Software("keras-hub", ("keras", "run_keras_hub"), ("keras", "keras-hub"), on_keras=True, whole=CONFIG),
        Software(
            *("kimm", ("keras", "run_kimm"), ("keras", "kimm")),
            on_keras=True,
            whole=CONFIG,
            names=("121", "161", "169", "201"),
        ),
        Software("opencv", ("opencv", "run_opencv"), ("opencv-python-headless",), float64=False, reads="file"),
        Software(
            *("onnxruntime", ("onnxruntime", "run_onnxruntime"), ("onnx", "onnxruntime")),
            float64_name="onnx.reference",
            reads="file",
        ),
        Software("numpy", ("numpy", "run_numpy"), reads="table"),
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
