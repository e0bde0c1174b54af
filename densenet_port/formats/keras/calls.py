"""The calls of a Keras model's layers, as the configurations of each Keras write them.

A layer lists its calls under `inbound_nodes`. What it reads is what a call of another layer put out:

    [["conv", 0, 0]]                              Keras 1: layer, number of its call, number of what that put out
    [["conv", 0, 0, {"training": false}]]         Keras 2, with keywords; they may hold references of three parts
    ["conv", 0, 0, {"y": 255.0}]                  tf.keras, an operation; `_CONSTANT_VALUE` stands for no layer
    {"args": […], "kwargs": {…}}                  Keras 3; a reference is a `__keras_tensor__` with a `keras_history`

A model within a model is called from 1 on where its own making counts as its first call, else from 0 on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_HISTORY = 3  # parts of a reference


class Ref(NamedTuple):
    """What a call of a layer put out."""

    layer: str
    call: int
    output: int


class Node(NamedTuple):
    """One call of a layer: its arguments, in which references stand as `Ref`, and those references in order.

    `is_told` says that a model tells the layer whether it trains, whatever the call says, as Keras 3 has it.
    """

    arguments: list[Any]
    keywords: dict[str, Any]
    refs: list[Ref]
    is_told: bool = False

    @classmethod
    def of(cls, arguments: list[Any], keywords: dict[str, Any], *, is_told: bool = False) -> "Node":
        """A call of arguments."""
        return cls(arguments, keywords, [*_refs([arguments, keywords])], is_told)


class Value(NamedTuple):
    """What a step puts out: how many axes it has (None: not known), and whether two of them are height and width.

    `channels` are those of the pictures, as long as nothing but preparation has been done to them.
    """

    step: str
    rank: int | None
    is_map: bool
    channels: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of a layer that is no model: its class, the name of its step and its tensors', settings and arguments.

    In the arguments, what it reads stands as `Value`; `inputs` are these, in order. `first` says that channels stand in
    front, `theano` that Theano pads, `training` that the call is made as in training. `constants` are the layer's
    tensors where they are numbers of the graph.
    """

    kind: str
    name: str
    holder: str
    config: Mapping[str, Any]
    arguments: list[Any]
    inputs: list[Value]
    keywords: Mapping[str, Any] = field(default_factory=dict)
    first: bool = False
    theano: bool = False
    training: bool = False
    constants: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What a message calls it."""
        return f"{self.kind} {self.name}"


def nodes_of(layer: Mapping[str, Any], names: Mapping[str, Any]) -> list[Node]:
    """The calls of a layer of a functional model whose layers are called `names`."""
    return [_node(node, names) for node in layer.get("inbound_nodes", [])]


def refs_of(ends: Any) -> list[Ref]:
    """What `input_layers` or `output_layers` name: one, a list, or a mapping."""
    if isinstance(ends, dict):
        return [ref for end in ends.values() for ref in refs_of(end)]
    if _is_ref(ends):
        return [Ref(*ends[:_HISTORY])]
    return [ref for end in ends for ref in refs_of(end)]


def replaced(content: Any, values: Mapping[Ref, Value]) -> Any:
    """Arguments with values in place of references."""
    if isinstance(content, Ref):
        return values[content]
    if isinstance(content, list):
        return [replaced(part, values) for part in content]
    if isinstance(content, dict):
        return {key: replaced(part, values) for key, part in content.items()}
    return content


def _node(node: Any, names: Mapping[str, Any]) -> Node:
    """A call in the words of any Keras."""
    if isinstance(node, dict) and "args" in node:
        return Node.of(_plain(node["args"]), _plain(node.get("kwargs", {})), is_told=True)
    entries = [node] if _is_ref(node) else node
    keywords = {key: _older(value, names) for entry in entries[:1] for key, value in [*_keywords(entry).items()]}
    parts = [entry[2] if entry[0] == "_CONSTANT_VALUE" else Ref(*entry[:_HISTORY]) for entry in entries]
    return Node.of(parts if len(parts) == 1 else [parts], keywords)


def _keywords(entry: list[Any]) -> dict[str, Any]:
    """The keywords behind a reference, which Keras 1 has not."""
    return entry[_HISTORY] if len(entry) > _HISTORY else {}


def _plain(content: Any) -> Any:
    """An argument of Keras 3 with references, constants and slices as such."""
    if isinstance(content, list):
        return [_plain(part) for part in content]
    if not isinstance(content, dict):
        return content
    match content.get("class_name"), content.get("config"):
        case "__keras_tensor__", {"keras_history": [*history]}:
            return Ref(*history)
        case "__tensor__" | "__numpy__", {"value": value}:
            return value
    return _sliced(content) or {key: _plain(part) for key, part in content.items()}


def _older(content: Any, names: Mapping[str, Any]) -> Any:
    """A keyword of tf.keras, with references and slices as such."""
    if _is_ref(content) and content[0] in names:
        return Ref(*content[:_HISTORY])
    if isinstance(content, list):
        return [_older(part, names) for part in content]
    return (_sliced(content) if isinstance(content, dict) else None) or content


def _sliced(content: Mapping[str, Any]) -> Any:
    """`…` or a slice, as an index has them; None for anything else."""
    if content.get("class_name") == "__ellipsis__":
        return ...
    parts = content.get("config") if content.get("class_name") == "__slice__" else content
    if isinstance(parts, dict) and parts.keys() == {"start", "stop", "step"}:
        return slice(parts["start"], parts["stop"], parts["step"])
    return None


def _is_ref(content: Any) -> bool:
    """Whether something is a layer's name and two numbers, perhaps with keywords."""
    return (
        isinstance(content, list)
        and len(content) >= _HISTORY
        and isinstance(content[0], str)
        and isinstance(content[1], int)
    )


def _refs(content: Any) -> Iterator[Ref]:
    """The references among arguments."""
    if isinstance(content, Ref):
        yield content
    elif isinstance(content, list | dict):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _refs(part)
