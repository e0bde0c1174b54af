"""Exported programs (`.pt2`, `torch.export.save`), read without torch: their state dict and their graph.

A zip of one folder. Since torch 2.8:

    models/model.json                             the program: its graph, and which of its inputs is which tensor
    data/weights/model_weights_config.json        name → member, type, shape and strides of each tensor
    data/weights/weight_0 …                       their elements, little-endian
    data/constants/…                              the same of tensors that its code has
    archive_format                                "pt2"

and before, `serialized_exported_program.json` with the state dict in a file of PyTorch's,
`serialized_state_dict.pt`, and constants in another, `serialized_constants.pt`. A node of the graph names an operation
(`torch.ops.aten.conv2d.default`), its arguments by name, each as what it is (`{"as_ints": [2, 2]}`), and what it puts
out. Nothing of it runs. Pickled tensors and custom objects are not read.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Any

from densenet_port.checkpoint import Checkpoint, Tensor
from densenet_port.errors import CorruptError, MisfitError, PortError
from densenet_port.file_graph import INPUT, FileGraph, Step
from densenet_port.formats import zip as zip_archive
from densenet_port.formats.bounds import parsed_json
from densenet_port.formats.source import AGAIN, Source, guarded, located, stored
from densenet_port.formats.torch import pth
from densenet_port.formats.torch.aten import (
    FEW,
    Held,
    Map,
    Tensors,
    aside,
    is_rounding,
    program_of,
    put_out,
    take,
)
from densenet_port.formats.torch.containers import Container, open_container
from densenet_port.formats.torch.tensors import make_storage, make_view
from densenet_port.formats.zip import Member

_PROGRAMS = ("models/model.json", "serialized_exported_program.json")
_KEPT = (  # folder, its list, and what stood for both before torch 2.8: of weights, and of constants
    ("data/weights/", "model_weights_config.json", "serialized_state_dict.pt"),
    ("data/constants/", "model_constants_config.json", "serialized_constants.pt"),
)
# Numbers of types in the program's schema (torch/_export/serde/schema.py).
_DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64", 12: "bool",
    13: "bfloat16",
}  # fmt: skip
_MAX_NODES = 100_000
_FLOATS = (6, 7, 8, 13)
_VIEWS = ("view", "reshape", "_unsafe_view")
_CASTS = ("to", "_to_copy")
_TRANSPOSED = ("t", "permute", "transpose", "numpy_T")


def sniff(path: Path, head: bytes) -> bool:
    """Whether a file that begins with `head` is an exported program."""
    if not zip_archive.first_name(head):
        return False
    try:
        with guarded(path, "zip"):
            return _program(zip_archive.members(Source.of_file(path))) is not None
    except PortError:
        return False


def read(path: Path) -> Checkpoint:
    """The state dict of an exported program, arrays lazy, and its graph. Raises as `pth.read` does."""
    with guarded(path, "exported program"), located(path):
        members = zip_archive.members(Source.of_file(path))
        name = _program(members)
        if name is None:
            raise CorruptError("no exported program: a zip without its graph", hint=AGAIN)
        root = next(name.removesuffix(end) for end in _PROGRAMS if name.endswith(end))
        inside = {key.removeprefix(root): member for key, member in members.items() if key.startswith(root)}
        program = parsed_json("its graph", members[name].open().all())
        weights, constants = _KEPT
        tensors = _tensors(path, inside, *weights)
        if tensors is None:
            hint = "in PyTorch, `torch.save(program.state_dict, …)`"
            raise MisfitError("an exported program without its weights", hint=hint)
        return Checkpoint(
            path=path,
            container="pt2",
            tensors=tensors,
            metadata={"form": "pt2", "torch_module": "", "own_code": True},
            graph=cache(partial(_graph, path, program, tensors, partial(_tensors, path, inside, *constants))),
        )


def _program(members: Mapping[str, Member]) -> str | None:
    """The member that has the graph."""
    names = [name for name in members if name.endswith(_PROGRAMS)]
    return names[0] if len(names) == 1 else None


def _tensors(
    path: Path, inside: Mapping[str, Member], folder: str, listed: str, before: str
) -> dict[str, Tensor] | None:
    """Name → tensor of a folder and its list, or of the file that stood for both; None without either."""
    if folder + listed in inside:
        config = parsed_json("its list of tensors", inside[folder + listed].open().all())["config"]
        return {
            name: _tensor(path, name, entry, inside.get(folder + entry["path_name"])) for name, entry in config.items()
        }
    if before not in inside:
        return None
    return dict(pth.tensors_of(path, open_container(Source.of_bytes(path, inside[before].open().all()))))


def _tensor(path: Path, name: str, entry: Mapping[str, Any], member: Member | None) -> Tensor:
    """One tensor, by its entry in the list. Raises MisfitError and CorruptError."""
    meta = entry["tensor_meta"]
    if entry["use_pickle"] or meta["dtype"] not in _DTYPES:
        raise MisfitError(f"{name}: a tensor that is no plain array", hint="in PyTorch, save the module's state_dict()")
    if member is None:
        raise CorruptError(f"{name}: its elements are missing", hint=AGAIN)
    source, dtype = member.open(), _DTYPES[meta["dtype"]]
    storage = make_storage(entry["path_name"], dtype, source.size // stored(dtype).itemsize, None)
    shape, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
    view = make_view(name, storage, None, (meta["storage_offset"]["as_int"], shape, strides))
    return pth.make_tensor(path, name, view, Container(form="pt2", tree=None, storages={storage.key: source}))


# -- the graph ---------------------------------------------------------------------------------------------------------


Constants = Callable[[], Mapping[str, Tensor] | None]


def _graph(path: Path, program: Mapping[str, Any], tensors: Tensors, constants: Constants) -> FileGraph:
    """The graph of a program. Raises CorruptError and MisfitError."""
    with guarded(path, "exported program"), located(path):
        module = program["graph_module"]
        graph, values = module["graph"], _Values(_inputs(module["signature"], constants))
        if len(graph["nodes"]) > _MAX_NODES:
            raise CorruptError(f"a graph of more than {_MAX_NODES} operations")
        steps: dict[str, Step] = {}
        for node in graph["nodes"]:
            _take(node, values, steps, tensors, graph["tensor_values"])
        outputs = [values[name] for name in _outputs(module["signature"]) if name in values]
        return program_of(steps, [value for value in outputs if isinstance(value, Map)])


class _Values(dict[str, Any]):
    """The graph's names → values; what has no value that is known is a tensor that no unit holds."""

    def __missing__(self, name: str) -> Held:
        """A constant, or what arithmetic on sizes gives."""
        return Held(f"{name}, which is no tensor of the state dict")


