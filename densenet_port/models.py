"""DenseNet in Keras 3, on any of its backends: the constructors, and the networks that converted files describe.

Layers carry our units' names with underscores for dots (`block1_layer2_conv1`); layers without weights are named after
what they belong to (`block1_layer2_relu1`, `block1_layer2_concat`, `stem_pool`, `transition1_pool`, `final_relu`,
`head_pool`, `head_softmax`). A blur pool is `stem_pool`, a reflection, `stem_blur1` and `stem_blur2`: nothing in it is
a variable, and every layer is Keras's own. The network itself always runs channels last, whatever the user's global
setting: TensorFlow has no channels-first convolution on the CPU, and kernels are `h w i o` in either order. A
channels-first input goes through one Permute in front, so weights and logits are the same in both orders.

The constructors' arguments and checks are those of the DenseNet for Keras 2 that users know (`DenseNet`,
`DenseNetImageNet121` …), with these differences: every refusal is a ValueError (some were assertions);
`weights="imagenet"`, the default of every ImageNet network (201 and 264 had None), never leaves one random;
`activation=None` gives logits; epsilon and the stem's padding follow the weights, else the original network (1e-5,
symmetric); an ImageNet network with its head and without `input_shape` takes 224×224.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from densenet_port.conversion.load import Network, port, read
from densenet_port.errors import UsageError
from densenet_port.extras import framework
from densenet_port.fetch import registry
from densenet_port.layouts.layout import Layout
from densenet_port.network.architecture import NAMED, Architecture
from densenet_port.network.contract import Activation, Contract, StemPadding
from densenet_port.network.graph import graph
from densenet_port.network.keras import Model, assign, build, check_input
from densenet_port.network.keras_input import DataFormat, KerasTensor, ModelInput, Shape, model_input

RANDOM = "weights=None builds it with random weights"
SMALLEST = 8  # sides below it were always refused by the constructors, even where the network could take them


def DenseNet(  # noqa: N802 (a constructor, with the arguments that users know)
    input_shape: Shape | None = None,
    depth: int = 40,
    nb_dense_block: int = 3,
    growth_rate: int = 12,
    nb_filter: int = -1,
    nb_layers_per_block: int | Sequence[int] = -1,
    bottleneck: bool = False,
    reduction: float = 0.0,
    dropout_rate: float = 0.0,
    weight_decay: float = 1e-4,
    subsample_initial_block: bool = False,
    include_top: bool = True,
    weights: str | PathLike[str] | None = None,
    input_tensor: KerasTensor | None = None,
    classes: int = 10,
    activation: Activation | None = "softmax",
    *,
    stem_padding: StemPadding | None = None,
    epsilon: float | None = None,
    data_format: DataFormat | None = None,
) -> Model:
    """A DenseNet from its numbers, by default 40 layers for CIFAR, as a Keras model named `densenet`.

    `input_shape` is `(h, w, c)` or `(c, h, w)`: the end that holds 1 or 3 tells, else Keras's own setting, and
    `data_format` overrules both. It is 32×32×3 by default; without the head h and w may be None, and are by default.
    `nb_layers_per_block` is one count for all blocks, a count for each, or -1: `(depth − 4) / 3`, halved with a
    bottleneck. `nb_filter` of 0 or less means twice the growth rate. A transition keeps
    `int(channels · (1 − reduction))`. `subsample_initial_block` means the ImageNet stem. Dropout follows each dense
    layer; weight decay holds for the stem's, the transitions' and the bottlenecks' 1×1 kernels. Without the head the
    output is the pooled last map, `n c`.

    `weights` is None (random), a file of any layout that densenet-port reads, or the name of a registered set, which is
    downloaded when it is first called for: "imagenet" (our release's default; until one is published, torchvision's
    file, which is converted then and cached), "torchvision", "keras-applications" or "titu1994". The file's epsilon and
    stem padding hold, and one given here must not contradict them. Raises ValueError for arguments that do not fit each
    other or the file, and for a set that has no such network; and the PortErrors of reading and fetching a file.
    """
    _check_output(activation, classes)
    default = (32, 32, 3) if include_top else (None, None, 3)
    images = model_input(input_shape, input_tensor, data_format, default)
    _check_sides(images, known=include_top)
    try:
        architecture = Architecture(
            layers=_layers(depth, nb_dense_block, nb_layers_per_block, bottleneck=bottleneck),
            growth_rate=growth_rate,
            init_channels=nb_filter if nb_filter > 0 else 2 * growth_rate,
            bottleneck=4 if bottleneck else 0,
            reduction=reduction,
            stem="imagenet" if subsample_initial_block else "cifar",
            channels=images.channels,
            classes=classes if include_top else None,
        )
    except UsageError as error:
        raise ValueError(str(error)) from error
    contract = _contract(None, epsilon, stem_padding)
    if weights == registry.IMAGENET:
        _check_imagenet(architecture, images, epsilon, stem_padding)
    source = None if weights is None else _fitting(weights, architecture)
    if source:
        contract = _contract(source.contract, epsilon, stem_padding)
    model = build(
        architecture,
        contract,
        input_shape=images.shape,
        activation=activation,
        data_format=images.order,
        dropout_rate=dropout_rate,
        weight_decay=weight_decay,
        input_tensor=input_tensor,
        blank=source is not None,
    )
    if source:
        assign(model, {slot: source.weights[slot] for slot in architecture.slots})
    return model if include_top else _pooled(model, images.order)


def _imagenet(name: str) -> Callable[..., Model]:
    """The constructor of one ImageNet network."""
    numbers = NAMED[name]

    def constructor(
        input_shape: Shape | None = None,
        bottleneck: bool = True,
        reduction: float = 0.5,
        dropout_rate: float = 0.0,
        weight_decay: float = 1e-4,
        include_top: bool = True,
        weights: str | PathLike[str] | None = registry.IMAGENET,
        input_tensor: KerasTensor | None = None,
        classes: int = 1000,
        activation: Activation | None = "softmax",
        *,
        stem_padding: StemPadding | None = None,
        epsilon: float | None = None,
        data_format: DataFormat | None = None,
    ) -> Model:
        if input_shape is None and input_tensor is None and include_top:
            input_shape, data_format = model_input(None, None, data_format, (224, 224, 3))
        return DenseNet(
            input_shape,
            nb_dense_block=len(numbers.layers),
            growth_rate=numbers.growth_rate,
            nb_filter=numbers.init_channels,
            nb_layers_per_block=numbers.layers,
            bottleneck=bottleneck,
            reduction=reduction,
            dropout_rate=dropout_rate,
            weight_decay=weight_decay,
            subsample_initial_block=True,
            include_top=include_top,
            weights=weights,
            input_tensor=input_tensor,
            classes=classes,
            activation=activation,
            stem_padding=stem_padding,
            epsilon=epsilon,
            data_format=data_format,
        )

    constructor.__name__ = constructor.__qualname__ = f"DenseNetImageNet{name}"
    constructor.__doc__ = (
        f"DenseNet-{name} for ImageNet as a Keras model: blocks of {', '.join(map(str, numbers.layers))} layers, "
        f"growth rate {numbers.growth_rate}.\n\n"
        "    224×224×3 by default, any size without the head, with ImageNet's weights by default: other numbers,\n"
        "    classes or channels than theirs go with weights=None. All else is as in `DenseNet`.\n    "
    )
    return constructor


DenseNetImageNet121 = _imagenet("121")
DenseNetImageNet161 = _imagenet("161")
DenseNetImageNet169 = _imagenet("169")
DenseNetImageNet201 = _imagenet("201")
DenseNetImageNet264 = _imagenet("264")


def load(
    path: str | PathLike[str],
    *,
    input_shape: Shape | None = None,
    activation: Activation | Literal["contract"] | None = "contract",
    data_format: DataFormat | None = None,
    include_preprocessing: bool = False,
) -> Model:
    """The network that a file describes, in its own architecture and contract, with the file's weights.

    As `read(path).keras(...)`; raises the PortErrors of reading a file, and ValueError for an input that the network
    cannot take.
    """
    return read(path).keras(
        input_shape=input_shape,
        activation=activation,
        data_format=data_format,
        include_preprocessing=include_preprocessing,
    )


def _pooled(model: Model, order: DataFormat) -> Model:
    """A model without a head, its last map averaged over all places."""
    keras = framework("keras")
    pool = keras.layers.GlobalAveragePooling2D(data_format=order, name="head_pool")
    return keras.Model(model.input, pool(model.output), name=model.name)


def _fitting(weights: str | PathLike[str], architecture: Architecture) -> Network:
    """What a file or a registered set holds, if the architecture can take it; a head beyond that does no harm."""
    source = read(_located(weights, architecture))
    stored = source.architecture
    if architecture.classes is not None and stored.classes != architecture.classes:
        has = "has no head" if stored.classes is None else f"has {stored.classes} classes"
        raise ValueError(f"{weights} {has}, the model asked for has classes={architecture.classes}")
    if architecture.classes is not None and stored.head != architecture.head:
        asked = f"the constructors build {architecture.head}"
        raise ValueError(f"{weights} holds a network with the head {stored.head}, {asked}: `load` builds what it holds")
    if stored.without_head().slots != architecture.without_head().slots:
        asked = f"{architecture.name} with {architecture.channels} input channels"
        raise ValueError(
            f"{weights} holds a {stored.name} with {stored.channels} input channels, not the {asked} asked for"
        )
    return source


def _located(weights: str | PathLike[str], architecture: Architecture) -> Path:
    """The file that `weights` means: its path, or the cached file of a registered name."""
    path = Path(weights)
    if isinstance(weights, PathLike) or (path.is_file() and weights != registry.IMAGENET):  # nobody means it by default
        return path
    try:
        return registry.registered(str(weights), architecture, port=port, progress=_bar())
    except UsageError as error:
        known = f"weights={weights!r} is neither a file nor a registered set of weights for {architecture.name}"
        raise ValueError(f"{known}: {RANDOM}\n{error}") from error


def _bar() -> Callable[[int, int], None]:
    """Keras's own bar, which begins with the first bytes of a download; on a terminal and in a notebook only."""
    begun: list[Any] = []

    def progress(done: int, total: int) -> None:
        if not (sys.stdout.isatty() or "ipykernel" in sys.modules):
            return
        if not begun:
            begun.append(framework("keras").utils.Progbar(total or None, unit_name="byte"))
        begun[0].update(done)

    return progress


