"""DenseNet in Keras 3, on any of its backends."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, cast

from densenet_port.checkpoint import Array
from densenet_port.errors import MisfitError
from densenet_port.extras import framework
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.graph import graph
from densenet_port.network.units import ROLES, Kind, Role, Slot

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


UNIT = re.compile(r"(?:stem|block\d+\.layer\d+|transition\d+|final|head)\.(conv|norm|dense)\d?")


MOMENTUM = 0.9  # the paper's networks were trained with it: torch's 0.1, counted from the other end


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


def _check_input(architecture: Architecture, contract: Contract, shape: Shape, order: DataFormat) -> None:
    """Refuse what the network cannot take."""
    least = graph(architecture, contract).smallest_side
    if _channels(shape, order) != architecture.channels:
        raise ValueError(f"the network takes {architecture.channels} channels, found input_shape={shape} ({order})")
    if any(side is not None and side < least for side in _sides(shape, order)):
        raise ValueError(f"DenseNet {architecture.name} needs {least} by {least}, found input_shape={shape} ({order})")


def _keras() -> ModuleType:
    """Keras, imported when it is first needed."""
    return framework("keras")
