"""Software of layouts that `check` does not run: how its own network is made, filled with a file, and run.

Where it is a package, install it beside the rest: it is often tied to versions of its own. Where it is a repository,

    git clone https://github.com/andreasveit/densenet-pytorch FOLDER/andreasveit
    git clone https://github.com/gpleiss/efficient_densenet_pytorch FOLDER/gpleiss
    git clone https://github.com/kuangliu/pytorch-cifar FOLDER/kuangliu
    DENSENET_PORT_ZOO=FOLDER python -m tests.record.keys andreasveit gpleiss kuangliu
    DENSENET_PORT_ZOO=FOLDER python -m tests.record.cards andreasveit gpleiss kuangliu

run what stands in the folder, and nothing of it is kept here but names and figures. MXNet wants a Python of its own,
with numpy 1.23 and mxnet 1.9.1, which DENSENET_PORT_MXNET names.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from shutil import copy
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from densenet_port import formats
from densenet_port.network.architecture import Architecture
from densenet_port.network.head import USUAL, head_of

FOLDER = "DENSENET_PORT_ZOO"


class Own(NamedTuple):
    """What a layout's software is called, which module has its class, and how that builds an architecture.

    `side` is that of the pictures that its head is made for. `is_package` says that pip brings it; else it is a
    repository, in a folder of the layout's name. `answer` gives the logits of a model. What is not torch's has its own
    `states` (of an architecture) and `logits` (as `zoo.logits`).
    """

    title: str
    module: str
    build: Callable[[Any, Any], Any]
    architectures: tuple[str, ...]
    side: int = 64
    is_package: bool = False
    answer: Callable[[Any, Any], Any] = lambda model, pictures: model(pictures)
    states: Callable[[str], Any] | None = None
    logits: Callable[[Any, Any], tuple[Any, dict[str, str]]] | None = None


def andreasveit(module, numbers):
    """Three equal blocks; `reduction` is the share that a transition keeps."""
    per_layer = 2 if numbers.bottleneck else 1
    return module.DenseNet3(
        4 + 3 * per_layer * numbers.layers[0],
        numbers.classes,
        numbers.growth_rate,
        reduction=1.0 - numbers.reduction,
        bottleneck=bool(numbers.bottleneck),
    )


def gpleiss(module, numbers):
    """Any blocks, and its stem for small pictures or for large ones."""
    return module.DenseNet(
        growth_rate=numbers.growth_rate,
        block_config=numbers.layers,
        compression=1.0 - numbers.reduction,
        num_init_features=numbers.init_channels,
        bn_size=numbers.bottleneck,
        num_classes=numbers.classes,
        small_inputs=numbers.stem == "cifar",
    )


def fastai(module, numbers):
    """Its head on torchvision's body: a hidden layer, and one pool or two."""
    first, hidden = head_of(numbers.head), [step.outputs for step in head_of(numbers.head).steps if step.outputs]
    return module.create_vision_model(
        getattr(module.models, f"densenet{replace(numbers, head=USUAL).name}"),
        numbers.classes,
        pretrained=False,
        lin_ftrs=hidden,
        concat_pool=len(first.pools) > 1,
    )


def kuangliu(module, numbers):
    """Four blocks; `reduction` is the share that a transition keeps."""
    return module.DenseNet(
        module.Bottleneck,
        numbers.layers,
        growth_rate=numbers.growth_rate,
        reduction=1.0 - numbers.reduction,
        num_classes=numbers.classes,
    )


def mmpretrain(module, numbers):
    """The classifier of its configuration, whose head it may also leave out."""
    arch = {"growth_rate": numbers.growth_rate, "depths": numbers.layers, "init_channels": numbers.init_channels}
    channels = [unit.sizes["c"] for unit in numbers.units.values() if unit.kind == "norm"][-1]
    return module.ImageClassifier(
        backbone={"type": "DenseNet", "arch": arch},
        neck={"type": "GlobalAveragePooling"},
        head={"type": "LinearClsHead", "num_classes": numbers.classes, "in_channels": channels},
    )


def torchreid(module, numbers):
    """Its class with a hidden layer before the classifier."""
    return module.DenseNet(
        numbers.classes,
        "softmax",
        growth_rate=numbers.growth_rate,
        block_config=numbers.layers,
        num_init_features=numbers.init_channels,
        fc_dims=[step.outputs for step in head_of(numbers.head).steps if step.outputs],
    )


def paddle(module, numbers):
    """Its networks by name."""
    return module.DenseNet(layers=int(replace(numbers, classes=1000).name), num_classes=numbers.classes)


