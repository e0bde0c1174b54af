"""Classes of modules whose forward is known: facts about software, by the dotted name under which a pickle has a class.

Read from torch 2.14.1, torchvision 0.2 to 0.29.1, timm 0.4 to 1.0.31, MONAI 1.6.1 and torchxrayvision 1.5.7. What a
class does while it trains (dropping, statistics of the batch, checkpointing of gradients) is no part of it: a network
that answers is in evaluation mode.
"""

from typing import Literal

# What one step does that has settings; `graph` reads them.
Leaf = Literal[
    "conv", "norm", "relu", "max_pool", "average_pool", "adaptive_mean", "fast_mean", "dense", "flatten", "zeros",
    "mirror", "blur", "softmax", "sigmoid", "tanh", "log_softmax", "identity", "normalize",
]  # fmt: skip
_NN = "torch.nn.modules."

LEAVES: dict[str, Leaf] = {
    f"{_NN}conv.Conv2d": "conv",
    f"{_NN}batchnorm.BatchNorm2d": "norm",
    f"{_NN}batchnorm.SyncBatchNorm": "norm",
    "torchvision.ops.misc.FrozenBatchNorm2d": "norm",
    f"{_NN}activation.ReLU": "relu",
    f"{_NN}activation.Sigmoid": "sigmoid",
    f"{_NN}activation.Tanh": "tanh",
    f"{_NN}activation.Softmax": "softmax",
    f"{_NN}activation.LogSoftmax": "log_softmax",
    f"{_NN}pooling.MaxPool2d": "max_pool",
    f"{_NN}pooling.AvgPool2d": "average_pool",
    f"{_NN}pooling.AdaptiveAvgPool2d": "adaptive_mean",
    f"{_NN}linear.Linear": "dense",
    f"{_NN}linear.Identity": "identity",
    f"{_NN}flatten.Flatten": "flatten",
    f"{_NN}padding.ZeroPad2d": "zeros",
    f"{_NN}padding.ReflectionPad2d": "mirror",
    **{
        f"{_NN}dropout.{name}": "identity"
        for name in ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout")
    },
    "torchvision.transforms.transforms.Normalize": "normalize",
    **{f"{package}.drop.DropPath": "identity" for package in ("timm.layers", "timm.models.layers")},
    **{f"{package}.blur_pool.BlurPool2d": "blur" for package in ("timm.layers", "timm.models.layers")},
    **{
        f"{package}.adaptive_avgmax_pool.FastAdaptiveAvgPool{end}": "fast_mean"
        for package in ("timm.layers", "timm.models.layers")
        for end in ("", "2d")
    },
}

# What a module does to what it reads: its parts one after the other. `*` stands for all parts in their order, `:` is
# in front of what is no module, `?` behind a part that may be absent. `:cat` joins what went in and what came out.
_TAIL = (":relu", ":mean", ":flatten", "classifier")
FORWARDS: dict[str, tuple[str, ...]] = {
    f"{_NN}container.Sequential": ("*",),
    "torch.nn.parallel.data_parallel.DataParallel": ("module",),
    "torch.nn.parallel.distributed.DistributedDataParallel": ("module",),
    "torch.optim.swa_utils.AveragedModel": ("module",),
    "torch._dynamo.eval_frame.OptimizedModule": ("_orig_mod",),
    "torchvision.models.densenet.DenseNet": ("features", *_TAIL),
    "torchvision.models.densenet._DenseBlock": ("*",),
    "torchvision.models.densenet._Transition": ("*",),
    "timm.models.densenet.DenseNet": ("features", "global_pool", "head_drop?", "classifier"),
    "timm.models.densenet.DenseBlock": ("*",),
    "timm.models.densenet.DenseTransition": ("*",),
    **{
        f"{package}.norm_act.{name}": (":norm", "drop?", "act")
        for package in ("timm.layers", "timm.models.layers")
        for name in ("BatchNormAct2d", "SyncBatchNormAct")
    },
    **{
        f"{package}.adaptive_avgmax_pool.SelectAdaptivePool2d": ("pool", "flatten?", ":flatten-if-set")
        for package in ("timm.layers", "timm.models.layers")
    },
    **{
        f"monai.networks.nets.densenet.{name}": ("features", "class_layers")
        for name in ("DenseNet", "DenseNet121", "DenseNet169", "DenseNet201", "DenseNet264")
    },
    "monai.networks.nets.densenet._DenseBlock": ("*",),
    "monai.networks.nets.densenet._Transition": ("*",),
    "torchxrayvision.models.DenseNet": (":resized", "features", *_TAIL, ":sigmoid-if-set"),
    "torchxrayvision.models._DenseBlock": ("*",),
    "torchxrayvision.models._Transition": ("*",),
}

# Dense layers. Some releases run their parts in the order in which they are kept, others by name, and a pickle does
# not tell the release: one that has exactly these parts is the same by all of them. The oldest have a dot in the names.
_LAYER = ("norm1", "relu1", "conv1", "norm2", "relu2", "conv2")
LAYERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "torchvision.models.densenet._DenseLayer": (_LAYER,),
    "timm.models.densenet.DenseLayer": (("norm1", "conv1", "norm2", "conv2"), _LAYER),
    "monai.networks.nets.densenet._DenseLayer": (("layers",), _LAYER, (*_LAYER, "dropout")),
    "torchxrayvision.models._DenseLayer": (_LAYER,),
}

# Methods that these forwards call: one that stands among an object's own attributes is called in the class's place.
METHODS = frozenset(
    (
        *("forward", "__call__", "_call_impl", "_wrapped_call_impl", "_slow_forward", "_conv_forward"),
        *("_check_input_dim", "bn_function", "bottleneck_fn", "any_requires_grad", "items", "values", "children"),
        *("named_children", "features2", "forward_features", "forward_head", "call_checkpoint_bottleneck"),
    )
)

# Packages whose classes have no code of the user's: one that is not listed above is another operation.
LIBRARIES = ("torch", "torchvision", "timm", "monai", "torchxrayvision")
