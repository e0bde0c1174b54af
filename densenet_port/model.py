"""DenseNet in Keras 3, on any of its backends: the constructors, and the networks that converted files describe.

Layers carry our units' names with underscores for dots (`block1_layer2_conv1`); layers without weights are named after
what they belong to (`block1_layer2_relu1`, `block1_layer2_concat`, `stem_pool`, `transition1_pool`, `final_relu`,
`head_pool`, `head_softmax`). A blur pool is `stem_pool`, a reflection, `stem_blur1` and `stem_blur2`: nothing in it is
a variable, and every layer is Keras's own. The network itself always runs channels last, whatever the user's global
setting: TensorFlow has no channels-first convolution on the CPU, and kernels are `h w i o` in either order. A
channels-first input goes through one Permute in front, so weights and logits are the same in both orders.

The constructors' arguments and checks are those of the DenseNet for Keras 2 that users know (`DenseNet`,
`DenseNetImageNet121` …), with these differences: every refusal is a ValueError (some were assertions); `weights` is
None by default, because no release is published yet, and never leaves a named set random; `activation=None` gives
logits; epsilon and the stem's padding follow the weights, else the original network (1e-5, symmetric); an ImageNet
network with its head and without `input_shape` takes 224×224.
"""

import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, cast

from densenet_port.arch import NAMED, ROLES, Architecture, Contract, Kind, Role, Slot, StemPadding
from densenet_port.checkpoint import Array
from densenet_port.errors import MisfitError, UsageError
from densenet_port.forward import smallest_side

if TYPE_CHECKING:
    from densenet_port.gather import Ours

Model = Any  # a keras.Model; Keras has no type stubs, and is imported only when called
KerasTensor = Any
Activation = Literal["softmax", "sigmoid"]
DataFormat = Literal["channels_last", "channels_first"]
Shape = tuple[int | None, ...]

