"""The contract: what must hold beside the weights for a network to be the same function."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from densenet_port.errors import MisfitError

StemPadding = Literal["symmetric", "same"]
StemPool = Literal["max", "blur"]
Rounding = Literal["floor", "ceil"]
Output = Literal["logits", "softmax", "sigmoid"]


@dataclass(frozen=True, kw_only=True)
class Input:
    """What the network expects of a picture: x = (pixel / scale − mean) / std, pixels 0 … 255, channels in `order`."""

    order: Literal["rgb", "bgr", "grey"] = "rgb"
    scale: float = 255.0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What must hold beside the weights for the network to be the same function.

    `epsilon` is what every norm adds to its variance. `stem_padding` is "symmetric" (3 and 1 zeros on every side, the
    original network) or "same" (TensorFlow's rule, which shifts even sizes by three pixels). `stem_pool` is the stem's
    3×3 pool: "max" of stride 2, or "blur", a max of stride 1 and then a binomial 3×3 filter of stride 2 over the map
    and its reflection at the border (timm's blur pool; `stem_padding` has no say in it). `pool_rounding` is how a
    transition pools a map of odd size: "floor" drops the last row and column, "ceil" averages what is there of them
    (Caffe's default). `output` says what the layout's own network puts out; weights are the same for all three.
    """

    epsilon: float = 1e-5
    stem_padding: StemPadding = "symmetric"
    stem_pool: StemPool = "max"
    pool_rounding: Rounding = "floor"
    output: Output = "logits"
    input: Input = field(default_factory=Input)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Contract":
        """The contract that `to_json` wrote. Raises MisfitError for anything else."""
        try:
            picture: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in data["input"].items()
            }
            return cls(**{**data, "input": Input(**picture)})
        except (AttributeError, KeyError, TypeError) as error:
            raise MisfitError(f"unreadable contract: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """The contract as plain JSON values."""
        plain = asdict(self)
        plain["input"] = {
            key: list(value) if isinstance(value, tuple) else value for key, value in plain["input"].items()
        }
        return plain
