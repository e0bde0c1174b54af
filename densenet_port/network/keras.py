"""The graph as a Keras 3 model, on any of Keras's backends, and our weights in it.

Layers carry our units' names with underscores for dots (`block1_layer2_conv1`); layers without weights are named after
what they belong to (`block1_layer2_relu1`, `block1_layer2_concat`, `stem_pool`, `transition1_pool`, `final_relu`,
`head_pool`, `head_softmax`; in other heads also `head_flatten`, `head_norm1`, `head_relu1`, `final_max`, `final_mean`
and `final_concat`). A blur pool is `stem_pool`, a reflection, `stem_blur1` and `stem_blur2`: nothing in it is a
variable, and every layer is Keras's own. The network itself always runs channels last, whatever the user's global
setting: TensorFlow has no channels-first convolution on the CPU, and kernels are `h w i o` in either order. A
channels-first input goes through one Permute in front, so weights and logits are the same in both orders. Where the
model prepares its pictures, `images_rescaling` and `images_normalization` stand behind that, and where the network
reads blue first, `keras.ops.flip` in front of them.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from densenet_port.checkpoint import Array
from densenet_port.errors import UsageError
from densenet_port.extras import BACKENDS, framework
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Activation, Contract, Input
from densenet_port.network.graph import IMAGES, Graph, graph
from densenet_port.network.keras_input import DataFormat, KerasTensor, ModelInput, Shape, model_input
from densenet_port.network.keras_layers import PAD, LayerSpec, lower
from densenet_port.network.units import ROLES, Kind, Role, Slot, check_fit

Model = Any  # a keras.Model; Keras has no type stubs, and is imported only when called

VARIABLES: dict[Role, str] = {
    "kernel": "kernel",
    "bias": "bias",
    "scale": "gamma",
    "shift": "beta",
    "mean": "moving_mean",
    "variance": "moving_variance",
}
UNIT = re.compile(r"(?:stem|block\d+\.layer\d+|transition\d+|final|head)\.(conv|norm|dense)\d*")
_SMALLEST = 1e-7  # Keras's own epsilon, below which Normalization divides by that
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
    include_preprocessing: bool = False,
) -> Model:
    """The Keras model of an architecture and a contract, with random kernels.

    `input_shape` is `(h, w, c)` or `(c, h, w)`, by default any size, or the one that a head fixes which reads every
    place of its map: the end that holds the architecture's channels tells, else Keras's own setting, and `data_format`
    overrules both. The output is logits `n classes` for
    `activation=None`, else what the activation makes of them; without a head the last map after its ReLU, in the
    input's order. `blank` kernels are zeros, for weights that follow (random ones take JAX a quarter of a minute).
    With `include_preprocessing` the model takes pixels from 0 to 255, red first, and prepares them by the contract.
    Raises ValueError for an input that the network cannot take.
    """
    keras = framework("keras")
    network = graph(architecture, replace(contract, output=activation or "logits"))
    default = (network.fixed_side, network.fixed_side, architecture.channels)
    expected = model_input(input_shape, input_tensor, data_format, default, {architecture.channels})
    check_input(network, expected, architecture.name)
    images = keras.Input(shape=expected.shape, name="images") if input_tensor is None else input_tensor
    first = expected.order == "channels_first"
    x = keras.layers.Permute((2, 3, 1), name="channels_to_last")(images) if first else images
    x = _prepared(x, contract.input, architecture.channels) if include_preprocessing else x
    x = _connect(network, x, dropout_rate, weight_decay, blank=blank)
    if first and not network.is_flat(network.output):
        x = keras.layers.Permute((3, 1, 2), name="channels_to_first")(x)
    sources = keras.utils.get_source_inputs(images)
    return keras.Model(sources[0] if len(sources) == 1 else sources, x, name="densenet")


def require_backend(backend: str | None) -> str:
    """The floating type that Keras makes its variables in, if it runs on a backend; on any for None.

    Raises UsageError where it runs on another.
    """
    keras = framework("keras")
    running = keras.backend.backend()
    if backend not in (None, running):
        if backend not in BACKENDS:
            raise UsageError(f"Keras has no backend {backend!r}", hint=f"known: {', '.join(BACKENDS)}")
        hint = f"set KERAS_BACKEND={backend} before Keras is first imported, in a process of its own"
        raise UsageError(f"Keras runs on {running} in this process, not on {backend}", hint=hint)
    floatx = str(keras.config.floatx())
    return "float32" if floatx == "bfloat16" else floatx


def check_input(network: Graph, expected: ModelInput, name: str) -> None:
    """Refuse what the network, which is called so, cannot take: raises ValueError."""
    least, fixed = network.smallest_side, network.fixed_side
    if expected.channels != network.channels:
        raise ValueError(f"the network takes {network.channels} channels, found {expected}")
    if any(side is not None and side < least for side in expected.sides):
        raise ValueError(f"DenseNet {name} needs {least} by {least}, found {expected}")
    if fixed and not all(side is not None and network.takes(side) for side in expected.sides):
        fitting = f"the head of DenseNet {name} reads every place of its map: {fixed} by {fixed} fit"
        raise ValueError(f"{fitting}, found {expected}")


def _prepared(pixels: KerasTensor, picture: Input, channels: int) -> KerasTensor:
    """What a contract makes of symbolic pixels `n h w c`: (pixel / scale − mean) / std, in the network's order.

    Raises ValueError for deviations that Keras's Normalization cannot divide by.
    """
    keras = framework("keras")
    mean, std = picture.numbers(channels)
    if min(std) < _SMALLEST:
        raise ValueError(f"Keras's Normalization divides by deviations of at least {_SMALLEST:g}, found {min(std):g}")
    x = keras.ops.flip(pixels, axis=-1) if picture.order == "bgr" and channels > 1 else pixels
    if picture.scale != 1:
        x = keras.layers.Rescaling(1 / picture.scale, name="images_rescaling")(x)
    variance = tuple(deviation**2 for deviation in std)
    return keras.layers.Normalization(mean=mean, variance=variance, name="images_normalization")(x)


def _connect(
    network: Graph, images: KerasTensor, dropout_rate: float, weight_decay: float, *, blank: bool
) -> KerasTensor:
    """What the network's layers, called one after the other, put out for symbolic images `n h w c`."""
    keras = framework("keras")
    outputs = {IMAGES: images}
    for spec in lower(network):
        inputs = [outputs[name] for name in spec.inputs]
        if spec.kind == "Concatenate" and dropout_rate and not spec.flat:
            name = layer_name(spec.name).replace("concat", "dropout")
            inputs[-1] = keras.layers.Dropout(dropout_rate, name=name)(inputs[-1])
        if spec.kind == PAD:
            outputs[spec.name] = keras.ops.pad(*inputs, **spec.settings)
            continue
        settings = spec.settings | _training(network, spec, weight_decay, blank=blank)
        layer = getattr(keras.layers, spec.kind)(**settings, name=layer_name(spec.name))
        outputs[spec.name] = layer(inputs if len(inputs) > 1 else inputs[0])
    return outputs[spec.name]


