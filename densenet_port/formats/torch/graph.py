"""The graph of whole modules, from the classes and attributes that their pickle has; nothing of it runs.

`classes` knows the forward of torch's classes and of those that build DenseNets. A class of the user's own has a
forward that is not in the file: what its parts do is read, part by part, and what joins them is a step of the kind
`unknown`. Steps are called by the paths of their modules, as the tensors are
(`features.denseblock1.denselayer1.conv1`), and what is no module by what it does (`features:relu`).

A hook (`_forward_pre_hooks`, `_forward_hooks`) is code that is not in the file either. An object that has a forward of
its own, in place of its class's, is refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.errors import CorruptError, MisfitError
from densenet_port.file_graph import INPUT, FileGraph, Pair, Step
from densenet_port.formats.torch.classes import FORWARDS, JOINS, LAYERS, LEAVES, LIBRARIES, METHODS, Leaf
from densenet_port.formats.torch.modules import attributes_of, branches, held, kind_of

Load = Callable[[str, Any], Array | None]  # name and leaf → a tensor's elements
Shape = Callable[[str, Any], tuple[int, ...] | None]  # name and leaf → a tensor's shape
_STATE_DICT = "in PyTorch, save `model.state_dict()` where the network is a plain DenseNet all the same"
_BINOMIAL = np.outer((1, 2, 1), (1, 2, 1)) / 16
_FLAT = {"start_dim": 1, "end_dim": -1}
_JOINED = {"output_size": (1, (1, 1), [1, 1]), "dim_reduce": ((2, 3), [2, 3]), "dim_cat": (1,)}
_ORDER = "c h w"  # in which torch flattens a map


class Module(NamedTuple):
    """A module: its path, the dotted name of its class, and its attributes."""

    name: str
    kind: str
    attributes: Mapping[str, Any]

    @property
    def parts(self) -> dict[str, Any]:
        """Its own modules, in order, without those that are None."""
        return {key: part for key, part in held(self.attributes["_modules"]) if part is not None}

    @property
    def title(self) -> str:
        """What a message calls it."""
        return f"{self.name} ({self.kind.rpartition('.')[2]})" if self.name else self.kind.rpartition(".")[2]

    def tensor(self, key: str) -> Any:
        """A parameter or buffer as the pickle has it; None without one."""
        kept = (*held(self.attributes["_parameters"]), *held(self.attributes["_buffers"]))
        return next((leaf for own, leaf in kept if own == key), None)

    def path(self, key: str) -> str:
        """The path of a part."""
        return f"{self.name}.{key}" if self.name else key

    def number(self, key: str) -> float:
        """An attribute that is a number. Raises MisfitError."""
        value = self.attributes.get(key)
        if not isinstance(value, int | float):
            raise self.odd(key)
        return value

    def pair(self, key: str) -> Pair:
        """An attribute along height and width. Raises MisfitError."""
        match self.attributes.get(key):
            case bool():
                raise self.odd(key)
            case int(number) | [int(number)] | (int(number),):
                return number, number
            case [int(height), int(width)] | (int(height), int(width)):
                return height, width
            case _:
                raise self.odd(key)

    def odd(self, key: str) -> MisfitError:
        """What is said of an attribute that torch itself would not take."""
        return MisfitError(f"module {self.name!r} ({self.kind}): its {key} is none that torch takes")


def read_graph(modules: Mapping[str, Any], shape: Shape, load: Load) -> FileGraph:
    """The graph of modules by their names in the file. Raises MisfitError for a forward that was replaced."""
    reader = Reader(shape, load)
    outputs = tuple(reader.module(name, module, INPUT) for name, module in modules.items())
    return FileGraph(
        steps=reader.steps,
        outputs=tuple(dict.fromkeys(outputs)),
        unknown=" and ".join(reader.unknown),
        notes=tuple(reader.notes),
    )


class Reader:
    """Makes steps, module by module; each method gives the name of the step that puts out what a module does."""

    def __init__(self, shape: Shape, load: Load) -> None:
        """Begin without steps."""
        self.shape, self.load = shape, load
        self.steps: dict[str, Step] = {}
        self.unknown: dict[str, None] = {}
        self.notes: dict[str, None] = {}

    def add(self, name: str, kind: str, value: str, title: str = "", **attributes: Any) -> str:
        """A step that reads another."""
        if name in self.steps:
            raise CorruptError(f"two modules are called {name!r}")
        inputs = (value,) if value else ()
        self.steps[name] = Step(name=name, kind=kind, inputs=inputs, title=title or name, **attributes)
        return name

    def module(self, name: str, pickled: Any, value: str) -> str:
        """What a module makes of a value, hooks included."""
        attributes = attributes_of(pickled)
        if attributes is None:
            raise MisfitError(f"module {name!r} keeps its parts in a way of its own", hint=_STATE_DICT)
        module = Module(name, kind_of(pickled), attributes)
        value = self.hooked(module, "_forward_pre_hooks", value)
        return self.hooked(module, "_forward_hooks", self.forward(module, value))

    def hooked(self, module: Module, key: str, value: str) -> str:
        """What hooks make of a value."""
        if not list(branches(module.attributes.get(key)) or ()):
            return value
        title = f"a hook of {module.title}"
        self.unknown[title] = None
        return self.add(f"{module.name}:{key}", "unknown", value, title)

    def forward(self, module: Module, value: str) -> str:
        """What a module's own forward makes of a value."""
        chain, is_leaf = self.chain(module), module.kind in LEAVES
        if module.kind in JOINS:
            return self.side_by_side(module, value)
        if (chain or is_leaf) and (replaced := sorted(METHODS & set(module.attributes))):
            shown = f"module {module.name!r} ({module.kind}): its {replaced[0]}"
            raise MisfitError(f"{shown} was replaced by code that is not in the file", hint=_STATE_DICT)
        if is_leaf:
            return _LEAVES[LEAVES[module.kind]](self, module, value) if not module.parts else self.other(module, value)
        if chain is None:
            is_library = module.kind.partition(".")[0] in LIBRARIES
            is_other = module.kind in LAYERS or (is_library and not module.parts)
            return self.other(module, value) if is_other else self.opaque(module, value)
        entry = value
        for part in chain:
            value = self.joined(module, entry, value) if part == ":cat" else self.part(module, part, value)
        return value

    def side_by_side(self, module: Module, value: str) -> str:
        """What several parts make of one value, joined along the channels."""
        names, attributes = JOINS[module.kind], module.attributes
        is_changed = any(attributes.get(key, values[0]) not in values for key, values in _JOINED.items())
        if (
            is_changed
            or not METHODS.isdisjoint(attributes)
            or {name.removeprefix(":") for name in names}
            != {*module.parts, *(name[1:] for name in names if name.startswith(":"))}
        ):
            return self.other(module, value)
        outputs = tuple(self.part(module, name, value) for name in names)
        joined = self.add(f"{module.name}:cat", "concat", value, f"cat in {module.title}")
        self.steps[joined] = replace(self.steps[joined], inputs=outputs)
        return joined

    def chain(self, module: Module) -> list[str] | None:
        """The parts that a known forward runs, in order; None for a forward that is not known."""
        own = list(module.parts)
        if module.kind in LAYERS:
            plain = tuple(key.replace(".", "") for key in own)
            return [*own, ":cat"] if plain in LAYERS[module.kind] else None
        parts: list[str] = []
        for part in FORWARDS.get(module.kind, ("",)):
            name = part.removesuffix("?")
            if name == "*":
                parts += own
            elif name in own or part.startswith(":"):
                parts.append(name)
            elif not part.endswith("?"):
                return None
        return parts

    def part(self, module: Module, part: str, value: str) -> str:
        """What a part of a known forward makes of a value."""
        if not part.startswith(":"):
            return self.module(module.path(part), module.parts[part], value)
        name, title = module.name + part, f"{part[1:]} in {module.title}"
        match part:
            case ":norm":
                return _norm(self, module, value)
            case ":flatten-if-set":
                is_set = module.attributes.get("flatten") is True
                return self.add(name, "flatten", value, title, function=_ORDER) if is_set else value
            case ":sigmoid-if-set":
                return self.weighed(module, value)
            case ":resized":
                if "input_resolution" in module.attributes:
                    self.notes["its own forward first resizes pictures of another size: that is left out"] = None
                return value
        return self.add(name, part[1:], value, title, function=_ORDER if part == ":flatten" else "")

    def weighed(self, module: Module, value: str) -> str:
        """The sigmoid that torchxrayvision puts behind the head where it is told to, or has a threshold a label."""
        has_thresholds = module.tensor("op_threshs") is not None or module.attributes.get("op_threshs") is not None
        if has_thresholds:
            self.notes["its own forward scales the sigmoid of each label by op_threshs: that is left out"] = None
        if not (has_thresholds or module.attributes.get("apply_sigmoid")):
            return value
        return self.add(f"{module.name}:sigmoid", "activation", value, f"sigmoid in {module.title}", function="sigmoid")

    def joined(self, module: Module, entry: str, value: str) -> str:
        """The channels that went in, and those that came out."""
        name = f"{module.name}:cat"
        self.add(name, "concat", entry, f"cat in {module.title}")
        self.steps[name] = replace(self.steps[name], inputs=(entry, value))
        return name

    def opaque(self, module: Module, value: str) -> str:
        """A module of somebody's own class: its parts, each by itself."""
        if not self.unknown or module.kind.partition(".")[0] not in LIBRARIES:  # a list of torch's own has no code
            self.unknown[module.kind] = None
        inside = self.add(f"{module.name}:inside", "unknown", "", module.title)
        for key, part in module.parts.items():
            self.module(module.path(key), part, inside)
        return self.add(f"{module.name}:forward", "unknown", value, module.title)

    def other(self, module: Module, value: str) -> str:
        """A module that is no operation of a DenseNet, under its own class's name."""
        return self.add(module.name or "module", module.kind, value, module.title)


