"""A user's own model, asked for its answers: a torch module, a Keras model, or any callable.

What computes here is the user's code and its framework, never this project's: each precision gets a copy of the model
in that precision, evaluating, on the CPU; the model itself stays as it is. Images are `n h w c`; a torch module is
given `n c h w`, a Keras model the order that its input has.
"""

import copy
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np

from densenet_port.checkpoint import Array, Checkpoint, live_array
from densenet_port.conversion.load import Network
from densenet_port.errors import MisfitError, UsageError
from densenet_port.extras import framework
from densenet_port.formats.live import live, name_of
from densenet_port.prove.job import Precision
from densenet_port.prove.runners import last, versions

Model = Any  # a torch.nn.Module, a keras.Model or a callable
Kind = Literal["torch", "keras", "callable"]
Answer = tuple[Array, dict[str, Array]]  # an output as the model gives it, and unit → activation `n h w c`
Ask = Callable[[Array], Answer]
OURS = "this is densenet-port's own network, whose answers are no evidence"
PACKAGE = Path(__file__).parents[1]


def kind_of(model: Model) -> Kind:
    """What a model is. Raises UsageError for what cannot be called, and for a network of this project's."""
    kind: Kind = "callable"
    torch, keras = sys.modules.get("torch"), sys.modules.get("keras")
    if torch is not None and isinstance(model, torch.nn.Module):
        kind = "torch"
    elif keras is not None and isinstance(model, keras.Model):
        kind = "keras"
    elif not callable(model):
        hint = "give a torch module, a Keras model, or a callable: images n h w c → logits n classes"
        raise UsageError(f"a {type(model).__name__} cannot be recorded", hint=hint)
    if is_ours(model, kind):
        raise UsageError(OURS, hint="record the model that the checkpoint came from")
    return kind


def is_ours(model: Model, kind: Kind) -> bool:
    """Whether a model is one that this project built, by its class or by its units' names."""
    if type(model).__module__.partition(".")[0] == __name__.partition(".")[0]:
        return True
    if kind == "torch":
        names = {name for name, _ in model.named_modules()}
        return type(model).__module__.startswith("torch.fx") and "block1.layer1.conv1" in names
    return kind == "keras" and "block1_layer1_conv1" in {layer.name for layer in model.layers}


def packages_of(kind: Kind) -> dict[str, str]:
    """The versions of what runs a model of a kind."""
    if kind == "keras":
        return versions("keras", framework("keras").backend.backend())
    return versions("torch") if kind == "torch" else versions()


def state_of(model: Model) -> Checkpoint:
    """A torch module's tensors as a checkpoint that is in no file."""
    held = live(model.state_dict())
    assert held is not None  # noqa: S101 (it is a mapping)
    return replace(held.checkpoint, path=Path(name_of(model)))


def fixed_side(model: Model, kind: Kind) -> int | None:
    """The one side of pictures that a Keras model takes; None where it takes any. Raises UsageError for no square."""
    if kind != "keras":
        return None
    sides = {side for side in _keras_input(model)[1:] if side is not None and side > MOST_CHANNELS}
    if len(sides) > 1:
        raise UsageError(f"{name_of(model)} takes pictures of {' by '.join(map(str, sides))}, and probes are square")
    return next(iter(sides), None)


MOST_CHANNELS = 16  # of a picture; a side of more is one of its sizes


def asker(model: Model, kind: Kind, network: Network, dtype: Precision, taps: bool) -> Ask:
    """A function that asks a copy of the model in a precision, with every unit's output where `taps`."""
    if kind == "torch":
        return _torch_asker(model, network, dtype, taps=taps)
    if kind == "keras":
        return _keras_asker(model, network, dtype)
    return lambda images: (_as_array(model(images.astype(dtype)), name_of(model)), {})


def logits_of(output: Array, model: Model, kind: Kind, network: Network) -> Array:
    """A model's output as logits `n classes`, or without a head as the last map `n h w c`. Raises MisfitError."""
    classes = network.architecture.classes
    if classes is None and output.ndim == 4:  # n h w c, or torch's n c h w
        return last(output) if kind == "torch" else output
    flat = output.reshape(len(output), -1) if output.ndim == 4 else output  # a convolution's 1×1 map
    if classes is None or flat.ndim != 2 or flat.shape[1] != classes:  # n classes
        expected = "the last map, of four axes" if classes is None else f"logits n {classes}"
        message = f"{name_of(model)} put out an array of shape {output.shape}, expected {expected}"
        raise MisfitError(message, hint="give a model that puts out the logits alone")
    return flat


# -- torch -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Names:
    """How a file's names become a module's: what is taken from their front, and what is put there."""

    old: str
    new: str

    def renamed(self, name: str) -> str:
        """A name of the file, as the module has it."""
        return self.new + name.removeprefix(self.old)


def _torch_asker(model: Model, network: Network, dtype: Precision, *, taps: bool) -> Ask:
    torch = framework("torch")
    try:
        module = copy.deepcopy(model).to("cpu", getattr(torch, dtype)).eval()
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"{name_of(model)} cannot be copied: {error}", hint="give a callable that asks it") from error
    tapped = dict(_tapped(module, network)) if taps else {}

    def ask(images: Array) -> Answer:
        outputs: dict[str, Array] = {}
        hooks = [part.register_forward_hook(_keeper(outputs, unit)) for unit, part in tapped.items()]
        given = torch.from_numpy(images.astype(dtype)).permute(0, 3, 1, 2).contiguous()
        with torch.inference_mode():
            output = module(given)
        for hook in hooks:
            hook.remove()
        return _as_array(output, name_of(model)), outputs

    return ask


