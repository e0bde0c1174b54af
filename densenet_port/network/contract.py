"""The contract: what must hold beside the weights for a network to be the same function."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import floor, isclose, isfinite
from typing import Any, Literal, get_args

from densenet_port.errors import MisfitError

StemPadding = Literal["symmetric", "same"]
StemPool = Literal["max", "blur", "none"]
Rounding = Literal["floor", "ceil"]
Activation = Literal["softmax", "sigmoid", "relu", "tanh", "log_softmax"]
Output = Literal["logits", Activation]
Order = Literal["rgb", "bgr", "grey"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Fit = Literal["crop", "squash", "border"]
_UNIT = 2.0  # means and deviations of pictures of values up to 1 are smaller
_ROUGH = 1e-6  # of a number: a float32 is within 6e-8 of what is meant, and a preparation multiplies a few
_EXACT = 1e-12  # of a number: what float64's arithmetic with decimals loses at most, and far less than a float32 has
Origin = Literal["graph", "record", "statistics", "software", "user", "assumed"]
ENTRIES = ("epsilon", "stem_stride", "stem_padding", "stem_pool", "pool_rounding", "head_pool", "output", "input")
"""The entries of a contract. Each has an origin, by which it is known:

    graph      the file's own graph has it
    record     a file beside the weights, or one that densenet-port wrote, records it
    statistics the running statistics of its norms testify to it
    software   the layout's own software builds its networks so
    user       the user's word
    assumed    nothing tells; it is what files like this one usually have
