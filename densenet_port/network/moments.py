"""What the statistics of a trained network say of its function: the mean of each unit's output, predicted.

A norm's output has the mean `shift` and the deviation `|scale|` per channel, by its own definition on the training
data. Taking it as Gaussian, the mean behind an activation follows: behind a ReLU shift·Φ(shift/scale) +
|scale|·φ(shift/scale). Behind a convolution it is the kernel, its taps summed, times that mean; an average pool keeps
it. The running mean of the norm that reads the result says what it really was. A **step** is the way from one norm to
the next; its **residual** is the median over its channels of |predicted − stored mean| / stored deviation.

A 3×3 kernel sees zeros around the map: of n places along an axis, a tap beside the centre sees n − 1. The side of the
training's pictures is taken from those that explain the 3×3 steps best; it is no more than a way to fit the border.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.network.graph import IMAGES, Graph
from densenet_port.network.inheritance import sources
from densenet_port.network.units import Role, Slot

SIDES = (16, 28, 32, 64, 128, 224)
"""Sides of pictures that networks are trained on; above 224 a border no longer counts."""
PARTS = np.array([[0, 0, 0, 0, 1, 0, 0, 0, 0], [0, 1, 0, 1, 0, 1, 0, 1, 0], [1, 0, 1, 0, 0, 0, 1, 0, 1]], np.float32)
"""The taps of a 3×3 kernel, row by row: its centre, its edges, its corners."""
KEEPING = {"relu", "conv", "average_pool", "mean"}
"""The operations behind which a mean is known."""
SAMPLE = 16
"""Steps of a kind that are looked at for a question; a median of so many is as good as one of all."""
LEFT = 0.15
"""What may be left of a moving average's beginning where it counts as settled.

What is left adds 0.4 to 0.5 of it to a residual: this much 0.07, which contradicts nothing. Measured:
trained networks have a variance of 0.14 or less, most of 0.05."""
DOUBLE = 2.0
"""From which multiple of the predicted means on the stored ones are no moving average's that is on its way to them."""


# -- the mean of a function of a Gaussian ------------------------------------------------------------------------------


def phi(t: Array) -> Array:
    """The standard normal density."""
    density: Array = np.exp(-t * t / 2) * np.float32(0.3989422804014327)  # 1/√(2π)
    return density


def cdf(t: Array) -> Array:
    """The standard normal distribution function, off by 7.6e-8 at most.

    Source: Abramowitz and Stegun, *Handbook of Mathematical Functions*, 26.2.17.
    """
    part = 1 / (1 + 0.2316419 * np.abs(t))
    series = part * (
        0.319381530 + part * (-0.356563782 + part * (1.781477937 + part * (-1.821255978 + part * 1.330274429)))
    )
    tail = phi(t) * series
    return np.where(t >= 0, 1 - tail, tail)


def rectified(shift: Array, scale: Array) -> Array:
    """E[max(0, z)] of z with mean `shift` and deviation |scale|."""
    deviation = np.maximum(np.abs(scale), np.float32(1e-12))
    ratio = shift / deviation
    mean: Array = shift * cdf(ratio) + deviation * phi(ratio)
    return mean


@cache
def _rule() -> tuple[Array, Array]:
    """Gauss and Hermite's rule: its 15 nodes, and their shares.

    Source: Golub and Welsch, *Calculation of Gauss Quadrature Rules*, 1969, with the recurrence of the polynomials.
    """
    beside = np.sqrt(np.arange(1, 15))
    nodes, vectors = np.linalg.eigh(np.diag(beside, 1) + np.diag(beside, -1))
    return nodes.astype(np.float32), (vectors[0] ** 2).astype(np.float32)


def _averaged(function: Callable[[Array], Array]) -> Callable[[Array, Array], Array]:
    """E[function(z)], by Gauss and Hermite's rule."""

    def mean(shift: Array, scale: Array) -> Array:
        nodes, shares = _rule()
        values: Array = function(shift[:, None] + np.abs(scale)[:, None] * nodes) @ shares
        return values

    return mean


def _sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


