"""The forms of torch's and ONNX's files in which people bring DenseNets, written by torch itself, small and random."""

import copy
import gzip
import io
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn
from torch.ao import quantization
from torch.fx.experimental.optimization import fuse
from torch.nn.utils import prune
from torchvision.models.densenet import DenseNet

from tests.support.inputs import SIZE, form, noise


class Wrapped(nn.Module):
    """A class of somebody's own."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        """Probabilities of `n c h w`."""
        return torch.sigmoid(self.net(x))


class Twice(nn.Module):
    """The network, and two of its parts again under other names, as tutorials on Grad-CAM have it."""

    def __init__(self, net):
        super().__init__()
        self.densenet, self.features_conv, self.classifier = net, net.features, net.classifier


class Normalised(nn.Module):
    """Pictures of 0 … 1 go in."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def forward(self, x):
        """Logits of `n c h w`."""
        return self.net((x - self.mean) / self.std)


class Permuted(nn.Module):
    """Pictures go in channels last."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        """Logits of `n h w c`."""
        return self.net(x.permute(0, 3, 1, 2))


class TwoOutputs(nn.Module):
    """Logits, and the means that the head reads."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        """Logits and means of `n c h w`."""
        features = nn.functional.adaptive_avg_pool2d(torch.relu(self.net.features(x)), 1).flatten(1)
        return self.net.classifier(features), features


# -- torch -------------------------------------------------------------------------------------------------------------


def small(classes: int = 5, seed: int = 0) -> Any:
    """A small DenseNet of torchvision's, its norms' numbers all different."""
    torch.manual_seed(seed)
    return shaken(DenseNet(8, (2, 2), 16, num_classes=classes))


def shaken(module: Any) -> Any:
    """A module whose norms and heads have random numbers, evaluating."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
                part.weight.uniform_(0.5, 1.5)
                part.bias.normal_(0, 0.2)
                part.running_mean.normal_(0, 0.2)
                part.running_var.uniform_(0.5, 1.5)
            if isinstance(part, nn.Linear) and part.bias is not None:
                part.bias.normal_(0, 0.3)
    return module.eval()


def answer(path: Path, module: Callable[[Any], Any], channels: int = 3, size: int = SIZE) -> None:
    """Keep a module's own float64 logits beside a file."""
    x = noise(channels, size)
    if isinstance(module, torch.nn.Module):
        module = copy.deepcopy(module).double()
    with torch.no_grad():
        y = module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    np.savez(path.with_name(path.name.partition(".")[0] + ".npz"), x=x, y=np.asarray(y, np.float64))


def save(path: Path, thing: Any) -> None:
    """As torch saves it."""
    torch.save(thing, path)


@form("torchvision's `state_dict`", ".pth")
def state_dict(path: Path) -> None:
    net = small()
    save(path, net.state_dict())
    answer(path, net)


@form("the module itself (`torch.save(model)`)", ".pth")
def whole_module(path: Path) -> None:
    net = small()
    save(path, net)
    answer(path, net)


@form("the module, its stem of stride 1 and without a pool", ".pth")
def module_for_small_pictures(path: Path) -> None:
    net = small()
    net.features.conv0.stride, net.features.pool0 = (1, 1), nn.Identity()
    save(path, net)
    answer(path, net, size=32)


@form("the module, without the stem's pool", ".pth")
def module_without_pool(path: Path) -> None:
    net = small()
    net.features.pool0 = nn.Identity()
    save(path, net)
    answer(path, net)


@form("the module, with another epsilon in every norm", ".pth")
def module_of_another_epsilon(path: Path) -> None:
    net = small()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 1e-3
            part.running_var.uniform_(1e-3, 1e-2)
    save(path, net)
    answer(path, net)


@form("the module, LeakyReLU in place of ReLU", ".pth")
def module_of_leaky_relus(path: Path) -> None:
    net = small()
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.ReLU):
                setattr(parent, name, nn.LeakyReLU(0.1))
    save(path, net)
    answer(path, net)


@form("the module, its last block dilated and a transition's pool taken out", ".pth")
def module_dilated(path: Path) -> None:
    net = small()
    for part in net.features.denseblock2.modules():
        if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3):
            part.dilation, part.padding = (2, 2), (2, 2)
    net.features.transition1.pool = nn.Identity()
    save(path, net)
    answer(path, net)


@form("the module, a Sigmoid behind its head", ".pth")
def module_with_a_sigmoid(path: Path) -> None:
    net = small()
    answer(path, net)
    net.classifier = nn.Sequential(net.classifier, nn.Sigmoid())
    save(path, net)


@form("a module of a class of one's own around torchvision's", ".pth")
def module_of_a_class_of_one_s_own(path: Path) -> None:
    net = small()
    answer(path, net)
    save(path, Wrapped(net))


@form("`state_dict` of a network whose stem's pool was taken out", ".pth")
def state_dict_without_pool(path: Path) -> None:
    net = small()
    net.features.pool0 = nn.Identity()
    save(path, net.state_dict())
    answer(path, net)