def paddle_logits(told, pictures):
    """Float64 logits of Paddle's own network, which takes all names of the file and has no other."""
    import paddle as own

    model = network(told.layout, told.architecture).to(dtype="float64")
    with np.load(told.checkpoint.path) as archive:
        state = {name: array.astype(np.float64) for name, array in archive.items() if name != "densenet_port"}
    assert model.set_state_dict(state) == ([], [])
    model.eval()
    output = model(own.to_tensor(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)), dtype="float64")).numpy()
    assert output.dtype == np.float64
    return output, {"paddlepaddle": own_version(told.layout), "numpy": np.__version__}


MXNET = """
import sys
import mxnet as mx
import numpy as np
from mxnet.gluon.model_zoo.vision import get_model

job, name, place = sys.argv[1:]
net = get_model("densenet" + name, classes=1000)
net.initialize()
if job == "states":
    net(mx.nd.zeros((1, 3, 224, 224)))
    net.save_parameters(place)
elif job == "blocks":
    net(mx.nd.zeros((1, 3, 224, 224)))
    net.collect_params().save(place, strip_prefix=net.prefix)
else:
    net.cast("float64")
    with np.load(place + "/weights.npz") as archive:
        arrays = {name: array for name, array in archive.items() if array.dtype.kind == "f"}
        arrays = {name: mx.nd.array(array, dtype="float64") for name, array in arrays.items()}
    mx.nd.save(place + "/weights.params", arrays)
    net.load_parameters(place + "/weights.params")
    pictures = mx.nd.array(np.load(place + "/pictures.npy"), dtype="float64")
    np.save(place + "/logits.npy", net(pictures).asnumpy())
print(mx.__version__)
"""


