"""The head in a file's own graph: what stands between the last map and the dense layer that puts out the classes.

It is followed from that layer backwards, over the layers whose tensors the table gives to the head, to what takes
height and width of the map away.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import isqrt
from typing import NamedTuple, get_args

from densenet_port.file_graph import FileGraph, Step
from densenet_port.network.contract import Activation
from densenet_port.network.graph import Graph
from densenet_port.network.units import HEAD, Unit, is_head

IsHeld = Callable[[Step, str], bool]  # whether a step holds the tensors of a unit
_VECTORS = ("mean", "max", "flatten", "dense")  # what they put out has no height and width
_POINTWISE = ("relu", "norm", "scale", "activation", "identity", "concat")


class FileHead(NamedTuple):
    """A head as `network.head` writes it, and the window of the average pool in front of a flattened map."""

    text: str
    pool: int = 1


def without_idle_flattening(source: FileGraph) -> FileGraph:
    """The same graph, in which a flattening of what has no height and width passes it on."""
    flat: set[str] = set()
    steps: dict[str, Step] = {}
    for name, step in source.steps.items():
        is_behind = bool(step.inputs) and flat.issuperset(step.inputs)
        if step.kind in _VECTORS or (step.kind in _POINTWISE and is_behind):
            flat.add(name)
        steps[name] = replace(step, kind="identity") if step.kind == "flatten" and is_behind else step
    return replace(source, steps=steps)


def head_of_file(source: FileGraph, network: Graph, is_held: IsHeld, assumed: str) -> FileHead | None:
    """The head in a graph, whose units are those of a network; None where it is not one, or is not all there.

    `assumed` is the head that the tensors are taken for: where somebody's code gives what its first layer reads, it
    says what that is.
    """
    units = {unit.name: unit for unit in network.units.values() if is_head(unit.name)}
    step = next((step for step in source.steps.values() if is_held(step, HEAD)), None)
    words: list[str] = []
    seen: list[Unit] = []
    while step is not None and (word := _word(step, units, is_held, seen)) is not None:
        words[:0] = [word] if word else []
        step = source.steps.get(step.inputs[0]) if step.inputs else None
    if step is None or len(seen) != len(units):
        return None
    vector = FileHead(assumed.partition("/")[0]) if step.kind == "unknown" else _vector(source, network, step, seen[-1])
    return vector and vector._replace(text="/".join([vector.text, *words]))


def _word(step: Step, units: Mapping[str, Unit], is_held: IsHeld, seen: list[Unit]) -> str | None:
    """A step of a head in a word, "" for what passes on; None for what is none. Its unit is added to those seen."""
    if step.kind in ("dense", "norm"):
        unit = next((unit for name, unit in units.items() if is_held(step, name)), None)
        if unit is None or unit.kind != step.kind:
            return None
        seen.append(unit)
        return step.kind if unit.name == HEAD or step.kind == "norm" else f"dense:{unit.sizes['o']}"
    if step.kind == "activation":
        return step.function if step.function in get_args(Activation) else None
    return {"relu": "relu", "identity": ""}.get(step.kind)


def _vector(source: FileGraph, network: Graph, step: Step, first: Unit) -> FileHead | None:
    """What makes the vector that a head's first unit reads; None for anything else."""
    if step.kind in ("mean", "max"):
        return FileHead(step.kind)
    if step.kind == "average_pool":  # as large as the map, if it is that of a head
        return FileHead("mean")
    if step.kind == "concat":
        parts = [_passed_on(source, read) for read in step.inputs]
        pools = [part.kind if part else "" for part in parts]
        return FileHead("+".join(pools)) if sorted(pools) == ["max", "mean"] else None
    if step.kind != "flatten":
        return None
    before = _passed_on(source, step.inputs[0])
    last = [name for name in network.operations if not network.is_flat(name)][-1]
    if before and before.kind == "average_pool" and before.kernel == _sides(source, network, last):
        return FileHead("mean")
    side = isqrt(first.sizes["i" if first.kind == "dense" else "c"] // network.operations[last].channels)
    pool = before.kernel[0] if before and before.kind == "average_pool" else 1
    return FileHead(f"flatten:{side}", pool) if side else None


def _passed_on(source: FileGraph, name: str) -> Step | None:
    """The step that gives what is passed on under a name."""
    step = source.steps.get(name)
    while step and step.kind == "identity":
        step = source.steps.get(step.inputs[0])
    return step


def _sides(source: FileGraph, network: Graph, last: str) -> tuple[int, ...]:
    """Height and width of the last map, where the file fixes those of its pictures."""
    if source.size is None:
        return ()
    return tuple(network.sides(side)[last] for side in source.size)
