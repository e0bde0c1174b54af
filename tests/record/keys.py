"""Record what the installed software calls the tensors of its DenseNets, one file for each network.

    python -m tests.record.keys

writes `data/keys/<layout>-<arch>.txt`, with %2F for a slash. The first line is a comment, `# software version date`,
perhaps with what the file's metadata says (`key=value`); each other line is one tensor in the software's order: name,
sizes of the axes with spaces between (none for a scalar), and type, with tabs between. `read_keys` gives such a file
back as a checkpoint, for tests that need no framework.

Names that Keras 1 and 2 gave are recorded by old_family.py (titu1994, and keras-applications_old) and by
flyyufelix.py. Software of zoo.py is not installed with the rest: its lists are written when they are asked for.

Each software runs in a process of its own. Nothing is trained, downloaded or loaded: torch's networks are built
without memory ("meta"), and Keras's on its lightest backend.
"""

import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from densenet_port.checkpoint import Checkpoint, Tensor
from densenet_port.network.architecture import NAMED, Architecture
from tests.record import zoo

KEYS = Path(__file__).resolve().parent.parent / "data" / "keys"
Network = tuple[str, Mapping[str, Any]]


def software_and_network(path: Path) -> tuple[str, str]:
    """The two that a list is named after: `titu1994-v2` and `cifar-40-12`; a network without a name is its numbers."""
    names = [name for name in NAMED if path.stem.endswith(f"-{name}")]
    name = max(names, key=len) if names else path.stem[path.stem.index("-layers=") + 1 :]
    return path.stem.removesuffix(f"-{name}"), unquote(name)


def read_keys(path: Path) -> Checkpoint:
    """A recorded list as a checkpoint, its arrays random but the same each time (whole numbers: 0 or 1)."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    shapes = {name: (tuple(map(int, shape.split())), dtype) for name, shape, dtype in rows}
    tensors = {name: Tensor(*what, partial(_noise, name, *what)) for name, what in shapes.items()}
    return Checkpoint(path=path, container="recorded", tensors=tensors)


def _noise(name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(name.encode())).uniform(0.5, 1.5, shape).astype(dtype)


def torchvision_networks() -> Iterator[Network]:
    """The state dicts of torchvision's constructors, current names."""
    import torch
    import torchvision

    for arch in ("121", "161", "169", "201"):
        with torch.device("meta"):
            yield arch, torchvision.models.get_model(f"densenet{arch}", weights=None).state_dict()


def torchvision_dotted_networks() -> Iterator[Network]:
    """The names of torchvision before 0.3, which its published files still have; counters came later.

    No installed software writes them any more, so they are ours to spell, and torchvision's to accept: its own code for
    published files loads every one of them, strictly.
    """
    import torch
    from torchvision.models import densenet, get_model

    from tests.support.networks import dotted, without_counters

    for arch, state in torchvision_networks():
        names = dotted(without_counters(state))
        with torch.device("meta"):
            network = get_model(f"densenet{arch}", weights=None)
        published = SimpleNamespace(get_state_dict=lambda names=names, **_: dict(names))
        densenet._load_state_dict(network, published, progress=False)
        yield arch, names


def timm_networks() -> Iterator[Network]:
    """The state dicts of timm's plain DenseNets."""
    import timm
    import torch

    for arch in ("121", "161", "169", "201"):
        with torch.device("meta"):
            yield arch, timm.create_model(f"densenet{arch}", pretrained=False).state_dict()


def timm_blur_networks() -> Iterator[Network]:
    """The state dict of timm's network with a deep stem and a pool that blurs."""
    import timm
    import torch

    with torch.device("meta"):
        yield "121d", timm.create_model("densenetblur121d", pretrained=False).state_dict()


def timm_deep_networks() -> Iterator[Network]:
    """The state dict of timm's network with a deep stem and a max pool."""
    import timm
    import torch

    with torch.device("meta"):
        yield "264d", timm.create_model("densenet264d", pretrained=False).state_dict()


def monai_networks() -> Iterator[Network]:
    """The state dicts of MONAI's networks of two spatial dimensions."""
    import torch
    from monai.networks import nets

    for arch in ("121", "169", "201", "264"):
        with torch.device("meta"):
            network = getattr(nets, f"DenseNet{arch}")(spatial_dims=2, in_channels=3, out_channels=1000)
        yield arch, network.state_dict()


def torchxrayvision_networks() -> Iterator[Network]:
    """The state dict of torchxrayvision's network: one channel, eighteen labels."""
    import torch
    import torchxrayvision

    with torch.device("meta"):
        yield "121", torchxrayvision.models.DenseNet(weights=None).state_dict()


def keras_applications_networks() -> Iterator[Network]:
    """The weights of keras.applications, `<layer>/<variable>`, in the model's order."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    for arch in ("121", "169", "201"):
        model = getattr(keras.applications, f"DenseNet{arch}")(weights=None)
        yield arch, {weight.path: weight.value for weight in model.weights}


def keras_hub_networks() -> Iterator[Network]:
    """The weights of KerasHub's classifiers; the backbone is a model within the model, as in their files."""
    os.environ["KERAS_BACKEND"] = "jax"
    from keras_hub.models import DenseNetBackbone, DenseNetImageClassifier

    for arch in ("121", "169", "201"):
        backbone = DenseNetBackbone(stackwise_num_repeats=Architecture.named(arch).layers)
        model = DenseNetImageClassifier(backbone, num_classes=1000)
        inner = {f"{backbone.name}/{weight.path}": weight.value for weight in backbone.weights}
        yield arch, inner | {weight.path: weight.value for weight in model.output_dense.weights}