"""
COMPUTED = ("epsilon", "stem_stride", "stem_padding", "stem_pool", "pool_rounding", "head_pool")
"""The entries that the logits of prepared images depend on."""
WORDS = (*ENTRIES, "resize")
"""What a user may say of a contract. `resize` is no part of the function, and has an origin only where it is known."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """What the network expects of a picture: x = (pixel / scale − mean) / std, pixels 0 … 255, channels in `order`.

    Raises MisfitError for values that prepare no picture.
    """

    order: Order = "rgb"
    scale: float = 255.0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        """Refuse values that prepare no picture."""
        _check_choice("input.order", self.order, get_args(Order))
        for name, values in (("scale", (self.scale,)), ("mean", self.mean), ("std", self.std)):
            if not isinstance(values, tuple) or not all(map(_is_number, values)) or (name != "mean" and 0 in values):
                raise MisfitError(f"contract: input.{name}: expected finite numbers, found {getattr(self, name)!r}")

    def linear(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Factors and offsets of the channels, in the network's order: x = factor · pixel + offset.

        A network of fewer channels than there are numbers has the first of them; one number is that of all channels.
        Raises MisfitError for a network of more.
        """
        mean, std = self.numbers(channels)
        factors = tuple(1 / (self.scale * one) for one in std)
        return factors, tuple(-one / other for one, other in zip(mean, std, strict=True))

    def numbers(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std of so many channels. Raises MisfitError where there are not enough of them."""
        mean, std = (one * channels if len(one) == 1 else one[:channels] for one in (self.mean, self.std))
        if len(mean) != channels or len(std) != channels:
            counts = f"{len(self.mean)} means and {len(self.std)} deviations"
            raise MisfitError(f"contract: input: expected numbers of {channels} channels, found {counts}")
        return mean, std

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Input":
        """The input that `to_json` wrote. Raises MisfitError for anything else."""
        try:
            plain: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
            }
            return cls(**plain)
        except (AttributeError, TypeError) as error:
            raise MisfitError(f"contract: unreadable: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """The input as plain JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class Resize:
    """How a picture of any size becomes one that the network was evaluated on, before `Input` prepares its values.

    With `fit="crop"` the shorter side is brought to `size / crop` (rounded down, as torchvision and timm do) and the
    middle of `size` by `size` is taken; with `fit="squash"` both sides are brought to that, whatever their ratio; with
    `fit="border"` the longer side is, and what is missing of `size` is filled up with the mean.
    `size` is in pixels, height and width. `interpolation` is Pillow's, with its antialiasing. Raises MisfitError.
    """

    size: tuple[int, int] = (224, 224)
    crop: float = 0.875
    interpolation: Interpolation = "bilinear"
    fit: Fit = "crop"

    def __post_init__(self) -> None:
        """Refuse values that resize nothing."""
        _check_choice("resize.interpolation", self.interpolation, get_args(Interpolation))
        _check_choice("resize.fit", self.fit, get_args(Fit))
        if not isinstance(self.size, tuple) or len(self.size) != 2 or not all(map(_is_count, self.size)):
            raise MisfitError(f"contract: resize.size: expected height and width in pixels, found {self.size!r}")
        if not _is_number(self.crop) or not 0 < self.crop <= 1:
            raise MisfitError(f"contract: resize.crop: expected a share of the picture, found {self.crop!r}")

    def __str__(self) -> str:
        """`224 of 256 pixels, bilinear`."""
        fit = {"crop": "", "squash": ", squashed", "border": ", with a border"}[self.fit]
        return f"{_sides(self.size)} of {_sides(self.scaled)} pixels, {self.interpolation}{fit}"

    @property
    def scaled(self) -> tuple[int, int]:
        """What height and width are brought to, or one of them, before the middle is taken."""
        height, width = (floor(side / self.crop) for side in self.size)
        return height, width

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Resize":
        """The resizing that `to_json` wrote. Raises MisfitError for anything else."""
        try:
            return cls(**{**data, "size": tuple(data["size"])})
        except (AttributeError, KeyError, TypeError) as error:
            raise MisfitError(f"contract: unreadable: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """The resizing as plain JSON values."""
        return {**asdict(self), "size": list(self.size)}


def input_of(factors: Sequence[float], offsets: Sequence[float], order: Order) -> Input:
    """The input of a network whose picture is prepared as x = factor · pixel + offset, for each channel.

    `scale` is 255 where mean and std are shorter decimals so: 0.485 and 0.229 of 255 rather than 123.675 and 58.395.
    Raises MisfitError for a factor of zero, and for numbers that are not finite.
    """
    if not all(map(isfinite, (*factors, *offsets))) or 0 in factors:
        raise MisfitError(f"a preparation that can be undone was expected, found a picture times {list(factors)}")
    ways = []
    for scale in (1.0, 255.0):
        mean = tuple(_clean(-offset / factor / scale) for factor, offset in zip(factors, offsets, strict=True))
        std = tuple(_clean(1 / (factor * scale)) for factor in factors)
        ways.append(Input(order=order, scale=scale, mean=mean, std=std))
    return min(ways, key=lambda way: sum(map(digits, (*way.mean, *way.std))))


def same_input(first: Input, second: Input, channels: int) -> bool:
    """Whether two inputs prepare the same images, but for the rounding of their numbers to float32."""
    if first == second:
        return True
    if channels == 3 and (first.order == "bgr") != (second.order == "bgr"):
        return False
    try:
        one, other = first.linear(channels), second.linear(channels)
    except MisfitError:  # numbers of other channels than the network's
        return False
    largest = max(map(abs, other[1]), default=0.0)  # an offset of zero is one beside the others
    alike = (isclose(a, b, rel_tol=_ROUGH) for a, b in zip(one[0], other[0], strict=True))
    near = (isclose(a, b, rel_tol=_ROUGH, abs_tol=_ROUGH * largest) for a, b in zip(one[1], other[1], strict=True))
    return all(alike) and all(near)


def unit_note(picture: Input, who: str = "the graph") -> str | None:
    """What to say of an input whose means and deviations are those of values from 0 to 1; None for any other.

    `who` prepares the pictures so.
    """
    largest = max(map(abs, (*picture.mean, *picture.std))) * picture.scale
    if any(picture.mean) and largest <= _UNIT:
        return f"{who} prepares pictures of values from 0 to 1: divide pixels by 255 before they are prepared"
    return None


def _clean(number: float) -> float:
    """The shortest decimal that differs by no more than float64's rounding."""
    for count in range(1, 17):
        decimal = float(f"{number:.{count}g}")
        if abs(decimal - number) <= _EXACT * abs(number):
            return decimal + 0.0  # no minus zero
    return float(number)


def digits(number: float) -> int:
    """How many digits a decimal has, without zeros at its ends."""
    return len(repr(abs(number)).partition("e")[0].replace(".", "").strip("0"))


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What must hold beside the weights for the network to be the same function.

    `epsilon` is what every norm adds to its variance. `stem_stride` is the stride of a stem's only convolution, None
    for the one that its kind usually has (`graph.stem_of`). `stem_padding` is "symmetric" (3 and 1 zeros on every side,
    the original network) or "same" (TensorFlow's rule, which shifts even sizes by three pixels). `stem_pool` is the
    stem's 3×3 pool: "max" of stride 2, "blur", a max of stride 1 and then a binomial 3×3 filter of stride 2 over the
    map and its reflection at the border (timm's blur pool; `stem_padding` has no say in it), or "none". `pool_rounding`
    is how a transition pools a map of odd size: "floor" drops the last row and column, "ceil" averages what is there of
    them (Caffe's default). `head_pool` is the window, and the stride, of the average pool in front of a head that reads
    every place of the map; 1 for none, and for every other head. `output` says what the layout's own network puts out:
    the activation behind the head, or logits; weights are the same for all. `resize` is how pictures are brought to a
    size before that, None where nobody said it.
    Raises MisfitError for values that no network has.
    """

    epsilon: float = 1e-5
    stem_stride: int | None = None
    stem_padding: StemPadding = "symmetric"
    stem_pool: StemPool = "max"
    pool_rounding: Rounding = "floor"
    head_pool: int = 1
    output: Output = "logits"
    input: Input = field(default_factory=Input)
    resize: Resize | None = None

    def __post_init__(self) -> None:
        """Refuse values that no network has."""
        if not _is_number(self.epsilon) or self.epsilon < 0:
            raise MisfitError(f"contract: epsilon: expected a finite number from 0 on, found {self.epsilon!r}")
        for key in ("stem_stride", "head_pool"):
            if not _is_count(getattr(self, key)) and (key, self.stem_stride) != ("stem_stride", None):
                raise MisfitError(f"contract: {key}: expected a whole number from 1 on, found {getattr(self, key)!r}")
        _check_choice("stem_padding", self.stem_padding, get_args(StemPadding))
        _check_choice("stem_pool", self.stem_pool, get_args(StemPool))
        _check_choice("pool_rounding", self.pool_rounding, get_args(Rounding))
        _check_choice("output", self.output, get_args(Output))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Contract":
        """The contract that `to_json` wrote. Raises MisfitError for anything else."""
        try:
            resize = {"resize": Resize.from_json(data["resize"])} if data.get("resize") else {}
            return cls(**{**data, "input": Input.from_json(data["input"]), **resize})
        except (AttributeError, KeyError, TypeError) as error:
            raise MisfitError(f"contract: unreadable: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """The contract as plain JSON values; `stem_stride`, `head_pool` and `resize` where they are not the usual."""
        resize = self.resize and self.resize.to_json()
        plain = {**asdict(self), "input": self.input.to_json(), "resize": resize}
        return {key: value for key, value in plain.items() if key not in _RARE or value != _RARE[key]}


_RARE: dict[str, Any] = {"stem_stride": None, "head_pool": 1, "resize": None}  # entry of few → what others have


def _sides(size: tuple[int, int]) -> str:
    """A size for a message: one number where both sides are alike."""
    height, width = size
    return str(height) if height == width else f"{height}×{width}"


def _is_count(value: object) -> bool:
    """Whether a value is a whole number from 1 on."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: object) -> bool:
    """Whether a value is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _check_choice(key: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise MisfitError for a value that is none of those allowed."""
    if value not in allowed:
        raise MisfitError(f"contract: {key}: expected one of {', '.join(allowed)}, found {value!r}")
