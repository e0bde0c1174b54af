"""What the tensors of a TensorFlow checkpoint are called.

**By objects** (`tf.train.Checkpoint`, Keras 2's `save_weights`, SavedModels): keys are places in a program, such as
`model/layer_with_weights-0/kernel/.ATTRIBUTES/VARIABLE_VALUE`, and the text `_CHECKPOINTABLE_OBJECT_GRAPH` says more:

    graph       1 nodes; the first is the root
    node        1 children (1 node, 2 what it is called there), 2 tensors, 3 slots (3 the slot's node)
    tensor      2 the variable's own name, 3 its key

A Keras variable's own name is `<layer>/<variable>`, and it is taken for the name of the tensor, unless another one that
is not the same is called so; any other tensor is called as its key says, without what stands behind `/.ATTRIBUTES`. Two
of one name and the same content are one variable that was saved twice. What serves a training alone is called
`optimizer/…`: what is reached through an optimiser only (a node with a child `iter` or `_iterations`) or through
`keras_api` (which has the metrics), an optimiser's slots, and the states of random generators. The order is that of the
objects, from the root down, each with all that is in it before the next.

**By names** (`tf.compat.v1.train.Saver`): keys are the names of variables. A tensor below another one's name is a slot
of an optimiser for it (`conv1/kernel/Momentum`), called `optimizer/…`. The order is that of names, numbers by value.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from densenet_port.formats.protobuf import Field, Message
from densenet_port.formats.source import Source

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
OPTIMIZER = "optimizer/"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_SLOT = "/.OPTIMIZER_SLOT/"
_COUNTERS = {"iter", "_iterations"}  # what an optimiser alone has
_KERAS = "keras_api"
_RANDOM = "seed_generator_state"


class Node(NamedTuple):
    """A tracked object: its children by what they are called, its tensors (key → own name), and the nodes of slots."""

    children: Mapping[str, int]
    tensors: Mapping[str, str]
    slots: tuple[int, ...]


class Name(NamedTuple):
    """What a tensor is called, and the name that its variable has of itself, "" where that says nothing."""

    name: str
    own: str = ""


def by_objects(path: Path, graph: bytes, contents: Mapping[str, object]) -> dict[str, Name]:
    """Key → name of the tensors of an object graph, in its order; those that it does not have come last.

    `contents` gives for each key what is equal for tensors that are the same.
    """
    nodes = [_node(field) for field in Message.of(Source.of_bytes(path, graph)) if field.number == 1]
    own = {key: name for node in nodes for key, name in node.tensors.items() if key in contents}
    of_model = [key for place in _of_model(nodes) for key in nodes[place].tensors if _is_weight(key, own.get(key, ""))]
    alike: dict[str, set[object]] = {}
    for key in filter(own.__contains__, of_model):
        alike.setdefault(own[key], set()).add(contents[key])
    names: dict[str, Name] = {}
    taken = set[str]()
    for key in filter(own.__contains__, of_model):
        is_own = "/" in own[key] and len(alike[own[key]]) == 1
        name = own[key] if is_own and own[key] not in taken else _bare(key)
        names[key] = Name(name, own[key] if is_own else "")
        taken.add(name)
    for key in sorted(contents.keys() - names.keys(), key=by_number):
        names[key] = Name(OPTIMIZER + _bare(key).removeprefix(OPTIMIZER) if key in own else _bare(key))
    return names if len({name.name for name in names.values()}) == len(names) else {key: Name(key) for key in names}


def _is_weight(key: str, own: str) -> bool:
    """Whether a model's variable is a part of what it computes."""
    return _SLOT not in key and not own.endswith(_RANDOM)


def by_names(keys: Iterable[str]) -> dict[str, Name]:
    """Key → name of the tensors of a checkpoint without objects."""
    there = set(keys)
    return {
        key: Name(OPTIMIZER + key if key.rpartition("/")[0] in there else key) for key in sorted(there, key=by_number)
    }


def by_number(name: str) -> list[tuple[str, int]]:
    """Sort `conv_2` before `conv_10`."""
    parts = re.split(r"(\d{1,9})", name)
    return [(text, int(number or -1)) for text, number in zip(parts[::2], [*parts[1::2], ""], strict=True)]


def _bare(key: str) -> str:
    """A key without what says how a variable is kept."""
    return key.removesuffix(_VALUE) if key.endswith(_VALUE) else key


# -- nodes -------------------------------------------------------------------------------------------------------------


def _node(field: Field) -> Node:
    """A node of the graph."""
    fields = field.message().by_number()
    children, tensors, slots = ([part.message().by_number() for part in fields.get(number, [])] for number in (1, 2, 3))
    return Node(
        {_text(child, 2): _number(child, 1) for child in children},
        {_text(tensor, 3): _text(tensor, 2) for tensor in tensors},
        tuple(_number(slot, 3) for slot in slots),
    )


def _text(fields: Mapping[int, list[Field]], number: int) -> str:
    """A text; "" where it is not given."""
    return fields[number][-1].text() if number in fields else ""


def _number(fields: Mapping[int, list[Field]], number: int) -> int:
    """A number; 0 where it is not given."""
    return fields[number][-1].integer if number in fields else 0


def _of_model(nodes: list[Node]) -> list[int]:
    """The nodes that are reached from the root, but not through an optimiser, and are no slot of one, in order."""
    left_out = {slot for node in nodes for slot in node.slots}
    left_out |= {place for place, node in enumerate(nodes) if not _COUNTERS.isdisjoint(node.children)}
    pending, reached = [0], dict[int, None]()
    while pending:
        place = pending.pop()
        if 0 <= place < len(nodes) and place not in reached and place not in left_out:
            reached[place] = None
            children = nodes[place].children
            pending += [child for name, child in reversed([*children.items()]) if name != _KERAS]
    return list(reached)