def _inputs(signature: Mapping[str, Any], constants: Constants) -> Iterator[tuple[str, Any]]:
    """The graph's names for tensors, for constants that are few numbers, and for the one picture that goes in."""
    known: Mapping[str, Tensor] | None = None
    for spec in signature["input_specs"]:
        ((kind, content),) = spec.items()
        is_kept = kind == "buffer" and content["persistent"] is False
        if kind == "tensor_constant" or is_kept:
            known = (constants() or {}) if known is None else known
            tensor = known.get(content[f"{kind}_name"])
            if tensor is not None and 0 < prod(tensor.shape) <= FEW:
                yield content["arg"]["name"], tensor.load()
        elif kind in ("parameter", "buffer"):
            yield content["arg"]["name"], Held(content[f"{kind}_name"])
        elif kind == "user_input" and "as_tensor" in content["arg"]:
            yield content["arg"]["as_tensor"]["name"], Map(INPUT)


def _outputs(signature: Mapping[str, Any]) -> Iterator[str]:
    """The graph's names for what comes out; not for the counters that it writes back."""
    for spec in signature["output_specs"]:
        ((kind, content),) = spec.items()
        if kind == "user_output" and "as_tensor" in content["arg"]:
            yield content["arg"]["as_tensor"]["name"]


def _take(
    node: Mapping[str, Any], values: _Values, steps: dict[str, Step], tensors: Tensors, shapes: Mapping[str, Any]
) -> None:
    """Take a node: a step, or another name for a tensor."""
    operation = node["target"].removeprefix("torch.ops.aten.").partition(".")[0]
    given = {entry["name"]: _value(entry["arg"], values) for entry in node["inputs"]}
    outputs = [*_outputs_of(node)]
    first = next(iter(given.values()), None)
    if operation in _TRANSPOSED and isinstance(first, Held) and outputs:
        values[outputs[0]] = first._replace(transposed=not first.transposed)
        return
    if operation in _CASTS and is_rounding(first, [given.get("dtype")], _FLOATS):
        operation, given = "alias", {"self": first}
    if outputs and (numbers := aside(operation, [*given.values()], tensors)) is not None:
        values[outputs[0]] = numbers
        return
    if operation.endswith("_") and isinstance(first, Held) and not first.name.endswith("num_batches_tracked"):
        raise MisfitError(f"its own graph changes {first.name} in place, by {operation}")
    taken = take(operation, [], given)
    if operation in _VIEWS and (axis := _flat_from(node, shapes)):
        taken = take("flatten", [given["self"], axis], {})
    if not any(isinstance(value, Map) for value in [*given.values(), *_listed(given)]):
        return  # arithmetic on sizes and counters
    if outputs:
        values[outputs[0]] = put_out(_place(node, outputs[0]), taken, tensors, steps)


