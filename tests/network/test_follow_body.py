"""A body that is taken alone is followed to its last map, whatever the file's graph has behind it."""

import pytest

from densenet_port.errors import MisfitError
from densenet_port.file_graph import INPUT, FileGraph, Step
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.follow import follow
from densenet_port.network.graph import IMAGES, Operation, graph

BODY = Architecture.named("layers=2-2,growth_rate=4,init_channels=8,classes=none")


def step(operation: Operation) -> Step:
    """What a file has for an operation."""
    padding = operation.padding
    return Step(
        name=operation.name,
        kind=operation.kind,
        inputs=tuple(INPUT if name == IMAGES else name for name in operation.inputs),
        title=operation.name,
        holder=operation.name if operation.unit else "",
        kernel=(operation.kernel, operation.kernel),
        stride=(operation.stride, operation.stride),
        padding=padding if padding == "same" else (padding,) * 4,
        rounding=operation.rounding,
        epsilon=operation.epsilon,
    )


def hidden_head() -> FileGraph:
    """The body's own steps, and behind them two dense layers."""
    steps = [step(operation) for operation in graph(BODY, Contract()).operations.values()]
    steps += [
        Step(name="pool", kind="mean", inputs=(steps[-1].name,), title="a mean"),
        Step(name="first", kind="dense", inputs=("pool",), title="a dense layer", holder="first"),
        Step(name="second", kind="dense", inputs=("first",), title="another", holder="second"),
    ]
    return FileGraph(steps={one.name: one for one in steps}, outputs=("second",))


def test_what_stands_behind_a_body_is_left_out_by_the_user_s_word():
    """And only by that."""
    holders = {unit: unit for unit in BODY.units}

    facts = follow(hidden_head(), BODY, holders, no_top=True).facts

    assert (facts["epsilon"], facts["stem_pool"], "output" in facts) == (1e-5, "max", False)
    with pytest.raises(MisfitError, match="behind final.relu expected the end, found a dense layer"):
        follow(hidden_head(), BODY, holders)
