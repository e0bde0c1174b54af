"""A DenseNet's norms as an ONNX graph has them: whole, with a Scale behind, beside a bias, or folded away.

    whole           BatchNormalization: scale, shift, mean, variance
    with a Scale    BatchNormalization, Mul, Add: second_scale and second_shift as well
    beside a bias   Conv with a bias, BatchNormalization: the bias comes off the mean
    folded          Conv with a bias alone, Mul and Add alone: scale 1 (or Mul's), shift the bias (or Add's), mean 0,
                    variance 1 − epsilon, which is the same function; what the statistics were cannot be had back

What is worked out is float64, to be rounded when it is written; what is not is as it stands in the file.
"""

import re
from dataclasses import dataclass

import numpy as np

from densenet_port.checkpoint import Tensor
from densenet_port.formats.onnx.chain import Chain, any_of, attribute
from densenet_port.formats.onnx.graph import Step
from densenet_port.formats.onnx.model import Constant

Parts = dict[str, Constant]


@dataclass
class Norm:
    """What stands between a convolution, or a map, and the ReLU; `output` is the value it gives."""

    unit: str
    bias: Constant | None  # of the convolution before it
    batch: Step | None = None
    mul: Constant | None = None
    add: Constant | None = None
    output: str = ""

    @property
    def double(self) -> bool:
        """Whether a Scale stands behind a BatchNormalization."""
        return self.batch is not None and (self.mul or self.add) is not None

    @property
    def worked(self) -> bool:
        """Whether a tensor is not as it stands in the file."""
        return self.batch is None or (self.bias is not None and any_of(self.bias))


def take(chain: Chain, unit: str, bias: Constant | None) -> Norm:
    """The norm that comes next."""
    chain.where = unit
    found = Norm(unit, bias)
    if chain.next() == "BatchNormalization" or (chain.next() not in ("Mul", "Add") and bias is None):
        found.batch = chain.take("BatchNormalization")
        chain.record("epsilon", float(str(np.float32(attribute(found.batch, "epsilon")))))
        chain.record("training_mode", attribute(found.batch, "training_mode"))
    if chain.next() == "Mul":
        found.mul = chain.channels(chain.take("Mul"))
    if chain.next() == "Add":
        found.add = chain.channels(chain.take("Add"))
    found.output = chain.x.pieces[0]
    return found


def parts(chain: Chain, norm: Norm, epsilon: float, *, double: bool) -> Parts:
    """A norm's tensors by part; with `double` those of a Scale, too, where it has none of ones and zeros."""
    found = _whole(chain, norm) if norm.batch else _stand_in(chain, norm, epsilon)
    if double:
        like = found["scale"]
        mul, add = (norm.mul, norm.add) if norm.double else (None, None)
        found |= {"second_scale": mul or filled(like, 1.0), "second_shift": add or filled(like, 0.0)}
    return found


def _whole(chain: Chain, norm: Norm) -> Parts:
    """A BatchNormalization's tensors; the bias of the convolution before it comes off the mean."""
    assert norm.batch is not None  # noqa: S101 (`parts` saw to it)
    scale, shift, mean, variance = (chain.constant(norm.batch, place, 1) for place in range(4))
    if norm.bias is not None and norm.worked:
        mean = _less(chain, mean, norm.bias)
    return {"scale": scale, "shift": shift, "mean": mean, "variance": variance}


def _stand_in(chain: Chain, norm: Norm, epsilon: float) -> Parts:
    """The norm that does the same as a bias, or as a Mul and an Add behind one."""
    like = norm.mul or norm.add or norm.bias
    assert like is not None  # noqa: S101 (`take` saw to it)
    alone = norm.bias if like is norm.bias else None
    inside = norm.bias if alone is None else None
    return {
        "scale": norm.mul or filled(like, 1.0),
        "shift": alone or norm.add or filled(like, 0.0),
        "mean": _less(chain, filled(like, 0.0), inside) if inside else filled(like, 0.0),
        "variance": filled(like, 1.0 - epsilon, dtype="float64"),
    }


def filled(like: Constant, value: float, shape: tuple[int, ...] | None = None, dtype: str | None = None) -> Constant:
    """A number, repeated, in the shape and type of another tensor unless others are given."""
    wanted, kind = like.tensor.shape if shape is None else shape, dtype or like.tensor.dtype
    native = "float32" if kind == "bfloat16" else kind
    return Constant(Tensor(wanted, kind, lambda: np.full(wanted, value, native)))


def _less(chain: Chain, first: Constant, second: Constant) -> Constant:
    """The difference of two vectors, in float64."""
    one, other = first.tensor, second.tensor
    if one.shape != other.shape:
        chain.fail(f"a bias of the shape {one.shape}", other.shape)
    return Constant(Tensor(one.shape, "float64", lambda: one.load().astype(np.float64) - other.load()))


def lost(norms: list[Norm]) -> list[str]:
    """The note that says which norms were folded away; none where all are whole."""
    gone = [norm.unit for norm in norms if norm.batch is None]
    if not gone:
        return []
    named = listed(gone, [norm.unit for norm in norms])
    note = (
        f"{len(gone)} of {len(norms)} norms were folded into the convolutions before them when the file was exported, "
        f"and their statistics are lost: {named}; scale 1, mean 0 and variance 1 − epsilon stand for them"
    )
    return [note]


def listed(some: list[str], every: list[str]) -> str:
    """Units by name; where all of a kind are meant, `every block*.layer*.norm2`."""
    kinds = {name: re.sub(r"\d+\.", "*.", name) for name in every}
    told = dict[str, None]()
    for name in some:
        alike = {other for other in every if kinds[other] == kinds[name]}
        told[f"every {kinds[name]}" if len(alike) > 1 and alike <= set(some) else name] = None
    return ", ".join(told)
