"""How a map lies in memory: its axes as letters, and what becomes of them behind a node.

`n` is the picture, `c` its channels, `h` and `w` its places; `1` is an axis of length one where places were. Behind the
mean over the picture a map has no places, so that taking such axes away, or flattening, gives `nc`. Where a node makes
axes that cannot be told, they are `?`, and an operator that depends on them is refused.
"""

from collections.abc import Callable, Sequence

from densenet_port.formats.onnx.constants import axes_of, numbers
from densenet_port.formats.onnx.model import Constant, Node

UNKNOWN = "?"
_PLACES = "hw1"


def reordered(axes: str, order: Sequence[int]) -> str:
    """The axes as a Transpose puts them."""
    return "".join(axes[place] for place in order)


def one_more(node: Node, axes: str, others: Sequence[Constant | None]) -> str | None:
    """The axes with that of the channels again, where one channel was taken out; None for another axis that is new.

    Behind a vector axes of length one may follow, as many as one likes.
    """
    new = axes_of(node, [None, *others])
    if new and axes == "nc" and sorted(axis % (len(axes) + len(new)) for axis in new) == [*range(2, 2 + len(new))]:
        return axes + "1" * len(new)
    if new is None or len(new) != 1 or "c" in axes or UNKNOWN in axes:
        return None
    place = new[0] % (len(axes) + 1)
    return f"{axes[:place]}c{axes[place:]}"


def common(axes: Sequence[str]) -> str | None:
    """The axes of maps side by side; None where they differ.

    A place beside an axis of length one has that length, and what cannot be told beside `nc` has those two axes.
    """
    if set(axes) == {UNKNOWN, "nc"}:
        return "nc"
    letters = [set(letter) for letter in zip(*axes, strict=False)]
    alike = all(len(letter - {"1"}) <= 1 and (len(letter) == 1 or letter & set(_PLACES[:2])) for letter in letters)
    if len({*map(len, axes)}) > 1 or not alike:
        return None
    return "".join("1" if "1" in letter else letter.pop() for letter in letters)


def axes_behind(node: Node, axes: str, others: Sequence[Constant | None]) -> str:
    """The axes of what a node makes of a map; `others` are its other inputs, None where one is no constant."""
    behind = _BEHIND.get(node.op)
    return behind(node, axes, others) if behind else axes


def is_vector(axes: str) -> bool:
    """Whether only places stand beside pictures and channels, the pictures first: where all have length one, `nc`."""
    return axes[:1] == "n" and "c" in axes and all(axis in _PLACES for axis in axes[1:] if axis != "c")


def reduced_places(node: Node, axes: str, others: Sequence[Constant | None]) -> str:
    """The letters of the axes over which a ReduceMean or ReduceMax goes, sorted; all where it names none."""
    named = axes_of(node, [None, *others])
    if not named:
        return "".join(sorted(axes))
    return "".join(sorted(axes[axis] if -len(axes) <= axis < len(axes) else UNKNOWN for axis in named))


def _reduced(node: Node, axes: str, others: Sequence[Constant | None]) -> str:
    """Behind a ReduceMean or ReduceMax: the axes gone, or of length one."""
    gone = reduced_places(node, axes, others)
    kept = node.attributes.get("keepdims", 1)
    return "".join(("1" if kept else "") if axis in gone else axis for axis in axes)


def _squeezed(node: Node, axes: str, others: Sequence[Constant | None]) -> str:
    """Behind a Squeeze: without the axes named, which must be of places; without all places where none is named."""
    named = axes_of(node, [None, *others])
    places = {place for place, axis in enumerate(axes) if axis in _PLACES}
    gone = places if named is None else {axis % len(axes) for axis in named}
    if not gone <= places:
        return UNKNOWN
    return "".join(axis for place, axis in enumerate(axes) if place not in gone)


def _reshaped(node: Node, _axes: str, others: Sequence[Constant | None]) -> str:
    """Behind a Reshape: `nc`, and ones behind it, where the numbers say so; where they are worked out, unknown."""
    shape = node.attributes.get("shape") or (numbers(others[0], node) if others and others[0] else [])
    if len(shape) < 2 or any(size != 1 for size in shape[2:]):
        return UNKNOWN
    return "nc" + "1" * (len(shape) - 2)


def _pooled(_node: Node, axes: str, _others: Sequence[Constant | None]) -> str:
    """Behind a mean over the picture that keeps its axes."""
    return axes.replace("h", "1").replace("w", "1")


def _flattened(node: Node, axes: str, _others: Sequence[Constant | None]) -> str:
    """Behind a Flatten, of a map as well, whose places are channels then."""
    is_flat = axes == UNKNOWN or (axes[:1] == "n" and "c" in axes)
    return "nc" if node.attributes.get("axis", 1) in (1, 1 - len(axes)) and is_flat else UNKNOWN


def _multiplied(node: Node, axes: str, _others: Sequence[Constant | None]) -> str:
    """Behind a matrix."""
    return "nc" if node.op == "Gemm" or axes in ("nc", UNKNOWN) else UNKNOWN


_BEHIND: dict[str, Callable[[Node, str, Sequence[Constant | None]], str]] = {
    "GlobalAveragePool": _pooled,
    "GlobalMaxPool": _pooled,
    "ReduceMean": _reduced,
    "ReduceMax": _reduced,
    "Squeeze": _squeezed,
    "Flatten": _flattened,
    "Reshape": _reshaped,
    "Gemm": _multiplied,
    "MatMul": _multiplied,
}
