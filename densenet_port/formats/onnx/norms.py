"""A DenseNet's norms as an ONNX graph has them: whole, with a Scale behind, beside a bias, or folded away.

    whole           BatchNormalization: scale, shift, mean, variance
    with a Scale    BatchNormalization, Mul, Add: second_scale and second_shift as well
    beside a bias   Conv with a bias, BatchNormalization: the bias comes off the mean
    folded          Conv with a bias alone, or Sub, Mul and Add alone: scale 1 (or Mul's), shift the bias (or Add's),
                    mean 0 (or Sub's), variance 1 − epsilon, which is the same function; what the statistics were cannot
                    be had back

What is worked out is float64, to be rounded when it is written; what is not is as it stands in the file.
"""

from dataclasses import dataclass

import numpy as np

from densenet_port.checkpoint import Tensor
from densenet_port.formats.onnx.chain import Chain, any_of, attribute
from densenet_port.formats.onnx.model import Constant
from densenet_port.network.graph import Operation
from densenet_port.network.units import ROLES, listed

Parts = dict[str, Constant]


@dataclass
class Norm:
    """What stands for a unit's norm; `output` is the value it gives.

    `bias` is that of the convolution before it, `batch` a BatchNormalization's tensors by role, `sub` what is taken
    off where there is none, `mul` and `add` what is multiplied and added behind. The value has `axes`.
    """

    unit: str
    bias: Constant | None
    batch: Parts | None = None
    sub: Constant | None = None
    mul: Constant | None = None
    add: Constant | None = None
    output: str = ""
    axes: str = "nchw"

    @property
    def double(self) -> bool:
        """Whether a Scale stands behind a BatchNormalization."""
        return self.batch is not None and (self.mul or self.add) is not None

    @property
    def derived(self) -> bool:
        """Whether a tensor is not as it stands in the file."""
        return self.batch is None or (self.bias is not None and any_of(self.bias))


def take(chain: Chain, operation: Operation, bias: Constant | None) -> Norm:
    """The norm that comes next."""
    norm = Norm(operation.name, bias)
    if chain.next() == "BatchNormalization" or (chain.next() not in ("Sub", "Mul", "Add") and bias is None):
        step, shape = chain.take("BatchNormalization"), (operation.channels,)
        norm.batch = {role: chain.constant(step, place, shape) for place, role in enumerate(ROLES["norm"])}
        chain.must(step, spatial=1)
        chain.record("epsilon", float(str(np.float32(attribute(step, "epsilon")))))
        chain.training |= attribute(step, "training_mode") == 1
    elif chain.next() == "Sub":
        norm.sub = chain.channels(chain.take("Sub"), operation.channels)
    if chain.next() == "Mul":
        norm.mul = chain.channels(chain.take("Mul"), operation.channels)
    if chain.next() == "Add":
        norm.add = chain.channels(chain.take("Add"), operation.channels)
    norm.output, norm.axes = str(chain.x.pieces[0]), chain.x.axes
    return norm


def parts(norm: Norm, epsilon: float, *, double: bool) -> Parts:
    """A norm's tensors by part; with `double` those of a Scale, too, where it has none of ones and zeros."""
    own = _stand_in(norm, epsilon) if norm.batch is None else dict(norm.batch)
    if norm.batch and norm.bias is not None and norm.derived:
        own["mean"] = _difference(own["mean"], norm.bias)
    if double:
        like = own["scale"]
        mul, add = (norm.mul, norm.add) if norm.double else (None, None)
        own |= {"second_scale": mul or filled(like, 1.0), "second_shift": add or filled(like, 0.0)}
    return own


def _stand_in(norm: Norm, epsilon: float) -> Parts:
    """The norm that does the same as a bias, or as a Sub, a Mul and an Add behind one."""
    around = norm.mul or norm.add or norm.sub
    like = around or norm.bias
    assert like is not None  # noqa: S101 (`take` saw to it)
    mean = norm.sub or filled(like, 0.0)
    return {
        "scale": norm.mul or filled(like, 1.0),
        "shift": norm.add or filled(like, 0.0) if around else like,
        "mean": _difference(mean, norm.bias) if around and norm.bias else mean,
        "variance": filled(like, 1.0 - epsilon, dtype="float64"),
    }


def filled(like: Constant, value: float, shape: tuple[int, ...] | None = None, dtype: str | None = None) -> Constant:
    """A number, repeated, in the shape and type of another tensor unless others are given."""
    own_shape, own_dtype = like.tensor.shape if shape is None else shape, dtype or like.tensor.dtype
    native = "float32" if own_dtype == "bfloat16" else own_dtype
    return Constant(Tensor(own_shape, own_dtype, lambda: np.full(own_shape, value, native)))


def _difference(first: Constant, second: Constant) -> Constant:
    """The difference of two vectors of one length, in float64."""
    one, other = first.tensor, second.tensor
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
