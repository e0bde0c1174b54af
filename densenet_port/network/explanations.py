"""Questions that a trained file answers by its moments: of what is assumed, and each alternative, the residual."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan
from typing import Literal, NamedTuple

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.network.graph import IMAGES, Operation
from densenet_port.network.inheritance import EPSILONS
from densenet_port.network.moments import (
    ACTIVATIONS,
    SIDES,
    Affine,
    Moments,
    Reading,
    Step,
    median,
    swapped_affine,
    swapped_statistics,
)
from densenet_port.network.units import Slot

Verdict = Literal["supported", "contradicted", "open"]

GOOD = 0.15
"""A residual up to which an explanation is good.

Measured on trained networks: right 0.016 to 0.066 where there are 1×1 convolutions, 0.049 to 0.123 where there are
3×3 ones alone; wrong 0.17 and more, or 0.09 and more."""
BAD = 0.1
"""A residual from which an explanation is bad; between `BAD` and `GOOD` `MARGIN` decides alone."""
MARGIN = 2.0
"""How many times a residual must be another's to be told from it.

Measured: the right activation is better than the next, a leaky slope of 0.1 apart, by 3.2 to 22 where there are 1×1
convolutions, in networks with another activation too; by 1.2 and 1.8 in two networks without, which stay open."""
UNEXPLAINED = 0.4
"""A residual of the stem's least squares that no picture explains. Measured: right 0.003 to 0.1; with a norm behind
the stem left out 0.7 to 1.4."""


UNTOLD = ("leaky relu",)
"""What contradicts nothing, because a slope of 0.1 changes means too little; where it is better by `MARGIN`, a question
stays open."""
POOLED = 0.25
"""By how many deviations a maximum over 2×2 places lies above their mean at least.

Measured in transitions of trained networks: an average is off by −0.16 to 0.02, a maximum by −0.71 to −1.07."""
RAISED = 1.2
"""By how much a 3×3 maximum raises the mean behind a ReLU at least. Measured: 1.38 and 2.00; without a pool 1.00."""
UNSETTLED = 0.05
"""The smallest fraction of its mean that a moving average may have: Keras's, of momentum 0.99, after five steps."""
LARGEST = 1e5
"""The largest factor of a fold, ten times 1 / (1 − 0.9999); Caffe's usual one is 999.98."""
PLAIN = 0.3
"""From which residual on norms without scale and shift lack them.

Measured with those of trained networks taken away: 0.51 to 1.7; 0.056 and 0.067 in two that were trained briefly."""


STEM_POOL = "stem pool"
"""The question that an entry of the contract answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One question: the residual of what is assumed, and of each alternative, the smaller the better.

    `supported`: the assumed explanation is good, and every alternative worse by `MARGIN`. `contradicted`: it is bad,
    and an alternative is good and better by `MARGIN`; or, for the stem, nothing explains it while the inner steps are
    fine. `open` otherwise, and wherever the statistics are no trained ones.
    """

    question: str
    assumed: str
    residual: float
    alternatives: Mapping[str, float]
    verdict: Verdict

    @property
    def best(self) -> str | None:
        """The alternative of the smallest residual; None without one."""
        told = [name for name in self.alternatives if name not in UNTOLD]
        return min(told, key=self.alternatives.__getitem__, default=None)

    @property
    def margin(self) -> float:
        """How many times the assumed explanation's residual the best alternative's is."""
        return inf if self.best is None else self.alternatives[self.best] / max(self.residual, 1e-9)


def explain(moments: Moments, *, trained: bool, biases: Mapping[str, Array] | None = None) -> tuple[Explanation, ...]:
    """What the moments of a network say of what its graph assumes, question by question.

    The statistics are `trained` where inheritance is evident; without that everything is open, as where moving averages
    have not settled. `biases` are those of convolutions (`c` by unit) that the norms' means do not contain.
    """
    questions: tuple[Question, ...] = (
        _activation,
        _affine,
        _statistics,
        _factor,
        _identity,
        _transition,
        _stem_pool,
        _stem,
        _biases,
    )
    with np.errstate(all="ignore"):
        answers = [question(moments, biases or {}) for question in questions]
    trained = trained and moments.settled
    return tuple(_judged(answer, moments, trained=trained) for answer in answers if answer is not None)


def stem_pool(moments: Moments) -> Explanation | None:
    """What trained statistics say of the stem's pool alone; None where a graph has no place for one."""
    with np.errstate(all="ignore"):
        answer = _stem_pool(moments, {})
    return None if answer is None else _judged(answer, moments, trained=moments.settled)


