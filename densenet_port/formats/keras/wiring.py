"""How the calls of a model's layers hang together: numbered from 0, in an order in which they can be made."""

import base64
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from densenet_port.formats.keras.calls import Node, Ref, Value, replaced

_SLICES = 2  # the fewest parts of a batch


def count_from_0(nodes: dict[str, list[Node]], outputs: list[Ref]) -> None:
    """Let references count a layer's calls from 0. Raises ValueError for calls that there are not."""
    refs = [*outputs, *(ref for calls in nodes.values() for node in calls for ref in node.refs)]
    highest: dict[str, int] = {}
    for ref in refs:
        highest[ref.layer] = max(ref.call, highest.get(ref.layer, 0))
    late = {name for name, call in highest.items() if name in nodes and call == len(nodes[name]) > 0}

    def counted(ref: Ref) -> Ref:
        return ref._replace(call=ref.call - 1) if ref.layer in late else ref

    every = _Every(counted)
    for name, calls in nodes.items():
        if any(ref.layer in late for node in calls for ref in node.refs):
            nodes[name] = [Node.of(replaced(node.arguments, every), replaced(node.keywords, every)) for node in calls]
    outputs[:] = map(counted, outputs)


class _Every(dict[Ref, Any]):
    """A mapping of every reference by a function."""

    def __init__(self, function: Callable[[Ref], Any]) -> None:
        """Keep the function."""
        super().__init__()
        self.function = function

    def __missing__(self, ref: Ref) -> Any:
        """What the function makes of a reference."""
        return self.function(ref)


def in_order(nodes: Mapping[str, list[Node]], known: Mapping[Ref, Value]) -> Iterator[tuple[str, int]]:
    """The calls, each behind what it reads. Raises ValueError for those that read each other, or what is not there."""
    done = {(ref.layer, ref.call) for ref in known}
    waiting: dict[tuple[str, int], list[tuple[str, int]]] = {}
    lacks: dict[tuple[str, int], int] = {}
    ready = deque[tuple[str, int]]()
    for name, calls in nodes.items():
        for number, node in enumerate(calls):
            missing = {(ref.layer, ref.call) for ref in node.refs} - done
            lacks[name, number] = len(missing)
            for read in missing:
                waiting.setdefault(read, []).append((name, number))
            if not missing:
                ready.append((name, number))
    count = 0
    while ready:
        call = ready.popleft()
        count += 1
        yield call
        for reader in waiting.pop(call, ()):
            lacks[reader] -= 1
            if not lacks[reader]:
                ready.append(reader)
    if count != len(lacks):
        raise ValueError(f"{next(name for (name, _), many in lacks.items() if many)} reads what nothing puts out")


def split_batches(named: Mapping[str, Mapping[str, Any]], nodes: dict[str, list[Node]]) -> set[str]:
    """The layers by which `multi_gpu_model` splits a batch and joins it again; the network is called once then."""
    for name, layer in named.items():
        joined = nodes[name][0].refs if layer["class_name"] == "Concatenate" and len(nodes[name]) == 1 else []
        if len(joined) < _SLICES or layer["config"].get("axis") != 0:
            continue
        network = joined[0].layer
        calls = nodes[network]
        slices = [node.refs[0].layer for node in calls if len(node.refs) == 1]
        if joined != [Ref(network, number, 0) for number in range(len(calls))] or len(slices) != len(calls):
            continue
        if all(_is_slice(named[part], number, len(calls)) for number, part in enumerate(slices)):
            sources = {ref for part in slices for ref in nodes[part][0].refs}
            if len(sources) == 1 and all(len(nodes[part]) == 1 for part in slices):
                nodes[network] = calls[:1]
                nodes[name] = [Node.of([joined[0]], {})]
                return {*slices, name}
    return set()


def _is_slice(layer: Mapping[str, Any], number: int, parts: int) -> bool:
    """Whether a layer is the Lambda of `multi_gpu_model` that takes one slice; its code is looked at, not run."""
    config = layer["config"]
    if layer["class_name"] != "Lambda" or config.get("arguments") != {"i": number, "parts": parts}:
        return False
    code = config.get("function")
    text = code[0] if isinstance(code, list) and code else ""
    return b"get_slice" in base64.b64decode(text)