def kimm_networks() -> Iterator[Network]:
    """The weights of kimm's DenseNets."""
    os.environ["KERAS_BACKEND"] = "jax"
    import kimm

    for arch in ("121", "161", "169", "201"):
        model = getattr(kimm.models, f"DenseNet{arch}")(weights=None, input_shape=(64, 64, 3))
        yield arch, {weight.path: weight.value for weight in model.weights}


def caffe_networks() -> Iterator[Network]:
    """The blobs of shicai/DenseNet-Caffe's networks, as their .prototxt (d47f7b7) name and shape them.

    The published files are not at hand, so the names are ours to spell, Google's Protocol Buffers' to write, and
    OpenCV's Caffe importer's to accept: it finds every blob under its layer's name.
    """
    import cv2

    from tests.support.caffe_files import net, prototxt

    for arch in ("121", "161", "169", "201"):
        numbers = Architecture.named(arch)
        told = net(numbers, {slot: np.zeros(shape) for slot, shape in numbers.slots.items()}, long=arch == "201")
        files = prototxt(told, rounding="ceil_mode").encode(), told.SerializeToString()
        read = cv2.dnn.readNetFromCaffe(*(np.frombuffer(file, np.uint8) for file in files))
        tensors = {}
        for layer in told.layer:
            found = [blob.size for blob in read.getLayer(layer.name).blobs] if layer.blobs else []
            assert found == [len(blob.data) for blob in layer.blobs]
            for number, blob in enumerate(layer.blobs):
                tensors[f"{layer.name}#{number}"] = SimpleNamespace(shape=tuple(blob.shape.dim), dtype="float32")
        yield arch, tensors


def onnx_networks() -> Iterator[Network]:
    """What torch exports of torchvision's networks, read by its graph: the initialisers' own names say little."""
    for arch in ("121", "161", "169", "201"):
        yield arch, _exported(arch, "unfolded")


def onnx_folded_networks() -> Iterator[Network]:
    """The same as torch exports it by default: what is worked out for folded norms is float64."""
    yield "121", _exported("121", "folded")


def _exported(arch: str, form: str) -> Mapping[str, Any]:
    """An export of a network with random weights, as it is read."""
    from torchvision.models import get_model

    from densenet_port import formats
    from tests.support.onnx_models import export

    with TemporaryDirectory() as folder:
        path = export(get_model(f"densenet{arch}", weights=None).eval(), Path(folder) / "x.onnx", form)
        return formats.read(path).tensors


def onnx_caffe2_networks() -> Iterator[Network]:
    """The model zoo's network, of which ONNX's own test data have the graph and a few numbers."""
    from densenet_port import formats
    from tests.support.onnx_models import LIGHT

    yield "121", formats.read(LIGHT / "light_densenet121.onnx").tensors


RECORDED: dict[str, tuple[str, Callable[[], Iterator[Network]]]] = (
    {
        "torchvision": ("torchvision", torchvision_networks),
        "torchvision_dotted": ("torchvision", torchvision_dotted_networks),
        "timm": ("timm", timm_networks),
        "timm-blur": ("timm", timm_blur_networks),
        "timm-deep": ("timm", timm_deep_networks),
        "monai": ("monai", monai_networks),
        "torchxrayvision": ("torchxrayvision", torchxrayvision_networks),
        "keras-applications": ("keras", keras_applications_networks),
        "keras-hub": ("keras-hub", keras_hub_networks),
        "kimm": ("kimm", kimm_networks),
        "onnx": ("torch", onnx_networks),
        "onnx_folded": ("torch", onnx_folded_networks),
        "onnx-caffe2": ("onnx", onnx_caffe2_networks),
        "caffe": ("protobuf", caffe_networks),
    }
    | {layout: (own.title, partial(zoo.networks, layout)) for layout, own in zoo.SOFTWARE.items()}
    | zoo.NAMES
)

SAID = {  # in the first line: where the software that wrote such names is not installed, and what a file's metadata say
    "torchxrayvision": "module=torchxrayvision.models.DenseNet",
    "onnx": "norms=batchnorm",
    "onnx_folded": "norms=batchnorm",
    "onnx-caffe2": "norms=batchnorm+scale",
    "caffe": "(names and shapes after shicai/DenseNet-Caffe d47f7b7, accepted by OpenCV)",
}


def record(layout: str) -> None:
    """Write the lists of one layout."""
    software, networks = RECORDED[layout]
    for arch, tensors in networks():
        number = zoo.own_version(layout) if layout in zoo.SOFTWARE else version(software)
        head = f"# {software} {number} {datetime.now(UTC).date().isoformat()}"
        lines = [f"{head} {SAID[layout]}" if layout in SAID else head]
        for name, tensor in tensors.items():
            lines.append(f"{name}\t{' '.join(map(str, tensor.shape))}\t{str(tensor.dtype).rpartition('.')[2]}")
        (KEYS / f"{layout}-{quote(arch, safe='=,+')}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    KEYS.mkdir(parents=True, exist_ok=True)
    for given in sys.argv[1:] or RECORDED.keys() - zoo.SOFTWARE.keys() - zoo.NAMES.keys():
        if sys.argv[1:]:
            record(given)
        else:
            subprocess.run([sys.executable, "-m", "tests.record.keys", given], check=True)