class Pictures(NamedTuple):
    """The mean of each channel of the pictures that a network was trained on, prepared, and the fit's residual."""

    mean: Array
    residual: float


def pictures(moments: Moments) -> Pictures | None:
    """What pictures explain the mean behind the first convolution best, by least squares; None where too few tell.

    The mean that a norm stores is the kernel, its taps summed, times the pictures' mean (`c`); a tap counts by its
    share of places in the picture, whose side is the one that explains most. Where pictures are bright a border shows.
    """
    step = next(step for step in moments.steps if step.before == IMAGES)
    inputs, outputs = moments.network.channels, step.stop - step.start
    if outputs < 2 * inputs or step.conv is None:
        return None
    norm = moments.norm(step.norm).part(step.start, step.stop)
    kernel = (moments.weights[Slot(step.conv, "kernel")] / norm.deviation).astype(np.float64)
    stored = (norm.mean / norm.deviation).astype(np.float64)
    if not (np.isfinite(kernel).all() and np.isfinite(stored).all()):
        return None
    fits = []
    for side in (*SIDES, None):
        shares = _shares(moments.network.operations[step.conv], side)
        summed = np.einsum("h,w,hwio->oi", shares, shares, kernel)
        mean = np.linalg.lstsq(summed, stored)[0]
        fits.append(Pictures(mean, median(np.abs(summed @ mean - stored))))
    return min(fits, key=lambda fit: fit.residual)


def _shares(conv: Operation, side: int | None) -> Array:
    """For each tap along an axis the share of a convolution's places where it sees a picture of a side, not zeros."""
    if side is None or (places := conv.side(side)) < 1:
        return np.ones(conv.kernel)
    around = max((places - 1) * conv.stride + conv.kernel - side, 0) // 2 if conv.padding == "same" else conv.padding
    seen = np.arange(places)[:, None] * conv.stride + np.arange(conv.kernel) - around
    shares: Array = ((seen >= 0) & (seen < side)).mean(0)
    return shares


def epsilons(moments: Moments) -> dict[float, float]:
    """Another epsilon in use → by what share it would change the slope of a norm's channel at most.

    No statistics tell an epsilon: the slope is scale / √(variance + epsilon).
    """
    norms = [unit.name for unit in moments.network.units.values() if unit.kind == "norm"]
    with np.errstate(all="ignore"):
        wide = np.concatenate([moments.norm(name).variance for name in norms]).astype(np.float64)
        own = moments.norm(norms[0]).epsilon
        changes = {other: np.abs(np.sqrt((wide + own) / (wide + other)) - 1) for other in EPSILONS if other != own}
    return {other: float(change.max()) for other, change in changes.items()}


class Answer(NamedTuple):
    """What a question's explanation is judged by."""

    question: str
    assumed: str
    residual: float
    alternatives: Mapping[str, float]


Question = Callable[[Moments, Mapping[str, Array]], Answer | None]


def _judged(answer: Answer, moments: Moments, *, trained: bool) -> Explanation:
    """An answer with its verdict."""
    one = Explanation(**answer._asdict(), verdict="open")
    if not trained or isnan(one.residual):
        return one
    return Explanation(**answer._asdict(), verdict=_verdict(one, moments))


def _verdict(one: Explanation, moments: Moments) -> Verdict:
    """What an explanation's numbers say."""
    alone = {"stem": UNEXPLAINED, "affine map": PLAIN}.get(one.question)
    if alone is not None and one.residual >= alone:
        is_alone = one.question == "affine map" or _residual(moments, moments.inner, Reading()) <= GOOD
        return "contradicted" if is_alone else "open"
    best = inf if one.best is None else one.alternatives[one.best]
    untold = min((one.alternatives[name] for name in UNTOLD if name in one.alternatives), default=inf)
    if one.residual <= GOOD and best >= MARGIN * one.residual and untold * MARGIN >= one.residual:
        return "supported"
    return "contradicted" if one.residual >= BAD and best <= min(GOOD, one.residual / MARGIN) else "open"


# -- the questions -----------------------------------------------------------------------------------------------------


def _residual(moments: Moments, chosen: Sequence[Step], reading: Reading) -> float:
    return moments.measured(chosen, reading).residual


def _activation(moments: Moments, biases: Mapping[str, Array]) -> Answer | None:
    if not (chosen := moments.inner):
        return None
    residuals = {name: _residual(moments, chosen, Reading(activation=name, biases=biases)) for name in ACTIVATIONS}
    assumed = "relu" if "relu" in chosen[0].operations else "none"
    return Answer("activation", assumed, residuals.pop(assumed), residuals)