@form("`state_dict` of a 3×3 stem with a norm and without a pool", ".pth")
def state_dict_of_a_small_stem(path: Path) -> None:
    net = small()
    net.features.conv0, net.features.pool0 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.Identity()
    save(path, net.state_dict())
    answer(path, net, size=32)


@form("`state_dict` of a stem with a bias, one channel", ".pth")
def state_dict_with_a_stem_bias(path: Path) -> None:
    net = small()
    net.features.conv0 = nn.Conv2d(1, 16, 7, 2, 3)
    save(path, net.state_dict())
    answer(path, net, channels=1)


@form("`state_dict` of a head without a bias", ".pth")
def state_dict_without_a_head_bias(path: Path) -> None:
    net = small()
    net.classifier = nn.Linear(net.classifier.in_features, 4, bias=False)
    save(path, net.state_dict())
    answer(path, net)


def renamed(path: Path, names: dict[str, str], **beside: Any) -> None:
    """A state dict whose names begin otherwise."""
    net = small()
    answer(path, net)
    state = net.state_dict()
    for old, new in names.items():
        state = {new + name.removeprefix(old) if name.startswith(old) else name: value for name, value in state.items()}
    save(path, {"state_dict": state, **beside} if beside else state)


@form("the body called `base.`", ".pth.tar")
def body_called_base(path: Path) -> None:
    renamed(path, {"features.": "base."}, epoch=60, rank1=0.8)


@form("the body called `encoder.`, the head `fc`", ".pth")
def body_called_encoder(path: Path) -> None:
    renamed(path, {"features.": "encoder.", "classifier.": "fc."})


@form("the head called `last_linear`", ".pth")
def head_called_last_linear(path: Path) -> None:
    renamed(path, {"classifier.": "last_linear."})


@form("one Linear in a Sequential, by a name", ".pth")
def head_in_a_sequential(path: Path) -> None:
    net = small()
    answer(path, net)
    parts = [("drop", nn.Dropout(0.2)), ("out", net.classifier), ("log", nn.LogSoftmax(1))]
    net.classifier = nn.Sequential(OrderedDict(parts))
    save(path, net.state_dict())


@form("`nn.Sequential(*list(net.children())[:-1])`: the body by number", ".pth")
def body_by_number(path: Path) -> None:
    save(path, nn.Sequential(*list(small().children())[:-1]).state_dict())


@form("the last norm called `norm_final` (efficient_densenet_pytorch)", ".dat")
def last_norm_called_norm_final(path: Path) -> None:
    renamed(path, {"features.norm5.": "features.norm_final."})


@form("tensors of one number beside the network", ".pt")
def numbers_beside(path: Path) -> None:
    net = small()
    save(path, {"epoch": 4, "model": net.state_dict(), "val_loss": torch.tensor(0.3), "auc": torch.tensor(0.9)})
    answer(path, net)


@form("a tuple of the state dict and the optimiser's", ".pt")
def tuple_with_the_optimiser(path: Path) -> None:
    net = small()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.0)
    net(torch.zeros(2, 3, SIZE, SIZE)).sum().backward()
    optimiser.step()
    save(path, (net.state_dict(), optimiser.state_dict()))
    answer(path, net)


@form("the same tensors under two names", ".pth")
def same_tensors_twice(path: Path) -> None:
    net = small()
    answer(path, net)
    save(path, Twice(net).state_dict())


def body_answer(path: Path, net: Any) -> None:
    """Keep the means of the last map, which is what a body gives."""
    wide = copy.deepcopy(net).double()
    answer(path, lambda x: nn.functional.adaptive_avg_pool2d(wide.features(x).relu(), 1).flatten(1))


@form("a head of two Linear layers", ".pth")
def head_of_two_layers(path: Path) -> None:
    net = small()
    net.classifier = nn.Sequential(nn.Linear(net.classifier.in_features, 20), nn.ReLU(), nn.Linear(20, 7))
    answer(path, shaken(net))
    save(path, net.state_dict())


@form("the module, a head of two Linear layers with Tanh between", ".pth")
def module_of_two_layers(path: Path) -> None:
    net = small()
    net.classifier = nn.Sequential(nn.Linear(net.classifier.in_features, 20), nn.Tanh(), nn.Linear(20, 7))
    answer(path, shaken(net))
    save(path, net)


@form("a norm in the head", ".pth")
def head_with_a_norm(path: Path) -> None:
    net = small()
    count = net.classifier.in_features
    net.classifier = nn.Sequential(nn.BatchNorm1d(count), nn.Linear(count, 4))
    answer(path, shaken(net))
    save(path, net.state_dict())


@form("`state_dict` of a class that takes the mean off and divides", ".pth")
def state_dict_with_a_mean(path: Path) -> None:
    net = Normalised(small()).eval()
    save(path, net.state_dict())
    answer(path, net)


@form("a decoder behind the encoder", ".pth")
def decoder_behind(path: Path) -> None:
    net = small()
    body_answer(path, net)
    holder, whole = nn.Module(), nn.Module()
    holder.original_model = net
    whole.encoder, whole.decoder = holder, nn.ModuleDict({"up": nn.Conv2d(32, 8, 1), "out": nn.Conv2d(8, 1, 3)})
    save(path, whole.state_dict())