# -- modules with settings: what each makes of a value -----------------------------------------------------------------


def _plain(kind: str, **attributes: Any) -> Callable[[Reader, Module, str], str]:
    """A step without settings."""
    return lambda reader, module, value: reader.add(module.name, kind, value, module.title, **attributes)


def _conv(reader: Reader, module: Module, value: str) -> str:
    """A convolution: its kernel is as large as its weight, whatever the attribute says."""
    shape = reader.shape(module.path("weight"), module.tensor("weight"))
    if shape is None or len(shape) != 4 or module.attributes.get("padding_mode", "zeros") != "zeros":  # o i h w
        return reader.other(module, value)
    dilation, padding = module.pair("dilation"), module.attributes.get("padding")
    if isinstance(padding, str):
        rooms = [step * (side - 1) if padding == "same" else 0 for step, side in zip(dilation, shape[2:], strict=True)]
        around = (rooms[0] // 2, rooms[1] // 2, rooms[0] - rooms[0] // 2, rooms[1] - rooms[1] // 2)
    else:
        around = module.pair("padding") * 2
    return reader.add(
        module.name,
        "conv",
        value,
        module.title,
        holder=module.name,
        kernel=(shape[2], shape[3]),
        stride=module.pair("stride"),
        dilation=dilation,
        groups=int(module.number("groups")),
        padding=around,
    )


def _norm(reader: Reader, module: Module, value: str) -> str:
    """A batch normalisation by the statistics that it holds; without them it takes those of the pictures."""
    if module.tensor("running_mean") is None or module.tensor("running_var") is None:
        return reader.other(module, value)
    return reader.add(module.name, "norm", value, module.title, holder=module.name, epsilon=float(module.number("eps")))


def _dense(reader: Reader, module: Module, value: str) -> str:
    return reader.add(module.name, "dense", value, module.title, holder=module.name)


def _max_pool(reader: Reader, module: Module, value: str) -> str:
    if module.attributes.get("return_indices"):
        return reader.other(module, value)
    return _pool(reader, module, value, "max_pool", dilation=module.pair("dilation"))


def _average_pool(reader: Reader, module: Module, value: str) -> str:
    if module.attributes.get("divisor_override") is not None:
        return reader.other(module, value)
    return _pool(reader, module, value, "average_pool")


def _pool(reader: Reader, module: Module, value: str, kind: str, **attributes: Any) -> str:
    """A pool; without a stride its windows stand side by side."""
    kernel = module.pair("kernel_size")
    return reader.add(
        module.name,
        kind,
        value,
        module.title,
        kernel=kernel,
        stride=kernel if module.attributes.get("stride") in (None, ()) else module.pair("stride"),
        padding=module.pair("padding") * 2,
        rounding="ceil" if module.attributes.get("ceil_mode") else "floor",
        **attributes,
    )


def _adaptive(kind: str) -> Callable[[Reader, Module, str], str]:
    """The mean or the maximum over the picture, where one place is asked for."""

    def read(reader: Reader, module: Module, value: str) -> str:
        is_one = module.attributes.get("output_size") in (1, (1, 1), [1, 1])
        if not is_one or module.attributes.get("return_indices"):
            return reader.other(module, value)
        return reader.add(module.name, kind, value, module.title)

    return read


def _fast(kind: str) -> Callable[[Reader, Module, str], str]:
    """Timm's mean or maximum, over axes that it keeps."""

    def read(reader: Reader, module: Module, value: str) -> str:
        is_over_picture = module.attributes.get("dim", (2, 3)) in ((2, 3), [2, 3])
        return reader.add(module.name, kind, value, module.title) if is_over_picture else reader.other(module, value)

    return read


def _flatten(reader: Reader, module: Module, value: str) -> str:
    if {key: module.attributes.get(key) for key in _FLAT} != _FLAT:
        return reader.other(module, value)
    return reader.add(module.name, "flatten", value, module.title, function=_ORDER)


def _view(reader: Reader, module: Module, value: str) -> str:
    """The flattening of fastai, unless pictures are flattened as well."""
    if module.attributes.get("full"):
        return reader.other(module, value)
    return reader.add(module.name, "flatten", value, module.title, function=_ORDER)


def _softmax(function: str) -> Callable[[Reader, Module, str], str]:
    """A softmax, which is over the classes of `n classes` by any of these names of the axis."""

    def read(reader: Reader, module: Module, value: str) -> str:
        if module.attributes.get("dim") not in (None, 1, -1):
            return reader.other(module, value)
        return reader.add(module.name, "activation", value, module.title, function=function)

    return read


def _zeros(reader: Reader, module: Module, value: str) -> str:
    """Zeros around; a negative number of them would cut places off."""
    left, right, above, below = _sides(module)
    if min(left, right, above, below) < 0:
        return reader.other(module, value)
    return reader.add(module.name, "zeros", value, module.title, padding=(above, left, below, right))


def _mirror(reader: Reader, module: Module, value: str) -> str:
    is_one = _sides(module) == (1, 1, 1, 1)
    return reader.add(module.name, "pad", value, module.title) if is_one else reader.other(module, value)


def _sides(module: Module) -> tuple[int, int, int, int]:
    """Places to the left, right, above and below. Raises MisfitError."""
    match module.attributes.get("padding"):
        case int(number):
            return (number,) * 4
        case [int(), int(), int(), int()] | (int(), int(), int(), int()) as sides:
            left, right, above, below = sides
            return left, right, above, below
    raise module.odd("padding")


def _blur(reader: Reader, module: Module, value: str) -> str:
    """Timm's blur: a border that mirrors one place, and a binomial filter, which is kept as a buffer."""
    blur = reader.load(module.path("filt"), module.tensor("filt"))
    is_binomial = blur is not None and blur.shape[2:] == _BINOMIAL.shape and bool((blur == _BINOMIAL).all())
    is_mirrored = module.attributes.get("pad_mode", "reflect") == "reflect"
    if not is_binomial or not is_mirrored or module.attributes.get("padding") != [1, 1, 1, 1]:
        return reader.other(module, value)
    value = reader.add(f"{module.name}:pad", "pad", value, f"border of {module.title}")
    return reader.add(module.name, "blur", value, module.title, stride=module.pair("stride"))


def _normalize(reader: Reader, module: Module, value: str) -> str:
    """Torchvision's normalisation, of whatever goes in."""
    mean, std = ([*map(float, numbers)] for numbers in (_list(module, "mean"), _list(module, "std")))
    if 0 in std or len(mean) != len(std):
        raise module.odd("std")
    factors = tuple(1 / number for number in std)
    offsets = tuple(-one / other for one, other in zip(mean, std, strict=True))
    return reader.add(module.name, "affine", value, module.title, factors=factors, offsets=offsets)


def _list(module: Module, key: str) -> list[float]:
    """An attribute that is a list of numbers. Raises MisfitError."""
    value = module.attributes.get(key)
    if not isinstance(value, list | tuple) or not value or not all(isinstance(one, int | float) for one in value):
        raise module.odd(key)
    return list(value)


_LEAVES: dict[Leaf, Callable[[Reader, Module, str], str]] = {
    "conv": _conv,
    "norm": _norm,
    "dense": _dense,
    "relu": _plain("relu"),
    "identity": _plain("identity"),
    "sigmoid": _plain("activation", function="sigmoid"),
    "tanh": _plain("activation", function="tanh"),
    "softmax": _softmax("softmax"),
    "log_softmax": _softmax("log_softmax"),
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "adaptive_mean": _adaptive("mean"),
    "adaptive_max": _adaptive("max"),
    "fast_mean": _fast("mean"),
    "fast_max": _fast("max"),
    "flatten": _flatten,
    "view": _view,
    "zeros": _zeros,
    "mirror": _mirror,
    "blur": _blur,
    "normalize": _normalize,
}