VARIABLES: dict[Role, str] = {
    "kernel": "kernel",
    "bias": "bias",
    "scale": "gamma",
    "shift": "beta",
    "mean": "moving_mean",
    "variance": "moving_variance",
}
EXTRAS = {
    **dict.fromkeys(("keras", "tensorflow"), "keras"),
    **dict.fromkeys(("torch", "torchvision"), "torch"),
    **dict.fromkeys(("keras_hub", "kimm"), "owners"),
    **dict.fromkeys(("onnx", "onnxruntime"), "onnx"),
    "jax": "jax",
}
UNIT = re.compile(r"(?:stem|block\d+\.layer\d+|transition\d+|final|head)\.(conv|norm|dense)\d?")
MOMENTUM = 0.9  # the paper's networks were trained with it: torch's 0.1, counted from the other end
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
    downloaded when it is first called for: "imagenet" (our release's default), "torchvision", "keras-applications" or
    "titu1994". The file's epsilon and stem padding hold, and one given here must not contradict them. Raises ValueError
    for arguments that do not fit each other or the file, and for a set that has no such network; and the PortErrors of
    reading and fetching a file.
    """
    _check_output(activation, classes)
    if weights == "imagenet" and include_top and classes != 1000:  # noqa: PLR2004 (ImageNet's classes)
        raise ValueError(f"weights='imagenet' with its head means classes=1000, found classes={classes}")
    default = (32, 32, 3) if include_top else (None, None, 3)
    shape, order = _input(input_shape, input_tensor, data_format, default)
    _check_sides(shape, order, known=include_top)
    try:
        architecture = Architecture(
            layers=_layers(depth, nb_dense_block, nb_layers_per_block, bottleneck=bottleneck),
            growth_rate=growth_rate,
            init_channels=nb_filter if nb_filter > 0 else 2 * growth_rate,
            bottleneck=4 if bottleneck else 0,
            reduction=reduction,
            stem="imagenet" if subsample_initial_block else "cifar",
            channels=_channels(shape, order),
            classes=classes if include_top else None,
        )
    except UsageError as error:
        raise ValueError(str(error)) from error
    ours = None if weights is None else _fitting(weights, architecture)
    contract = _contract(ours.contract if ours else None, epsilon, stem_padding)
    model = build(
        architecture,
        contract,
        input_shape=shape,
        activation=activation,
        data_format=order,
        dropout_rate=dropout_rate,
        weight_decay=weight_decay,
        input_tensor=input_tensor,
        blank=ours is not None,
    )
    if ours:
        assign(model, {slot: ours.weights[slot]() for slot in architecture.slots})
    return model if include_top else _pooled(model, order)


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
        weights: str | PathLike[str] | None = None,
        input_tensor: KerasTensor | None = None,
        classes: int = 1000,
        activation: Activation | None = "softmax",
        *,
        stem_padding: StemPadding | None = None,
        epsilon: float | None = None,
        data_format: DataFormat | None = None,
    ) -> Model:
        if input_shape is None and input_tensor is None and include_top:
            input_shape, data_format = _input(None, None, data_format, (224, 224, 3))
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
        "    224×224×3 by default, any size without the head; otherwise as `DenseNet`.\n    "
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
) -> Model:
    """The network that a file describes, in its own architecture and contract, with the file's weights.

    Takes what `build` takes; `activation="contract"` puts out what the file's own network puts out. Without a head the
    output is the last map, after its ReLU. Raises the PortErrors of reading a file, and ValueError for an input that
    the network cannot take.
    """
    from densenet_port.gather import ours  # noqa: PLC0415 (reading needs what building does not)

    read = ours(Path(path))
    if activation == "contract":
        output = read.contract.output
        activation = None if output == "logits" else output
    model = build(
        read.architecture,
        read.contract,
        input_shape=input_shape,
        activation=activation,
        data_format=data_format,
        blank=True,
    )
    assign(model, {slot: load_array() for slot, load_array in read.weights.items()})
    return model


def build(
    architecture: Architecture,
    contract: Contract,
    *,
    input_shape: Shape | None = None,
    activation: Activation | None = None,
    data_format: DataFormat | None = None,
    dropout_rate: float = 0.0,
    weight_decay: float = 0.0,
    input_tensor: KerasTensor | None = None,
    blank: bool = False,
) -> Model:
    """The Keras model of an architecture and a contract, with random kernels.

    `input_shape` is `(h, w, c)` or `(c, h, w)`, by default any size: the end that holds the architecture's channels
    tells, else Keras's own setting, and `data_format` overrules both. The output is logits `n classes` for
    `activation=None`, else what the activation makes of them; without a head the last map after its ReLU, in the
    input's order. `blank` kernels are zeros, for weights that follow (random ones take JAX a quarter of a minute).
    Raises ValueError for an input that the network cannot take.
    """
    keras = _keras()
    default = (None, None, architecture.channels)
    shape, order = _input(input_shape, input_tensor, data_format, default, {architecture.channels})
    _check_input(architecture, contract, shape, order)
    inputs = keras.Input(shape=shape, name="images") if input_tensor is None else input_tensor
    pieces = _Pieces(keras.layers, architecture, contract, dropout_rate, weight_decay, blank)
    outputs = pieces.network(inputs, order, activation)
    sources = keras.utils.get_source_inputs(inputs)
    return keras.Model(sources[0] if len(sources) == 1 else sources, outputs, name="densenet")


def assign(model: Model, weights: Mapping[Slot, Array]) -> None:
    """Set every variable of our units, by layer name, to an array in our axes; the bits stay where the dtype does.

    Every slot of the model must be given, and nothing else; layers that are not ours (in front of an `input_tensor`,
    say) are left alone. Nothing is set unless everything fits: raises MisfitError otherwise.
    """
    variables = slots(model)
    lacking = [str(slot) for slot in variables if slot not in weights]
    surplus = [str(slot) for slot in weights if slot not in variables]
    if lacking or surplus:
        raise MisfitError(
            f"the weights do not fit the model: {len(lacking)} slots are not given, {len(surplus)} have no variable\n  "
            + "  ".join((lacking + surplus)[:8])
        )
    for slot, variable in variables.items():
        if tuple(variable.shape) != weights[slot].shape:
            raise MisfitError(f"{slot}: expected shape {tuple(variable.shape)}, found {weights[slot].shape}")
    for slot, variable in variables.items():
        variable.assign(weights[slot])


def slots(model: Model) -> dict[Slot, Any]:
    """Slot → Keras variable, for every layer of the model that bears a unit's name, in the model's order."""
    found: dict[Slot, Any] = {}
    for layer in model.layers:
        unit = layer.name.replace("_", ".")
        if match := UNIT.fullmatch(unit):
            roles = ROLES[cast("Kind", match[1])]
            found |= {Slot(unit, role): getattr(layer, VARIABLES[role]) for role in roles}
    return found


def layer_name(unit: str) -> str:
    """The Keras layer of a unit: `block1.layer2.conv1` is `block1_layer2_conv1`."""
    return unit.replace(".", "_")


def framework(name: str) -> ModuleType:
    """A framework, imported now. Raises UsageError that says what to install where it, or a part of it, is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        missing = (error.name or name).partition(".")[0]
        hint = f'pip install "densenet-port[{EXTRAS.get(missing, "all")}]"'
        raise UsageError(f"{name} cannot be imported: {error}", hint=hint) from error


@dataclass(frozen=True, slots=True)
class _Pieces:
    """The network in Keras layers, channels last; every method takes and gives symbolic maps `n h w c`."""

    layers: Any
    architecture: Architecture
    contract: Contract
    dropout_rate: float
    weight_decay: float
    blank: bool

    def network(self, x: KerasTensor, order: DataFormat, activation: Activation | None) -> KerasTensor:
        first = order == "channels_first"
        x = self.layers.Permute((2, 3, 1), name="channels_to_last")(x) if first else x
        x = self.stem(x)
        for b, count in enumerate(self.architecture.layers, start=1):
            for index in range(1, count + 1):
                x = self.layer(f"block{b}.layer{index}", x)
            x = self.transition(f"transition{b}", x) if b < len(self.architecture.layers) else x
        x = self.norm("final.norm", x)
        if self.architecture.classes is not None:
            return self.head(x, activation)
        return self.layers.Permute((3, 1, 2), name="channels_to_first")(x) if first else x

    def stem(self, x: KerasTensor) -> KerasTensor:
        decay, symmetric = self.weight_decay, self.contract.stem_padding == "symmetric"
        if self.architecture.stem == "cifar":
            return self.conv("stem.conv", x, decay=decay)
        first, *others = [unit for unit in self.architecture.units.values() if unit.name.startswith("stem.conv")]
        if symmetric:
            x = self.zeros(f"{first.name}.pad", x, first.sizes["h"] // 2)
        x = self.conv(first.name, x, decay=decay, strides=2, padding="valid" if symmetric else "same")
        x = self.norm(first.name.replace("conv", "norm"), x)
        for unit in others:
            x = self.norm(unit.name.replace("conv", "norm"), self.conv(unit.name, x, decay=decay))
        return self.blur_pool(x) if self.contract.stem_pool == "blur" else self.max_pool(x, symmetric=symmetric)

    def max_pool(self, x: KerasTensor, *, symmetric: bool) -> KerasTensor:
        """The stem's; zeros are as good as −∞ around it: a ReLU stands before the pool."""
        x = self.zeros("stem.pool.pad", x, 1) if symmetric else x
        return self.pool("MaxPooling2D", "stem.pool", x, 3, 2, "valid" if symmetric else "same")

    def blur_pool(self, x: KerasTensor) -> KerasTensor:
        """The stem's; two averages of two are the binomial filter, and no layer of Keras reflects."""
        x = self.pool("MaxPooling2D", "stem.pool", self.zeros("stem.pool.pad", x, 1), 3, 1, "valid")
        x = _keras().ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        x = self.pool("AveragePooling2D", "stem.blur1", x, 2, 1, "valid")
        return self.pool("AveragePooling2D", "stem.blur2", x, 2, 2, "valid")

    def zeros(self, name: str, x: KerasTensor, width: int) -> KerasTensor:
        """Zeros on every side."""
        return self.layers.ZeroPadding2D(width, data_format="channels_last", name=layer_name(name))(x)

    def pool(self, kind: str, name: str, x: KerasTensor, size: int, strides: int, padding: str) -> KerasTensor:
        """A pool over squares."""
        layer, last = getattr(self.layers, kind), "channels_last"
        return layer(size, strides=strides, padding=padding, data_format=last, name=layer_name(name))(x)

    def layer(self, name: str, x: KerasTensor) -> KerasTensor:
        new = self.norm(f"{name}.norm1", x)
        if self.architecture.bottleneck:
            new = self.norm(f"{name}.norm2", self.conv(f"{name}.conv1", new, decay=self.weight_decay))
        new = self.conv(f"{name}.conv{2 if self.architecture.bottleneck else 1}", new)
        if self.dropout_rate:
            new = self.layers.Dropout(self.dropout_rate, name=layer_name(f"{name}.dropout"))(new)
        return self.layers.Concatenate(axis=-1, name=layer_name(f"{name}.concat"))([x, new])

    def transition(self, name: str, x: KerasTensor) -> KerasTensor:
        """A transition; Keras's "same" pool rounds up, and averages what there is of a window."""
        x = self.conv(f"{name}.conv", self.norm(f"{name}.norm", x), decay=self.weight_decay)
        padding = "same" if self.contract.pool_rounding == "ceil" else "valid"
        return self.pool("AveragePooling2D", f"{name}.pool", x, 2, 2, padding)

    def head(self, x: KerasTensor, activation: Activation | None) -> KerasTensor:
        x = self.layers.GlobalAveragePooling2D(data_format="channels_last", name="head_pool")(x)
        initial = "zeros" if self.blank else "glorot_uniform"
        x = self.layers.Dense(self.architecture.classes, kernel_initializer=initial, name="head_dense")(x)
        return self.layers.Activation(activation, name=f"head_{activation}")(x) if activation else x

    def norm(self, unit: str, x: KerasTensor) -> KerasTensor:
        """A norm and the ReLU after it."""
        name, epsilon = layer_name(unit), self.contract.epsilon
        x = self.layers.BatchNormalization(axis=-1, momentum=MOMENTUM, epsilon=epsilon, name=name)(x)
        return self.layers.Activation("relu", name=name.replace("norm", "relu"))(x)

    def conv(
        self, unit: str, x: KerasTensor, *, decay: float = 0.0, strides: int = 1, padding: str = "same"
    ) -> KerasTensor:
        sizes = self.architecture.units[unit].sizes
        return self.layers.Conv2D(
            sizes["o"],
            (sizes["h"], sizes["w"]),
            strides=strides,
            padding=padding,
            data_format="channels_last",
            use_bias=False,
            kernel_initializer="zeros" if self.blank else "he_normal",
            kernel_regularizer=_keras().regularizers.L2(decay) if decay else None,
            name=layer_name(unit),
        )(x)


def _pooled(model: Model, order: DataFormat) -> Model:
    """A model without a head, its last map averaged over all places."""
    keras = _keras()
    pool = keras.layers.GlobalAveragePooling2D(data_format=order, name="head_pool")
    return keras.Model(model.input, pool(model.output), name=model.name)


def _fitting(weights: str | PathLike[str], architecture: Architecture) -> "Ours":
    """What a file or a registered set holds, if the architecture can take it; a head beyond that does no harm."""
    from densenet_port.gather import ours  # noqa: PLC0415 (reading needs what building does not)

    read = ours(_located(weights, architecture))
    found = read.architecture
    if architecture.classes is not None and found.classes != architecture.classes:
        has = "has no head" if found.classes is None else f"has {found.classes} classes"
        raise ValueError(f"{weights} {has}, the model asked for has classes={architecture.classes}")
    if found.without_head().slots != architecture.without_head().slots:
        asked = f"{architecture.name} with {architecture.channels} input channels"
        raise ValueError(
            f"{weights} holds a {found.name} with {found.channels} input channels, not the {asked} asked for"
        )
    return read


def _located(weights: str | PathLike[str], architecture: Architecture) -> Path:
    """The file that `weights` means: its path, or the cached file of a registered name."""
    path = Path(weights)
    if isinstance(weights, PathLike) or path.is_file():
        return path
    from densenet_port.fetch import registered  # noqa: PLC0415 (only a name needs the cache)

    try:
        return registered(str(weights), architecture, progress=_bar())
    except UsageError as error:
        raise ValueError(f"weights={weights!r} is neither a file nor a registered set of weights\n{error}") from error


def _bar() -> Callable[[int, int], None]:
    """Keras's own bar, which begins with the first bytes of a download; on a terminal and in a notebook only."""
    begun: list[Any] = []

    def progress(done: int, total: int) -> None:
        if not (sys.stdout.isatty() or "ipykernel" in sys.modules):
            return
        if not begun:
            begun.append(_keras().utils.Progbar(total or None, unit_name="byte"))
        begun[0].update(done)

    return progress


def _contract(found: Contract | None, epsilon: float | None, stem_padding: StemPadding | None) -> Contract:
    """The weights' contract, else the original network's; what the caller states must agree with the former."""
    if stem_padding not in (None, "symmetric", "same"):
        raise ValueError(f"stem_padding must be 'symmetric' or 'same', found {stem_padding!r}")
    stated = {"epsilon": epsilon, "stem_padding": stem_padding}
    given: dict[str, Any] = {name: value for name, value in stated.items() if value is not None}
    if found is None:
        return replace(Contract(), **given)
    for name, value in given.items():
        if value != getattr(found, name):
            raise ValueError(f"the weights go with {name}={getattr(found, name)!r}, the call says {name}={value!r}")
    return found


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


def _input(
    shape: Shape | None,
    tensor: KerasTensor | None,
    asked: DataFormat | None,
    default: Shape,
    counts: Collection[int] = (1, 3),
) -> tuple[Shape, DataFormat]:
    """The shape of one input and the order of its axes.

    The order is the one asked for, else the channels stand at the one end that holds a likely count, else where Keras
    is set to have them. `default` is channels last.
    """
    if asked not in (None, "channels_last", "channels_first"):
        raise ValueError(f"data_format must be 'channels_last' or 'channels_first', found {asked!r}")
    if tensor is not None:
        if not _keras().backend.is_keras_tensor(tensor):
            raise ValueError(f"input_tensor must be a Keras tensor, found {type(tensor).__name__}")
        shape = tensor.shape[1:]
    if shape is None:
        order = asked or _setting()
        return default if order == "channels_last" else (default[-1], *default[:-1]), order
    shape = tuple(shape)
    if len(shape) != 3:  # noqa: PLR2004 (h w c)
        raise ValueError(f"input_shape must be (h, w, c) or (c, h, w), found {shape}")
    first, last = (shape[end] in counts for end in (0, -1))
    found: DataFormat = "channels_first" if first else "channels_last"
    return shape, asked or (_setting() if first == last else found)


def _setting() -> DataFormat:
    """Keras's own setting."""
    setting: DataFormat = _keras().config.image_data_format()
    return setting


def _channels(shape: Shape, order: DataFormat) -> int:
    """The count of input channels, which must be known."""
    count = shape[-1] if order == "channels_last" else shape[0]
    if count is None:
        raise ValueError(f"the number of channels must be known, found input_shape={shape} ({order})")
    return count


def _sides(shape: Shape, order: DataFormat) -> Shape:
    """Height and width."""
    return shape[:-1] if order == "channels_last" else shape[1:]


def _check_sides(shape: Shape, order: DataFormat, *, known: bool) -> None:
    """The constructors' rules: sides of 8 or more, and known ones with the head."""
    sides = _sides(shape, order)
    if known and None in sides:
        raise ValueError(f"include_top=True needs a height and a width, found input_shape={shape}")
    if any(side is not None and side < SMALLEST for side in sides):
        raise ValueError(f"height and width must be at least {SMALLEST}, found input_shape={shape} ({order})")


def _check_input(architecture: Architecture, contract: Contract, shape: Shape, order: DataFormat) -> None:
    """Refuse what the network cannot take."""
    least = smallest_side(architecture, contract)
    if _channels(shape, order) != architecture.channels:
        raise ValueError(f"the network takes {architecture.channels} channels, found input_shape={shape} ({order})")
    if any(side is not None and side < least for side in _sides(shape, order)):
        raise ValueError(f"DenseNet {architecture.name} needs {least} by {least}, found input_shape={shape} ({order})")


def _check_output(activation: str | None, classes: int) -> None:
    """Refuse an activation that the constructors do not know, and a sigmoid over several classes."""
    if activation not in (None, "softmax", "sigmoid"):
        raise ValueError(f"activation must be 'softmax', 'sigmoid' or None, found {activation!r}")
    if activation == "sigmoid" and classes != 1:
        raise ValueError(f"activation='sigmoid' means classes=1, found classes={classes}")


def _keras() -> ModuleType:
    """Keras, imported when it is first needed."""
    return framework("keras")