def _check_imagenet(
    architecture: Architecture, images: ModelInput, epsilon: float | None, stem_padding: StemPadding | None
) -> None:
    """Refuse, before anything is downloaded, what ImageNet's weights cannot be used for."""
    if architecture.classes not in (None, 1000):
        found = f"found classes={architecture.classes}"
        raise ValueError(f"weights='imagenet' with its head means classes=1000, {found}: {RANDOM}")
    if architecture.channels != 3:  # red, green and blue
        raise ValueError(f"weights='imagenet' means 3 channels, found {images}: {RANDOM}")
    source = registry.stand_in()
    contract = _contract(Layout.load(source).contract if source else None, epsilon, stem_padding)
    check_input(graph(architecture, contract), images, architecture.name)


def _contract(recorded: Contract | None, epsilon: float | None, stem_padding: StemPadding | None) -> Contract:
    """The weights' contract, else the original network's; what the caller states must agree with the former."""
    if stem_padding not in (None, "symmetric", "same"):
        raise ValueError(f"stem_padding must be 'symmetric' or 'same', found {stem_padding!r}")
    stated = {"epsilon": epsilon, "stem_padding": stem_padding}
    given: dict[str, Any] = {name: value for name, value in stated.items() if value is not None}
    if recorded is None:
        return replace(Contract(), **given)
    for name, value in given.items():
        if value != getattr(recorded, name):
            raise ValueError(f"the weights go with {name}={getattr(recorded, name)!r}, the call says {name}={value!r}")
    return recorded


