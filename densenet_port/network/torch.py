"""The graph as a torch module, and our weights in it.

`build` makes a `torch.fx.GraphModule`: plain code that calls one submodule an operation, named after it, so that
`state_dict()` has `block1.layer2.conv1.weight` and a forward hook can look at `transition1.pool`. It is saved, copied,
trained, compiled and exported like any module of torch's own. Maps are `n c h w`; a map is dropped when the last
operation that reads it has run, so that a dense block takes the memory of its last two concatenations.
"""

from collections.abc import Callable, Mapping
from typing import Any

from densenet_port.checkpoint import Array
from densenet_port.extras import framework
from densenet_port.network.contract import Activation
from densenet_port.network.graph import IMAGES, Graph, Operation, OperationKind
from densenet_port.network.units import ROLES, Kind, Role, Slot, check_fit

Module = Any  # a torch.nn.Module; torch is imported only when called

TENSORS: dict[Role, str] = {
    "kernel": "weight",
    "bias": "bias",
    "scale": "weight",
    "shift": "bias",
    "mean": "running_mean",
    "variance": "running_var",
}

_AXES: dict[Kind, tuple[int, ...]] = {"conv": (2, 3, 1, 0), "dense": (1, 0), "norm": (0,)}  # ours, in a torch kernel


def build(network: Graph) -> Module:
    """The module of a network, in float32 with torch's random weights, for images `n c h w`.

    It puts out what the last operation does: `n classes`, or without a head the last map `n c h w`. Like every module
    of torch it starts in training mode, where norms take the statistics of the images: `eval()` it to have its own.
    """
    torch, fx = framework("torch"), framework("torch.fx")
    root, code = torch.nn.Module(), fx.Graph()
    tracer = fx.proxy.GraphAppendingTracer(code)
    outputs = {IMAGES: fx.Proxy(code.placeholder(IMAGES), tracer)}
    for name, step in network.operations.items():
        inputs = [outputs[read] for read in step.inputs]
        if step.kind == "concat":
            outputs[name] = torch.cat(inputs, dim=1)
        elif step.kind in _FLAT:
            outputs[name] = _FLAT[step.kind](torch, *inputs)
        else:
            is_flat = step.kind == "norm" and network.is_flat(name)
            _add(root, name, (_flat_norm if is_flat else _MODULES[step.kind])(torch.nn, step))
            x = _surrounded(inputs[0], step) if step.padding == "same" else inputs[0]
            outputs[name] = fx.Proxy(code.call_module(name, (x.node,)), tracer)
    code.output(outputs[network.output].node)
    return fx.GraphModule(root, code, class_name="DenseNet")


def _add(root: Module, name: str, module: Module) -> None:
    """Put a module in its place: `block1.layer2.conv1` is `conv1` of `layer2` of `block1`."""
    *parents, last = name.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, framework("torch").nn.Module())
        root = getattr(root, parent)
    root.add_module(last, module)


def _surrounded(x: Any, step: Operation) -> Any:
    """A map `n c h w` with as many zeros around as "same" asks for at its size, the smaller half in front."""
    torch = framework("torch")
    around = []
    for axis in (3, 2):  # torch pads the last axis first
        needed = torch.sym_max(-x.size(axis) % step.stride + step.kernel - step.stride, 0)
        around += [needed // 2, needed - needed // 2]
    return torch.nn.functional.pad(x, around)


_FLAT: dict[OperationKind, Callable[[Any, Any], Any]] = {  # what takes height and width of a map `n c h w` away
    "mean": lambda torch, x: torch.mean(x, dim=(2, 3)),
    "max": lambda torch, x: torch.amax(x, dim=(2, 3)),
    "flatten": lambda torch, x: torch.flatten(torch.permute(x, (0, 2, 3, 1)), 1),  # each place with all its channels
}


def _flat_norm(nn: Any, step: Any) -> Module:
    """A norm of numbers without places."""
    return nn.BatchNorm1d(step.channels, eps=step.epsilon)


def _places(step: Operation) -> int:
    """How many places a module itself pads on every side: zeros, or for a max pool −∞, the same behind a ReLU."""
    return 0 if step.padding == "same" else step.padding


_ACTIVATIONS: dict[Activation, Callable[[Any], Module]] = {
    "softmax": lambda nn: nn.Softmax(dim=1),
    "sigmoid": lambda nn: nn.Sigmoid(),
    "relu": lambda nn: nn.ReLU(),
    "tanh": lambda nn: nn.Tanh(),
    "log_softmax": lambda nn: nn.LogSoftmax(dim=1),
}
_MODULES: dict[OperationKind, Callable[[Any, Any], Module]] = {
    "conv": lambda nn, step: nn.Conv2d(
        step.unit.sizes["i"], step.channels, step.kernel, step.stride, _places(step), bias=False
    ),
    "norm": lambda nn, step: nn.BatchNorm2d(step.channels, eps=step.epsilon),
    "relu": lambda nn, _: nn.ReLU(),
    "max_pool": lambda nn, step: nn.MaxPool2d(step.kernel, step.stride, _places(step)),
    "average_pool": lambda nn, step: nn.AvgPool2d(step.kernel, step.stride, ceil_mode=step.rounding == "ceil"),
    "pad": lambda nn, _: nn.ReflectionPad2d(1),
    "blur": lambda nn, step: nn.Sequential(nn.AvgPool2d(2, 1), nn.AvgPool2d(2, step.stride)),
    "dense": lambda nn, step: nn.Linear(step.unit.sizes["i"], step.channels),
    "activation": lambda nn, step: _ACTIVATIONS[step.function](nn),
}


def assign(module: Module, weights: Mapping[Slot, Array]) -> None:
    """Set every tensor of our units to an array in our axes; the bits stay where the dtype does.

    Every slot of the module must be given, and nothing else. Nothing is set unless everything fits: raises MisfitError
    otherwise.
    """
    torch, tensors = framework("torch"), slots(module)
    check_fit({slot: tuple(tensor.shape) for slot, tensor in tensors.items()}, weights)
    for slot, tensor in tensors.items():
        tensor.copy_(torch.tensor(weights[slot]))


def slots(module: Module) -> dict[Slot, Any]:
    """Slot → the module's own tensor, seen in our axes, in order of execution; what is written to it is in the module.

    The counters of norms (`num_batches_tracked`) are no slots.
    """
    nn = framework("torch").nn
    kinds: dict[Any, Kind] = {nn.Conv2d: "conv", nn.BatchNorm2d: "norm", nn.BatchNorm1d: "norm", nn.Linear: "dense"}
    units = [(name, part, kinds[type(part)]) for name, part in module.named_modules() if type(part) in kinds]
    tensors = {}
    for unit, part, kind in units:
        for role in ROLES[kind]:
            tensor = getattr(part, TENSORS[role]).detach()
            tensors[Slot(unit, role)] = tensor.permute(_AXES[kind]) if role == "kernel" else tensor
    return tensors