ACTIVATIONS: dict[str, Callable[[Array, Array], Array]] = {
    "relu": rectified,
    "leaky relu": lambda shift, scale: np.float32(0.9) * rectified(shift, scale) + np.float32(0.1) * shift,
    "elu": _averaged(lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0)))),
    "swish": _averaged(lambda z: z * _sigmoid(z)),
    "gelu": _averaged(lambda z: z * cdf(z)),
    "none": lambda shift, _scale: shift,
    "sigmoid": _averaged(_sigmoid),
}
"""Activation → its mean behind a norm of shift and scale (`c`); the leaky one with a slope of 0.1."""


# -- steps -------------------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """The way from a norm to the next: what lies between, and which channels of the next norm it makes.

    `before` is the norm it starts from, or the images; `operations` the kinds between, in order, and `conv` the
    convolution among them; `norm` is the first that reads `source`, the last operation, in the channels from `start` to
    `stop`.
    """

    before: str
    operations: tuple[str, ...]
    conv: str | None
    source: str
    norm: str
    start: int
    stop: int


def steps(network: Graph) -> Iterator[Step]:
    """The steps of a network, in order of execution of the norms that end them."""
    carried, seen = sources(network), set()
    for name, operation in network.operations.items():
        start = 0
        for source, width in carried[operation.inputs[0]] if operation.kind == "norm" else ():
            if source not in seen:
                seen.add(source)
                yield _step(network, source, name, start, start + width)
            start += width


def _step(network: Graph, source: str, norm: str, start: int, stop: int) -> Step:
    """The step that ends with an operation."""
    kinds: list[str] = []
    conv, name = None, source
    while name != IMAGES and network.operations[name].kind != "norm":
        operation = network.operations[name]
        kinds.insert(0, operation.kind)
        conv = name if operation.kind == "conv" else conv
        name = operation.inputs[0]
    return Step(name, tuple(kinds), conv, source, norm, start, stop)


class Affine(NamedTuple):
    """A norm's four vectors (`c`, float32), and its epsilon."""

    shift: Array
    scale: Array
    mean: Array
    variance: Array
    epsilon: float

    @property
    def deviation(self) -> Array:
        """The root of variance and epsilon; NaN for a variance that is none."""
        with np.errstate(all="ignore"):
            deviation: Array = np.sqrt(self.variance + np.float32(self.epsilon))
        return deviation

    def part(self, start: int, stop: int) -> "Affine":
        """Some of the channels."""
        shift, scale, mean, variance = (vector[start:stop] for vector in self[:4])
        return Affine(shift, scale, mean, variance, self.epsilon)


Change = Callable[[Affine], Affine]


def as_it_is(norm: Affine) -> Affine:
    """The norm."""
    return norm


def swapped_affine(norm: Affine) -> Affine:
    """A norm whose scale and shift are exchanged."""
    return norm._replace(shift=norm.scale, scale=norm.shift)


