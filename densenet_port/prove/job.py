"""One run of a network by one software: what is asked for (`Job`), and what came of it (`Run`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from densenet_port.checkpoint import Array
from densenet_port.errors import UsageError
from densenet_port.extras import BACKENDS, SOFTWARE, ReadBy, Software
from densenet_port.layouts.layout import Kernels
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.head import USUAL
from densenet_port.network.keras_input import DataFormat

Precision = Literal["float64", "float32"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)  # the one that is evidence by itself first


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Where a network's tensors are in its file, as far as the file does not say.

    Our own reader takes the mapping `table` (found out without it), kernels stored as `kernels` says, and the network
    below the name `within` where the file holds several. Software with a reader of its own takes `prefix`, what stands
    before its names in the file, wrapping dictionaries included (`state_dict.module.`), `root`, what stands there in
    the software's own names (`features.`, where somebody's own class calls it otherwise), `head`, the head's name in
    the file (`module.classifier.0`), and the names to be `ignored`, which are no part of the network. Where it runs a
    whole module, `module` is the key under which the file has that, and `last` the path of the head in the file, or of
    the last norm where there is none. A graph with several outputs is followed to the one called `output`.
    `prepares` says that the file's own graph prepares its pictures.
    """

    table: Path | None = None
    kernels: Kernels | None = None
    within: str | None = None
    prefix: str = ""
    root: str = ""
    head: str | None = None
    ignored: tuple[str, ...] = ()
    module: str = ""
    last: str | None = None
    output: str | None = None
    prepares: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of one network, from the file `path`, on images `n h w c`.

    `network` names the software (`extras.SOFTWARE`):

    - "torchvision", "timm", "monai", "torchxrayvision": their own DenseNet with the architecture's numbers, in
      evaluation mode, filled strictly with the state dict in the file (what torch itself loads, or safetensors; whole
      modules by our own reader).
    - "keras": the network that `models.load` makes of a file of any layout.
    - "keras.applications", "keras-hub", "kimm": their own network of the architecture, which loads the file itself.
    - "opencv": what OpenCV's importer makes of the `.caffemodel` and the `.prototxt` beside it, in float32.
    - "onnxruntime": the file's graph, in float32; in float64 ONNX's own reference implementation runs it.
    - "numpy": this project's forward pass on a file of any layout.

    `whole` says that the file holds a whole model that the software runs as it is, graph and weights, in place of the
    above; `trust` that code of its own, which is in the file or is named by it, may run. Keras runs on `backend`; its
    network takes images in `data_format` order (they are turned here). Without classes in the architecture, or without
    a head in the file, the last map after its ReLU stands for the logits. `taps` asks for more outputs: our unit → the
    software's own name of that module or layer. `threads` bounds the software's threads (not JAX's); None leaves its
    defaults. `repeated` says that many jobs follow that differ in their images alone, all of one shape and without
    taps: Keras compiles the network for them.
    """

    network: str
    images: Array
    path: Path
    reading: Reading = field(default_factory=Reading)
    architecture: Architecture | None = None
    contract: Contract | None = None
    backend: str = "tensorflow"
    dtype: Precision = "float32"
    data_format: DataFormat = "channels_last"
    taps: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    whole: bool = False
    trust: bool = False
    repeated: bool = False

    @property
    def title(self) -> str:
        """What runs, for messages: `keras on jax in float32`."""
        return f"{title(self.network, self.backend)} in {self.dtype}"

    def bare(self) -> "Job":
        """The job without images and taps, which is hashable: a network is loaded once for the jobs that share it."""
        return replace(self, images=cast("Any", None), taps=cast("Any", None))

    def require_runnable(self) -> None:
        """Raise UsageError for a job that no software can run."""
        software = SOFTWARE.get(self.network)
        if software is None or self.backend not in BACKENDS or self.dtype not in PRECISIONS:
            hint = f"known: {', '.join(SOFTWARE)}; {', '.join(BACKENDS)}"
            raise UsageError(f"no reference is {self.title}", hint=hint)
        if software.reads != "table" and self.architecture is None:
            raise UsageError(f"{self.title} must be told the architecture")
        if self.architecture is not None and not (software.whole and self.whole):
            require_buildable(software, self.architecture)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a network put out.

    `logits` are `n classes` (a map `n h w c` without a head) and `taps` unit → output, `n h w c`, as the software gave
    them. `computed_in` is the dtype that the run was really in, whatever its arrays say. `variables` are the digests
    (`checkpoint.array_digest`) of every floating-point variable in the run's dtype, by the software's name and in its
    axes; for "keras" by our slot, in our axes. `versions` are those of the packages that took part. `read_by` says what
    was run: a runner that does not say so is taken to have run our own reading, which proves nothing.
    """

    logits: Array
    taps: Mapping[str, Array]
    computed_in: str
    variables: Mapping[str, str]
    versions: Mapping[str, str]
    read_by: ReadBy = "table"


def title(software: str, backend: str) -> str:
    """A software's name in results: `keras on jax`, or `torchvision`, which has no backend."""
    on_keras = software in SOFTWARE and SOFTWARE[software].on_keras
    return f"{software} on {backend}" if on_keras else software


def require_buildable(software: Software, numbers: Architecture) -> None:
    """Refuse what a software has no class for. Raises UsageError."""
    if software.reads == "class" and not (numbers.final_norm and numbers.head == USUAL):
        hint = "its networks end in a norm, the mean over the last map, and one dense layer"
        raise UsageError(f"{software.name} has no DenseNet {numbers.name}", hint=hint)
    halves = numbers.bottleneck and numbers.reduction == 0.5  # their half
    if software.stems and not (numbers.stem in software.stems and halves):
        hint = f"its networks have a stem of {' or '.join(software.stems)}, bottlenecks and a reduction of 0.5"
        raise UsageError(f"{software.name} has no DenseNet {numbers.name}", hint=hint)
    if software.widths and numbers.init_channels != software.widths * numbers.growth_rate:
        hint = f"its init_channels are {software.widths} times the growth_rate"
        raise UsageError(f"{software.name} has no DenseNet {numbers.name}", hint=hint)
    if software.names and numbers.name not in software.names:
        raise UsageError(f"{software.name} has no DenseNet {numbers.name}", hint=f"it has {', '.join(software.names)}")
