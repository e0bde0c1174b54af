"""How far logits are from one another, in deviations of the truth: the figures of a report."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.prove.job import Precision


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How far the port's logits (`n classes`) are from the reference's, for one probe in one precision.

    Distances are in deviations of the reference's float64 logits. `noise` is the reference's own distance to its
    float64 logits (root mean square; 0 in float64), `distance` the port's to the same. `top1` and `top5` are the share
    of images whose best class, or set of five best, agrees; `first_disagreement` the best rank (from 1) at which any
    image's order differs, or None. `ulps` counts logits by distance from the reference in the same precision: exponent
    of two → count, with key -1 for equal bits. `tolerance` is the smallest absolute tolerance that would have passed.
    """

    probe: str
    precision: Precision
    largest: float
    distance: float
    noise: float
    cosine: float
    top1: float
    top5: float
    first_disagreement: int | None
    ulps: Mapping[int, int]
    tolerance: float


def figures_of(probe: str, precision: Precision, port: Array, reference: Array, truth: Array) -> Figures:
    """The figures of a port's logits beside the reference's in the same precision, both against the float64 truth."""
    truth = truth.astype(np.float64)
    first = np.argsort(-reference.reshape(len(reference), -1), axis=1, kind="stable")
    second = np.argsort(-port.reshape(len(port), -1), axis=1, kind="stable")
    differing = np.any(first != second, axis=0)
    fives = [set(a) == set(b) for a, b in zip(first[:, :5].tolist(), second[:, :5].tolist(), strict=True)]
    return Figures(
        probe=probe,
        precision=precision,
        largest=largest(port, truth),
        distance=rms(port, truth),
        noise=rms(reference, truth),
        cosine=_cosine(port, truth),
        top1=float(np.mean(first[:, 0] == second[:, 0])),
        top5=float(np.mean(fives)),
        first_disagreement=int(np.argmax(differing)) + 1 if differing.any() else None,
        ulps=_ulps(port, reference),
        tolerance=float(np.max(np.abs(port.astype(np.float64) - reference))),
    )


def largest(values: Array, truth: Array) -> float:
    """Largest difference in deviations of the truth; NaN stays NaN."""
    with np.errstate(all="ignore"):
        return float(np.max(np.abs(values.astype(np.float64) - truth)) / np.std(truth))


def rms(values: Array, truth: Array) -> float:
    """Root mean square of the difference in deviations of the truth; NaN stays NaN."""
    with np.errstate(all="ignore"):
        return float(np.sqrt(np.mean((values.astype(np.float64) - truth) ** 2)) / np.std(truth))


def least_noise(truth: Array) -> float:
    """What rounding the logits themselves to float32 costs: uniform within half an ULP, so ULP / √12."""
    return float(np.sqrt(np.mean(np.spacing(truth.astype(np.float32)).astype(np.float64) ** 2) / 12) / np.std(truth))


def _cosine(values: Array, truth: Array) -> float:
    with np.errstate(all="ignore"):
        a, b = values.astype(np.float64).ravel(), truth.ravel()
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _ulps(port: Array, reference: Array) -> dict[int, int]:
    """Logits by their distance from the reference's in units of its last place.

    Exponent of two → count; -1 is equality.
    """
    with np.errstate(all="ignore"):
        steps = np.abs(port.astype(np.float64) - reference) / np.spacing(np.abs(reference)).astype(np.float64)
        finite = steps[np.isfinite(steps)]
        exponents = np.where(finite == 0, -1, np.ceil(np.log2(np.maximum(finite, 1)))).astype(int)
    return {int(key): int(count) for key, count in zip(*np.unique(exponents, return_counts=True), strict=True)}