def _training(network: Graph, spec: LayerSpec, weight_decay: float, *, blank: bool) -> dict[str, Any]:
    """What a layer has for its training, beyond what the graph computes.

    Weight decay holds for the stem's, the transitions' and the bottlenecks' kernels.
    """
    match spec.kind:
        case "Conv2D":
            new = any(step.inputs[-1] == spec.name for step in network.readers[spec.name] if step.kind == "concat")
            decay = framework("keras").regularizers.L2(weight_decay) if weight_decay and not new else None
            return {"kernel_initializer": "zeros" if blank else "he_normal", "kernel_regularizer": decay}
        case "BatchNormalization":
            return {"momentum": MOMENTUM}
        case "Dense":
            return {"kernel_initializer": "zeros" if blank else "glorot_uniform"}
    return {}


def assign(model: Model, weights: Mapping[Slot, Array]) -> None:
    """Set every variable of our units, by layer name, to an array in our axes; the bits stay where the dtype does.

    Every slot of the model must be given, and nothing else; layers that are not ours (in front of an `input_tensor`,
    say) are left alone. Nothing is set unless everything fits: raises MisfitError otherwise.
    """
    variables = slots(model)
    check_fit({slot: tuple(variable.shape) for slot, variable in variables.items()}, weights)
    for slot, variable in variables.items():
        variable.assign(weights[slot])


def slots(model: Model) -> dict[Slot, Any]:
    """Slot → Keras variable, for every layer of the model that bears a unit's name, in the model's order."""
    variables: dict[Slot, Any] = {}
    for layer in model.layers:
        unit = layer.name.replace("_", ".")
        if match := UNIT.fullmatch(unit):
            roles = ROLES[cast("Kind", match[1])]
            variables |= {Slot(unit, role): getattr(layer, VARIABLES[role]) for role in roles}
    return variables


def layer_name(name: str) -> str:
    """What Keras calls the layer of an operation: `block1.layer2.conv1` is `block1_layer2_conv1`."""
    return "head_pool" if name == "final.pool" else name.replace(".", "_")