def _place(node: Mapping[str, Any], name: str) -> str:
    """What a step is called: the module that the node was in, where that is told, and the node's own name."""
    stack = (node.get("metadata") or {}).get("nn_module_stack", "")  # `…;L__self__net.features,net.features,class`
    module = stack.rpartition(";")[2].split(",")[1:2]
    return f"{module[0]}:{name}" if any(module) else name


def _flat_from(node: Mapping[str, Any], shapes: Mapping[str, Any]) -> int | None:
    """The axis from which on a view flattens what it reads, by their shapes: 1, 2 (n c h w → n c hw), or None.

    As many numbers of as many pictures, and channels, are all of them.
    """
    reads, name = node["inputs"][0]["arg"], next(_outputs_of(node), "")
    before = _lengths(shapes.get(reads["as_tensor"]["name"] if "as_tensor" in reads else ""))
    after = _lengths(shapes.get(name))
    if before and before[:1] == after[:1] and len(after) == 2:  # n c
        return 1
    return 2 if (len(before), len(after)) == (4, 3) and before[:2] == after[:2] else None


def _lengths(shape: Mapping[str, Any] | None) -> list[Any]:
    """The lengths of a value's axes: numbers, or texts of expressions; nothing where the file does not say."""
    sizes = shape["sizes"] if shape else []
    return [size["as_int"] if "as_int" in size else size["as_expr"]["expr_str"] for size in sizes]


def _listed(given: Mapping[str, Any]) -> list[Any]:
    """What lists among arguments hold."""
    return [part for value in given.values() if isinstance(value, list) for part in value]


def _outputs_of(node: Mapping[str, Any]) -> Iterator[str]:
    """The names that a node gives to what it puts out."""
    for output in node["outputs"]:
        ((kind, content),) = output.items()
        if kind == "as_tensor":
            yield content["name"]
        elif kind == "as_tensors":
            yield from (tensor["name"] for tensor in content)


def _value(argument: Mapping[str, Any], values: _Values) -> Any:
    """An argument as a value."""
    ((kind, content),) = argument.items()
    match kind:
        case "as_none":
            return None
        case "as_tensor":
            return values[content["name"]]
        case "as_tensors":
            return [values[tensor["name"]] for tensor in content]
        case "as_optional_tensors":
            return [_value(tensor, values) for tensor in content]
        case _:
            return content