def _layers(depth: int, blocks: int, count: int | Sequence[int], *, bottleneck: bool) -> tuple[int, ...]:
    """Dense layers of each block."""
    if isinstance(count, Sequence):
        if len(count) != blocks:
            raise ValueError(f"nb_layers_per_block has {len(count)} counts, nb_dense_block is {blocks}")
        return tuple(count)
    if count == -1:
        if (depth - 4) % 3:
            raise ValueError(f"depth must be 3 n + 4 unless nb_layers_per_block is given, found {depth}")
        count = (depth - 4) // 3 // (2 if bottleneck else 1)
    return (count,) * blocks


def _check_sides(images: ModelInput, *, known: bool) -> None:
    """The constructors' rules: sides of 8 or more, and known ones with the head."""
    if known and None in images.sides:
        raise ValueError(f"include_top=True needs a height and a width, found input_shape={images.shape}")
    if any(side is not None and side < SMALLEST for side in images.sides):
        raise ValueError(f"height and width must be at least {SMALLEST}, found {images}")


def _check_output(activation: str | None, classes: int) -> None:
    """Refuse an activation that the constructors do not know, and a sigmoid over several classes."""
    if activation not in (None, "softmax", "sigmoid"):
        raise ValueError(f"activation must be 'softmax', 'sigmoid' or None, found {activation!r}")
    if activation == "sigmoid" and classes != 1:
        raise ValueError(f"activation='sigmoid' means classes=1, found classes={classes}")