def swapped_statistics(norm: Affine) -> Affine:
    """A norm whose mean and variance are exchanged."""
    return norm._replace(mean=norm.variance, variance=norm.mean)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One way to understand a file: the activation, what its norms' vectors are, and biases behind convolutions.

    `affine` changes a norm's scale and shift, `statistics` its mean and variance.
    """

    activation: str = "relu"
    affine: Change = as_it_is
    statistics: Change = as_it_is
    biases: Mapping[str, Array] = field(default_factory=dict)


class Measured(NamedTuple):
    """A residual, and the side of the pictures that it is for."""

    residual: float
    side: int


WAYS: tuple[tuple[str, Change], ...] = (*((name, as_it_is) for name in ACTIVATIONS), ("relu", swapped_affine))
"""The activation and the change of scale and shift of every reading that a question compares."""


class Moments:
    """A network's norms, and what follows from them and its kernels (float32); each kernel is read once."""

    def __init__(self, network: Graph, weights: Mapping[Slot, Array]) -> None:
        """Keep what is looked at; nothing is read yet."""
        self.network = network
        self.weights = weights
        self.steps = tuple(steps(network))
        self._norms: dict[str, Affine] = {}
        self._predicted: dict[tuple[Step, str, Change], Array] = {}

    def norm(self, name: str) -> Affine:
        """A norm's vectors."""
        if name not in self._norms:
            roles: tuple[Role, ...] = ("shift", "scale", "mean", "variance")
            shift, scale, mean, variance = (_float32(self.weights[Slot(name, role)]) for role in roles)
            self._norms[name] = Affine(shift, scale, mean, variance, self.network.operations[name].epsilon)
        return self._norms[name]

    def taps(self, conv: str) -> Array:
        """A kernel's taps, summed (`taps i o`): a 3×3 kernel's centre, edges and corners; any other's all together."""
        return summed_taps(_float32(self.weights[Slot(conv, "kernel")]))

    def products(self, step: Step, means: Array) -> Array:
        """What the parts of a step's kernel make of means (`n c`) behind the activation (`parts n c`)."""
        products: Array = means[None] if step.conv is None else means @ self.taps(step.conv)
        return products

    def summed(self, step: Step, products: Array, side: int) -> Array:
        """The mean (`c`) of a map on pictures of a side: each part of a kernel by its share of places in the map."""
        if len(products) == 1:
            whole: Array = products[0]
            return whole
        share = 1 - 1 / self.places[side].get(step.source, np.inf)
        result: Array = np.array([1, share, share * share], np.float32) @ products
        return result

    @cached_property
    def places(self) -> dict[int, dict[str, int]]:
        """Side of pictures → places along one axis, by convolution, for the sides that leave each of them some.

        Where none does, 0 stands for a map without a border.
        """
        convs = [name for name, step in self.network.operations.items() if step.kind == "conv"]
        sides = {side: self.network.sides(side) for side in SIDES}
        places = {side: {name: sides[side][name] for name in convs} for side in SIDES}
        return {side: there for side, there in places.items() if min(there.values(), default=0) > 0} or {0: {}}

    @cached_property
    def side(self) -> int:
        """The side of pictures that explains the 3×3 steps best."""
        return self.measured(self.sample(3), Reading()).side

    def sample(self, kernel: int) -> list[Step]:
        """Up to `SAMPLE` of the steps from a norm through a convolution of a kernel and nothing else, evenly chosen."""
        fitting = [step for step in self.steps if self._is_plain(step, kernel)]
        every = -(-len(fitting) // SAMPLE) or 1
        return fitting[::every]

    @cached_property
    def inner(self) -> list[Step]:
        """The steps that tell most: through 1×1 convolutions, which see no border; else through 3×3 ones."""
        return self.sample(1) or self.sample(3)

    def _is_plain(self, step: Step, kernel: int) -> bool:
        is_plain = step.operations in (("relu", "conv"), ("conv",)) and step.before != IMAGES
        return is_plain and self.network.operations[step.source].kernel == kernel

    def predicted(self, step: Step, reading: Reading) -> Array:
        """What the parts of a step's kernel make of the mean behind the norm that it starts from (`parts c`).

        The kernel of one of the inner steps, of which every question asks, is read once for all of their readings.
        """
        wanted = reading.activation, reading.affine
        if (step, *wanted) not in self._predicted:
            ways = list(dict.fromkeys([*WAYS, wanted])) if step in self.inner else [wanted]
            norm = self.norm(step.before)
            means = [ACTIVATIONS[activation](*affine(norm)[:2]) for activation, affine in ways]
            products = self.products(step, np.stack(means))
            self._predicted |= {(step, *way): products[:, number] for number, way in enumerate(ways)}
        return self._predicted[step, *wanted]

    def measured(self, chosen: Sequence[Step], reading: Reading) -> Measured:
        """The residual of steps under a reading, on pictures of the side that makes it smallest."""
        with np.errstate(all="ignore"):
            parts = [(step, self.predicted(step, reading)) for step in chosen]
            has_border = any(len(products) > 1 for _, products in parts)
            sides = [*self.places] if has_border else [next(iter(self.places))]
            by_side = {side: self._residual(parts, reading, side) for side in sides}
        side = min(by_side, key=by_side.__getitem__)
        return Measured(by_side[side], side)

    def _residual(self, parts: list[tuple[Step, Array]], reading: Reading, side: int) -> float:
        """The median of the steps' residuals."""
        return median(np.array([median(np.abs(self.off(step, products, reading, side))) for step, products in parts]))

    @cached_property
    def lowest(self) -> float:
        """The smallest variance of all norms."""
        norms = [unit.name for unit in self.network.units.values() if unit.kind == "norm"]
        return min(float(self.norm(name).variance.min()) for name in norms)

    @cached_property
    def settled(self) -> bool:
        """Whether the moving averages have reached what they average, all but some of the way.

        A moving average of a variance begins at 1; after n steps of momentum m mⁿ of that is left, in every channel:
        no more than the smallest variance. The means are as far from theirs.
        """
        with np.errstate(all="ignore"):
            return not self.lowest > LEFT or abs(self.multiple(Reading())) >= DOUBLE

    def multiple(self, reading: Reading) -> float:
        """What multiple of the predicted means the stored ones of the inner steps are, by least squares; 0 of none."""
        above = below = 0.0
        for step in self.inner:
            predicted = self.summed(step, self.predicted(step, reading), self.side)
            stored = self.norm(step.norm).mean[step.start : step.stop]
            above += float(predicted @ stored)
            below += float(predicted @ predicted)
        return above / below if below else 0.0

    def off(self, step: Step, products: Array, reading: Reading, side: int) -> Array:
        """(predicted − stored mean) / stored deviation of each channel of a step; infinite where that is no number."""
        norm = reading.statistics(self.norm(step.norm)).part(step.start, step.stop)
        bias = reading.biases.get(step.conv or "", np.float32(0))
        with np.errstate(all="ignore"):
            difference = (self.summed(step, products, side) + bias - norm.mean) / norm.deviation
        return np.nan_to_num(difference, nan=np.inf, posinf=np.inf, neginf=-np.inf)


def summed_taps(kernel: Array) -> Array:
    """A kernel's taps (`h w i o`), summed (`taps i o`): a 3×3 kernel's centre, edges, corners; any other's together.

    One product, in the order that memory has them.
    """
    height, width, inputs, outputs = kernel.shape
    if height == width == 1:
        only: Array = kernel[0]
        return only
    parts = PARTS if (height, width) == (3, 3) else np.ones((1, height * width), np.float32)
    if kernel.flags.c_contiguous:
        summed: Array = (parts @ kernel.reshape(height * width, -1)).reshape(-1, inputs, outputs)
        return summed
    products = kernel.transpose(3, 2, 0, 1).reshape(-1, height * width) @ parts.T
    turned: Array = products.T.reshape(-1, outputs, inputs).transpose(0, 2, 1)
    return turned


def median(values: Array) -> float:
    """The median of numbers (`n`), as `np.median` has it, in a fifth of its time for a norm's channels; NaN of none."""
    ordered = np.sort(values)
    middle = len(ordered) // 2
    if not len(ordered) or np.isnan(ordered[-1]):
        return float("nan")
    return float(ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2)


def _float32(array: Array) -> Array:
    """An array in float32; what is too large for it is infinite, and makes no noise."""
    with np.errstate(all="ignore"):
        return np.asarray(array, np.float32)


# -- predictions -------------------------------------------------------------------------------------------------------


class Prediction(NamedTuple):
    """A norm's channels (`c`): the mean that the norms before predict, NaN where nothing does, and what is stored."""

    predicted: Array
    stored: Array
    deviation: Array

    @property
    def residual(self) -> float:
        """The median of |predicted − stored mean| / stored deviation; NaN where nothing is predicted."""
        off = np.abs(self.predicted - self.stored) / self.deviation
        return median(off[np.isfinite(off)]) if np.isfinite(off).any() else float("nan")


def predict(network: Graph, weights: Mapping[Slot, Array]) -> dict[str, Prediction]:
    """For each norm of a network, its channels' means as the norms before them predict, beside those stored.

    `weights` gives every slot in our axes, in the canonical order of channels. Behind the images and behind a maximum
    nothing is predicted.
    """
    moments, reading = Moments(network, weights), Reading()
    pieces = sources(network)
    means: dict[str, Array] = {}
    with np.errstate(all="ignore"):
        for step in moments.steps:
            is_told = step.before != IMAGES and KEEPING.issuperset(step.operations)
            unknown = np.full(step.stop - step.start, np.nan, np.float32)
            products = moments.predicted(step, reading) if is_told else unknown
            means[step.source] = moments.summed(step, products, moments.side) if is_told else unknown
    predictions = {}
    for unit in network.units.values():
        if unit.kind == "norm":
            norm = moments.norm(unit.name)
            mean = np.concatenate([means[source] for source, _ in pieces[network.operations[unit.name].inputs[0]]])
            predictions[unit.name] = Prediction(mean, norm.mean, norm.deviation)
    return predictions