@form("GroupNorm for BatchNorm (Opacus)", ".pth")
def group_norms(path: Path) -> None:
    net = small()
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.GroupNorm(8, child.num_features))
    save(path, net.state_dict())


@form("pruned: `weight_orig` and `weight_mask`", ".pth")
def pruned(path: Path) -> None:
    net = small()
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            prune.l1_unstructured(part, "weight", 0.3)
    save(path, net.state_dict())


@form("norms without statistics (`track_running_stats=False`)", ".pth")
def without_statistics(path: Path) -> None:
    state = small().state_dict()
    save(path, {name: value for name, value in state.items() if "running" not in name and "num_batches" not in name})


@form("quantisation-aware training", ".pth")
def quantisation_aware(path: Path) -> None:
    net = small().train()
    net.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization.prepare_qat(net, inplace=True)
    torch.save(net.state_dict(), path)


@form("a plain pickle of the state dict", ".pkl")
def plain_pickle(path: Path) -> None:
    net = small()
    path.write_bytes(pickle.dumps(net.state_dict()))
    answer(path, net)


@form("an `.npz` of the state dict", ".npz")
def numpy_archive(path: Path) -> None:
    np.savez(path, **{name: value.numpy() for name, value in small().state_dict().items()})


@form("a checkpoint in gzip", ".pth.gz")
def in_gzip(path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(small().state_dict(), buffer)
    path.write_bytes(gzip.compress(buffer.getvalue()))


@form("a whole module, its head quantised", ".pth")
def quantised_head(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(path, quantization.quantize_dynamic(small(), {nn.Linear}))


@form("a network of three steps of training", ".pth")
def of_three_steps(path: Path) -> None:
    torch.manual_seed(0)
    net = DenseNet(8, (2, 2), 16, num_classes=5)
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(4, 3, SIZE, SIZE))
    save(path, net.state_dict())
    answer(path, net.eval())


@form("norms folded into the convolutions before them (`torch.fx`'s `fuse`)", ".pth")
def folded_norms(path: Path) -> None:
    net = small()
    save(path, fuse(net).state_dict())
    answer(path, net)


def trace(path: Path, net: Any) -> None:
    """What runs on one picture, and the answer."""
    answer(path, net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(net, torch.zeros(1, 3, SIZE, SIZE)), path)


def export(path: Path, net: Any) -> None:
    """The exported program, and the answer."""
    answer(path, net)
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, SIZE, SIZE),)), path)


@form("`torch.jit.trace`", ".pt")
def traced(path: Path) -> None:
    trace(path, small())


@form("`torch.jit.trace` of a class that takes the mean off and divides", ".pt")
def traced_with_a_mean(path: Path) -> None:
    trace(path, Normalised(small()).eval())


@form("`torch.jit.trace` of a module that trains", ".pt")
def traced_in_training(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(small().train(), torch.zeros(2, 3, SIZE, SIZE), check_trace=False), path)


@form("`torch.export.save`", ".pt2")
def exported(path: Path) -> None:
    export(path, small())


@form("`torch.export.save` of a class that takes the mean off and divides", ".pt2")
def exported_with_a_mean(path: Path) -> None:
    export(path, Normalised(small()).eval())


@form("an empty file", ".pth")
def empty(path: Path) -> None:
    path.write_bytes(b"")


# -- ONNX --------------------------------------------------------------------------------------------------------------


def onnx(path: Path, net: Any, x: np.ndarray | None = None, **how: Any) -> None:
    """A model as torch's exporter writes it; its answer is ONNX Runtime's, unless the module is asked."""
    pictures = noise().transpose(0, 3, 1, 2) if x is None else x
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = {"input": {0: "n"}}
        example = torch.zeros(1, *pictures.shape[1:])
        torch.onnx.export(net, (example,), path, dynamo=False, input_names=["input"], dynamic_axes=axes, **how)
    session = onnxruntime.InferenceSession(path)
    y = session.run(None, {"input": pictures.astype(np.float32)})[0]
    last = pictures if x is not None else pictures.transpose(0, 2, 3, 1)
    np.savez(path.with_suffix(".npz"), x=last, y=y.astype(np.float64))


@form("opset 9: a Pad of nothing before each average pool", ".onnx")
def opset_9(path: Path) -> None:
    onnx(path, small(), opset_version=9)


@form("the mean taken off and divided within the graph", ".onnx")
def normalised_within(path: Path) -> None:
    onnx(path, Normalised(small()).eval())


@form("channels last: a Transpose in front", ".onnx")
def channels_last(path: Path) -> None:
    onnx(path, Permuted(small()).eval(), x=noise())


@form("two outputs: logits and features", ".onnx")
def two_outputs(path: Path) -> None:
    onnx(path, TwoOutputs(small()).eval(), output_names=["logits", "features"])


@form("optimised by ONNX Runtime, which joins convolutions with their ReLU", ".onnx")
def optimised(path: Path) -> None:
    onnx(path, small())
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(path.read_bytes(), options)