def mxnet(*words):
    """What MXNet's own Python does, and its version."""
    command = [os.environ["DENSENET_PORT_MXNET"], "-c", MXNET, *map(str, words)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    return done.stdout.strip().splitlines()[-1]


def gluon_states(name, job="states"):
    """The parameters of a network of MXNet's model zoo, as it saves them, by places or by the names of blocks."""
    with TemporaryDirectory() as folder:
        mxnet(job, name, Path(folder, "x.params"))
        tensors = formats.read(Path(folder, "x.params")).tensors
        return {key: SimpleNamespace(shape=one.shape, dtype=one.dtype) for key, one in tensors.items()}


def gluon_blocks():
    """The parameters as the older way names them, and `export` behind a prefix."""
    for name in IMAGENET:
        yield name, gluon_states(name, "blocks")


def gluon_logits(told, pictures):
    """Float64 logits of MXNet's own network, which loads the file strictly."""
    with TemporaryDirectory() as folder:
        copy(told.checkpoint.path, Path(folder, "weights.npz"))
        np.save(Path(folder, "pictures.npy"), np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
        number = mxnet("logits", told.architecture.name, folder)
        output = np.load(Path(folder, "logits.npy"))
    assert output.dtype == np.float64
    return output, {"mxnet": number, "numpy": np.__version__}


def pretrainedmodels():
    """The state dicts of Cadene's networks."""
    import pretrainedmodels as own

    for name in IMAGENET:
        yield name, getattr(own, f"densenet{name}")(1000, None).state_dict()


def torchreid_plain():
    """The state dicts of torchreid's networks that have torchvision's head."""
    import torchreid as own

    for name in IMAGENET:
        yield name, own.models.build_model(f"densenet{name}", 1000, pretrained=False).state_dict()


def classification_models():
    """The weights of classification_models' networks, which are keras_applications' on tf_keras (Keras 2)."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    from classification_models.tfkeras import Classifiers

    for name in ("121", "169", "201"):
        make, _ = Classifiers.get(f"densenet{name}")
        model = make(input_shape=(224, 224, 3), weights=None, classes=1000)
        layers = {id(weight): layer.name for layer in model.layers for weight in layer.weights}
        yield name, {f"{layers[id(one)]}/{_variable(one)}": _Sketch(one) for one in model.weights}


class _Sketch:
    """Shape and type of a variable of Keras 2."""

    def __init__(self, variable):
        self.shape, self.dtype = tuple(variable.shape), variable.dtype.name


def _variable(weight):
    """`gamma` of `conv1/bn/gamma:0`."""
    return weight.name.rpartition(":")[0].rpartition("/")[2]


def segmentation_models():
    """The state dict of a U-Net whose encoder is torchvision's network without its head."""
    import segmentation_models_pytorch as own

    for name in IMAGENET:
        yield name, own.Unet(f"densenet{name}", encoder_weights=None).state_dict()


CIFAR = ("cifar-40-12", "cifar-100-12", "cifar-100-24", "cifar-bc-100-12", "cifar-bc-250-24", "cifar-bc-190-40")
IMAGENET = ("121", "161", "169", "201")
SMALL_STEM = tuple(  # kuangliu's densenet_cifar, and its DenseNet121
    f"layers=6-12-24-16,growth_rate={growth},init_channels={2 * growth},stem=cifar,classes=10" for growth in (12, 32)
)
FASTAI = tuple(
    f"layers={layers},growth_rate={growth},init_channels={2 * growth},"
    f"head=no-relu/{pools}/norm/dense:512/relu/norm/dense"
    for layers, growth, pools in (
        ("6-12-24-16", 32, "max+mean"),
        ("6-12-24-16", 32, "mean"),
        ("6-12-36-24", 48, "max+mean"),
        ("6-12-32-32", 32, "max+mean"),
        ("6-12-48-32", 32, "max+mean"),
    )
)
TORCHREID = ("layers=6-12-24-16,growth_rate=32,init_channels=64,head=mean/dense:512/norm/relu/dense",)
SOFTWARE = {
    "andreasveit": Own("andreasveit/densenet-pytorch", "densenet", andreasveit, CIFAR, side=32),
    "fastai": Own("fastai", "fastai.vision.all", fastai, FASTAI, is_package=True),
    "gpleiss": Own("gpleiss/efficient_densenet_pytorch", "models.densenet", gpleiss, (*IMAGENET, *CIFAR[3:])),
    "gluon": Own(
        *("mxnet", "", None, IMAGENET),
        side=224,
        is_package=True,
        states=gluon_states,
        logits=gluon_logits,
    ),
    "kuangliu": Own("kuangliu/pytorch-cifar", "models.densenet", kuangliu, SMALL_STEM, side=32),
    "mmpretrain": Own("mmpretrain", "mmpretrain.models", mmpretrain, IMAGENET, is_package=True),
    "paddle": Own(
        *("paddlepaddle", "paddle.vision.models", paddle, (*IMAGENET, "264")),
        is_package=True,
        states=lambda name: network("paddle", Architecture.named(name)).state_dict(),
        logits=paddle_logits,
    ),
    "torchreid": Own(
        *("torchreid", "torchreid.reid.models.densenet", torchreid, TORCHREID),
        is_package=True,
        answer=lambda model, pictures: model.classifier(model(pictures)),
    ),
}


NAMES = {  # software whose names another table says → the package, and what gives them
    "pretrainedmodels": ("pretrainedmodels", pretrainedmodels),
    "torchreid_plain": ("torchreid", torchreid_plain),
    "classification-models": ("image-classifiers", classification_models),
    "gluon_blocks": ("mxnet", gluon_blocks),
    "parts/segmentation-models": ("segmentation-models-pytorch", segmentation_models),
}


def own_version(layout):
    """The version of a package, or the day and the commit of a repository."""
    if layout == "gluon":
        return "1.9.1"  # in a Python of its own
    if SOFTWARE[layout].is_package:
        return version(SOFTWARE[layout].title)
    ask = ["git", "-C", _folder(layout), "show", "--no-patch", "--format=%cs+%h", "HEAD"]
    return subprocess.run(ask, capture_output=True, check=True, text=True).stdout.strip()


def network(layout, numbers):
    """The software's own network of an architecture, as it initialises it."""
    own = SOFTWARE[layout]
    if not own.is_package:
        sys.path.insert(0, str(_folder(layout)))
    return own.build(import_module(own.module), numbers)


def _folder(layout):
    """Where the repository of a layout's software is."""
    folder = Path(os.environ.get(FOLDER, "")) / layout
    if FOLDER not in os.environ or not folder.is_dir():
        raise SystemExit(f"{layout}: {FOLDER} must name the folder in which {SOFTWARE[layout].title} is, as {layout}")
    return folder


def networks(layout):
    """Architecture's name → the state dict of the software's network, for lists of names."""
    if own := SOFTWARE[layout].states:
        yield from ((name, own(name)) for name in SOFTWARE[layout].architectures)
        return
    import torch

    for name in SOFTWARE[layout].architectures:
        with torch.device("meta"):
            yield name, network(layout, Architecture.named(name)).state_dict()


def logits(told, pictures):
    """Float64 logits `n classes` of pictures `n h w c` by the software's own network, and the versions.

    Torch reads the file as it is stored, and the network takes its names strictly.
    """
    layout, own = told.layout, SOFTWARE[told.layout]
    if own.logits:
        return own.logits(told, pictures)
    import torch

    model = network(layout, told.architecture).double().eval()
    state = torch.load(told.checkpoint.path, weights_only=True)
    _give_biases(model, state)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert ({name.rpartition(".")[2] for name in missing}, unexpected) <= ({"num_batches_tracked"}, [])
    with torch.inference_mode():
        output = own.answer(model, torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).double())
    assert output.dtype == torch.float64
    return output.numpy(), {own.title: own_version(layout), "torch": torch.__version__, "numpy": np.__version__}


def _give_biases(model, state):
    """Give dense layers the biases that a file has for them: fastai 1's have some where fastai 2's have none."""
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module.bias is None and f"{name}.bias" in state:
            module.bias = torch.nn.Parameter(torch.empty_like(module.weight[:, 0]))
