"""What an ONNX graph does to its picture in front of the network, as the contract's input.

    Sub, Div, Mul, Add      by one number, or by one for each channel
    channels turned round   a Slice of step −1, a Gather, or one taken out after the other and joined
    Cast, Transpose         no steps (see `steps`)

Together they are `x = factor · pixel + offset` for each channel, which is written as `(pixel / scale − mean) / std`.

A graph's numbers are float32, and are read as what is meant: the shortest decimal of a number, or, of a factor, the
inverse of a shorter one: 0.485, 1/255. `scale` is 255 where mean and std are shorter so: 0.485 and 0.229 of 255 rather
than 123.675 and 58.395.
"""

from typing import NamedTuple

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.formats.decimals import meant
from densenet_port.formats.onnx.chain import Chain, spread
from densenet_port.formats.onnx.model import Constant
from densenet_port.formats.onnx.steps import Channel, Step
from densenet_port.network.contract import Input, Order, input_of, unit_note

_ARITHMETIC = ("Sub", "Div", "Mul", "Add")
_COLOURS = 3


class Preparation(NamedTuple):
    """How a graph prepares its picture: the contract's input, None where it does nothing, and what to say of it.

    `turned` says that the graph takes the channels in the opposite order of the network's. `nodes` are the names of the
    values that are made on the way.
    """

    input: Input | None
    turned: bool
    nodes: tuple[str, ...]
    notes: tuple[str, ...]


def take(chain: Chain, count: int) -> Preparation:
    """What stands in front of the network, whose picture has so many channels; `chain.x` is then what it reads."""
    factor, offset, turned, nodes = np.ones(count), np.zeros(count), False, list[str]()
    while True:
        if _turns(chain, count):
            factor, offset, turned = factor[::-1], offset[::-1], not turned
        if chain.next() not in _ARITHMETIC:
            break
        step = chain.take(*_ARITHMETIC)
        nodes += step.node.outputs[:1]
        values = _vector(chain, step, count)
        match step.op:
            case "Sub":
                offset = offset - values
            case "Add":
                offset = offset + values
            case "Mul":
                factor, offset = factor * values, offset * values
            case "Div":
                factor, offset = factor / values, offset / values
    if not nodes and not turned and chain.given.dtype != "uint8":
        return Preparation(None, False, (), ())
    if not (np.isfinite(factor).all() and np.isfinite(offset).all() and factor.all()):
        chain.fail("a preparation that can be undone", f"a picture times {factor.tolist()}")
    return _preparation(factor, offset, turned=turned, nodes=tuple(nodes))


def _turns(chain: Chain, count: int) -> bool:
    """Whether the next step reads the channels in the opposite order; where it reads all in order, that is the map."""
    if not chain.next() or len(chain.x.pieces) != 1:
        return False
    reads, name = chain.steps[chain.at].reads, chain.x.pieces[0]
    in_order = tuple(Channel(str(name), place) for place in range(count))
    if reads.pieces not in (in_order, in_order[::-1]):
        return False
    shape, axes = chain.given.shape, chain.first.axes
    if len(shape) != len(axes) or shape[axes.index("c")] != count:  # of a picture with more they would be some
        chain.fail(
            f"channels of a picture that has {count}", f"{', '.join(map(str, reads.pieces))} of one of any number"
        )
    chain.x = reads
    return reads.pieces != in_order


def _vector(chain: Chain, step: Step, count: int) -> Array:
    """The number of each channel, as it is meant."""
    value = step.others[0]
    if not isinstance(value, Constant):
        chain.fail("a number, or one for each channel", f"{step.node} of {value}")
    axes, shape = step.reads.axes, spread(step, value.tensor.shape)
    fits = [size == 1 or (axis == "c" and size == count) for axis, size in zip(axes, shape, strict=False)]
    if len(shape) != len(axes) or not all(fits):
        chain.fail("a number, or one for each channel", f"{step.node} of a tensor of the shape {value.tensor.shape}")
    numbers = value.tensor.load().reshape(-1)
    return np.broadcast_to([meant(number, factor=step.op == "Mul") for number in numbers], count)


def _preparation(factor: Array, offset: Array, *, turned: bool, nodes: tuple[str, ...]) -> Preparation:
    """The contract's input of a factor and an offset for each channel of the network."""
    count, notes = len(factor), list[str]()
    plain = input_of(factor.tolist(), offset.tolist(), "rgb")
    scale, mean, std = plain.scale, plain.mean, plain.std
    order, certain = _order(count, mean, turned=turned)
    if not certain:
        notes.append(
            "the graph prepares its pictures itself and does not say in which order their colours come; red first is "
            f"assumed, {'which it turns round' if turned else 'as it is'}: the network's own order is {order}"
        )
    picture = Input(order=order, scale=scale, mean=mean, std=std)
    if note := unit_note(picture):
        notes.append(note)
    return Preparation(picture, turned, nodes, tuple(notes))


def _order(count: int, mean: tuple[float, ...], *, turned: bool) -> tuple[Order, bool]:
    """The order of the network's channels, and whether the means tell: of photographs red has the most, blue the least.

    Otherwise pictures are taken to come with red first.
    """
    if count != _COLOURS:
        return ("grey" if count == 1 else "rgb"), True
    first, second, third = mean
    if min(mean) > 0 and first != second != third:
        if first > second > third:
            return "rgb", True
        if first < second < third:
            return "bgr", True
    return ("bgr" if turned else "rgb"), False