def _affine(moments: Moments, biases: Mapping[str, Array]) -> Answer | None:
    return _exchange(moments, "scale and shift", Reading(affine=swapped_affine, biases=biases))


def _statistics(moments: Moments, biases: Mapping[str, Array]) -> Answer | None:
    return _exchange(moments, "mean and variance", Reading(statistics=swapped_statistics, biases=biases))


def _exchange(moments: Moments, question: str, exchanged: Reading) -> Answer | None:
    """Whether two vectors of every norm are exchanged."""
    if not (chosen := moments.inner):
        return None
    residual = _residual(moments, chosen, Reading(biases=exchanged.biases))
    return Answer(question, "in their places", residual, {"exchanged": _residual(moments, chosen, exchanged)})


def _factor(moments: Moments, biases: Mapping[str, Array]) -> Answer | None:
    """Whether means and variances are a multiple of what they should be: a fold's factor left out, or put in twice.

    A moving average that has not settled is a fraction of the mean too: none down to `UNSETTLED` is looked at.
    """
    if not (chosen := moments.inner):
        return None
    residual = _residual(moments, chosen, Reading(biases=biases))
    factor = moments.multiple(Reading())
    if not (1 / LARGEST <= factor <= UNSETTLED or 2 <= factor <= LARGEST):
        return Answer("factor on mean and variance", "none", residual, {})

    def divided(norm: Affine) -> Affine:
        return norm._replace(mean=norm.mean / factor, variance=norm.variance / factor)

    other = _residual(moments, chosen, Reading(statistics=divided, biases=biases))
    return Answer("factor on mean and variance", "none", residual, {f"{factor:.4g}": other})


def _identity(moments: Moments, biases: Mapping[str, Array]) -> Answer | None:
    """Where every norm has the scale 1 and the shift 0: whether it had others, in a layer that was left out."""
    chosen = moments.inner
    norms = [moments.norm(step.before) for step in chosen]
    if not chosen or any((norm.scale != 1).any() or norm.shift.any() for norm in norms):
        return None
    return Answer("affine map", "scale 1 and shift 0", _residual(moments, chosen, Reading(biases=biases)), {})


def _transition(moments: Moments, biases: Mapping[str, Array]) -> Answer | None:
    """The pools of transitions: an average keeps the mean, a maximum raises it."""
    reading = Reading(biases=biases)
    chosen = [step for step in moments.steps if "average_pool" in step.operations]
    if not chosen:
        return None
    offs = [moments.off(step, moments.predicted(step, reading), reading, moments.side) for step in chosen]
    average = median(np.array([median(np.abs(off)) for off in offs]))
    maximum = median(np.array([median(np.abs(off - min(median(off), -POOLED))) for off in offs]))
    return Answer("transition pool", "average", average, {"maximum": maximum})


def _stem_pool(moments: Moments, _biases: Mapping[str, Array]) -> Answer | None:
    """The stem's pool: the norm behind it sees the mean behind the ReLU, or a maximum's, which is higher."""
    pools = ({"relu"}, {"relu", "max_pool"}, {"relu", "max_pool", "pad", "blur"})
    step = next((step for step in moments.steps if set(step.operations) in pools and step.before != IMAGES), None)
    if step is None:
        return None
    behind = moments.predicted(step, Reading())[0]
    norm = moments.norm(step.norm).part(step.start, step.stop)
    raised = max(median(norm.mean / behind), RAISED)
    pool = "blur" if "blur" in step.operations else "max"
    residuals = {
        "none": median(np.abs(behind - norm.mean) / norm.deviation),
        pool: median(np.abs(behind * raised - norm.mean) / norm.deviation),
    }
    assumed = pool if "max_pool" in step.operations else "none"
    return Answer(STEM_POOL, assumed, residuals.pop(assumed), residuals)


def _stem(moments: Moments, _biases: Mapping[str, Array]) -> Answer | None:
    """Whether any pictures explain the mean behind the first convolution: not where a norm between is left out."""
    fit = pictures(moments)
    return None if fit is None else Answer("stem", "a convolution of the pictures", fit.residual, {})


def _biases(moments: Moments, biases: Mapping[str, Array]) -> Answer | None:
    """Whether biases of convolutions, where there are any, are part of what the norms read."""
    if not biases or not (chosen := moments.inner):
        return None
    without = _residual(moments, chosen, Reading())
    return Answer(
        "biases of convolutions", "added", _residual(moments, chosen, Reading(biases=biases)), {"none": without}
    )