def _keeper(outputs: dict[str, Array], unit: str) -> Callable[..., None]:
    """A forward hook that copies a module's output, because the ReLU after it may work in place."""
    return lambda _module, _inputs, output: outputs.update({unit: last(output.detach().numpy()).copy()})


def _tapped(module: Model, network: Network) -> Iterator[tuple[str, Any]]:
    """Unit → the module whose output is the unit's, of those that are torch's own: another may hold more than that."""
    modules, names = dict(module.named_modules()), _names(module, network)
    for claim in network.ledger.claims.values():
        part = modules.get(names.renamed(claim.name).rpartition(".")[0]) if names else None
        if part is not None and type(part).__module__.startswith("torch.nn.modules"):
            yield claim.key.unit, part


def _names(module: Model, network: Network) -> _Names | None:
    """How the file's names become the module's, by the first tensor; None where they do not."""
    own = {name for name, _ in module.named_parameters()}
    for claim in network.ledger.claims.values():
        parts = claim.name.split(".")
        fronts = ["", *(f"{front}." for front in accumulate(parts[:-1], "{}.{}".format))]
        for front in fronts:
            rest = claim.name.removeprefix(front)
            fitting = [name for name in own if name == rest or name.endswith(f".{rest}")]
            if len(fitting) == 1:
                return _Names(front, fitting[0].removesuffix(rest))
    return None


def require_weights(model: Model, kind: Kind, network: Network) -> None:
    """Raise MisfitError where a torch module's tensors are not those of the file that it is recorded for."""
    names = _names(model, network) if kind == "torch" else None
    state = model.state_dict() if names else {}
    for claim in network.ledger.claims.values():
        name = names.renamed(claim.name) if names else ""
        if name in state and not np.array_equal(live_array(state[name]), claim.tensor.load()):
            message = f"{name_of(model)} does not have the weights of {network.checkpoint.path}: {name} differs"
            raise MisfitError(message, hint="load them into the model first")


# -- Keras -------------------------------------------------------------------------------------------------------------


def _keras_input(model: Model) -> tuple[int | None, ...]:
    """The shape of a Keras model's one input: its batch, and three axes. Raises UsageError for another."""
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4:  # n h w c, or n c h w
        message = f"{name_of(model)} takes no single batch of pictures"
        raise UsageError(message, hint="give a callable: images n h w c → logits n classes")
    return shape


def _keras_asker(model: Model, network: Network, dtype: Precision) -> Ask:
    keras = framework("keras")
    shape, channels = _keras_input(model), network.architecture.channels
    first = shape[-1] != channels and shape[1] == channels
    with policy(dtype):
        clone = _cloned(model, dtype)

    def ask(images: Array) -> Answer:
        given = images.astype(dtype)
        with policy(dtype):
            output = clone(given.transpose(0, 3, 1, 2) if first else given, training=False)
        array = np.asarray(keras.ops.convert_to_numpy(output))
        exact = array.dtype != np.float64 or keras.backend.backend() == "tensorflow"
        return (array if exact else array.astype(np.float32)), {}  # on torch and JAX Keras computes float32 alone

    return ask


@contextmanager
def policy(dtype: Precision) -> Iterator[None]:
    """Keras's own settings of a precision, for as long as it lasts."""
    config = framework("keras").config
    before = config.floatx(), config.dtype_policy()
    config.set_floatx(dtype)
    config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        config.set_floatx(before[0])
        config.set_dtype_policy(before[1])


def _cloned(model: Model, dtype: Precision) -> Model:
    """A copy of a Keras model whose every layer computes in a precision. Raises UsageError where there is none."""

    def layer_in(layer: Any) -> Any:
        config = {**layer.get_config(), "dtype": dtype}
        return type(layer).from_config(config)

    try:
        clone = framework("keras").models.clone_model(model, clone_function=layer_in, recursive=True)
        clone.set_weights([np.asarray(array, np.float64) for array in model.get_weights()])
    except (TypeError, ValueError, NotImplementedError) as error:
        message = f"{name_of(model)} cannot be copied: {str(error).partition(chr(10))[0]}"
        raise UsageError(message, hint="give a callable: images n h w c → logits n classes") from error
    return clone


# -- what comes back ---------------------------------------------------------------------------------------------------


def _as_array(output: Any, name: str) -> Array:
    """A model's output as an array. Raises UsageError where it gives several things, or none."""
    value = output.detach().cpu() if hasattr(output, "detach") else output
    array = np.asarray(value) if not isinstance(value, Mapping | list | tuple) else None
    if array is None or array.dtype.kind != "f" or not array.ndim:
        hint = "wrap it in a callable that gives the logits alone"
        raise UsageError(f"{name} put out a {type(output).__name__}, expected one array of logits", hint=hint)
    return array


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn what the user's own code raises into a UsageError: its last line, and where."""
    try:
        yield
    except (UsageError, MisfitError):
        raise
    except (Exception, SystemExit) as error:
        says = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise UsageError("\n  ".join([f"{what}: {says}", *_place(error)])) from error


def _place(error: BaseException) -> Iterator[str]:
    """The last line of the user's own code that an exception passed, if it passed any."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if "site-packages" not in frame.filename
        and not frame.filename.startswith(("<", str(PACKAGE), str(Path(traceback.__file__).parent)))
    ]
    if own:
        yield f"{own[-1].filename}, line {own[-1].lineno}: {own[-1].line}"
