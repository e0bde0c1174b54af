"""What each planted fault does to a whole 121, what catches it and what it is named.

    python -m benchmarks.scripts.faults ARCH IMAGES SIZE

Prints JSON, a row for each fault. The network is random, with calibrated statistics, and runs in numpy: undamaged in
float64 it is the truth, undamaged in float32 the yardstick. 128 pixels are the size that its statistics were taken at,
and a multiple of 32, where the two paddings differ. The diagnosis sees two of the images.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from densenet_port.conversion.load import read
from densenet_port.network.numpy import forward
from densenet_port.prove.checks import BOUND64, FACTOR32
from densenet_port.prove.diagnose import Diagnosis, diagnose
from tests.support.faults import FAULTS, GRAPHS, logits_of
from tests.support.networks import checkpoint_file, images


class Port(NamedTuple):
    """What a port is to the diagnosis."""

    architecture: Any
    contract: Any
    weights: Any


class Row(NamedTuple):
    """One fault: largest differences from the truth in deviations, images whose best class changed, and the rest."""

    fault: str
    float64: float
    float32: float
    flips: int
    caught: str
    named: str


def measured(truth: Any, noise: float, logits: Callable[..., Any]) -> tuple[float, float, int, str]:
    """How far a damaged port is from the truth in both precisions, and which check fails."""
    with np.errstate(all="ignore"):
        wide, narrow = (logits(dtype=dtype) for dtype in ("float64", "float32"))
        largest = [float(np.abs(logits - truth).max() / truth.std()) for logits in (wide, narrow)]
        flips = int((narrow.argmax(1) != truth.argmax(1)).sum())
        checks = {"float64": largest[0] <= BOUND64, "float32": rms(narrow, truth) <= FACTOR32 * noise}
    failed = [name for name, passed in checks.items() if not passed]
    return largest[0], largest[1], flips, " and ".join(failed) or "nothing"


def rms(logits: Any, truth: Any) -> float:
    """Root mean square of the difference in deviations of the truth."""
    return float(np.sqrt(np.mean((logits - truth) ** 2)) / truth.std())


def named(diagnosis: Diagnosis) -> str:
    """The findings of a diagnosis, each with its units counted or named."""
    units = [f.units[0] if len(f.units) == 1 else f"{len(f.units)} units" for f in diagnosis.findings]
    return ", ".join(f"`{f.fault}`: {where}" for f, where in zip(diagnosis.findings, units, strict=True)) or "nothing"


def rows(port: Any, pictures: Any) -> Iterator[Row]:
    """The undamaged port, then every fault."""
    architecture, contract = port.architecture, port.contract
    weights = {slot: np.array(array) for slot, array in port.weights.items()}
    truth, own = (forward(architecture, contract, weights, pictures, dtype=dtype) for dtype in ("float64", "float32"))
    few, taps = pictures[:2], {}
    reference = forward(architecture, contract, weights, few, tap=taps.__setitem__)
    noise = rms(own, truth)

    def explained(contract: Any, weights: Any, **more: Any) -> str:
        return named(diagnose(Port(architecture, contract, weights), few, taps, reference, **more))

    yield Row("none", *measured(truth, noise, lambda dtype: truth if dtype == "float64" else own), "nothing")
    for name, fault in FAULTS.items():
        if fault.fits(architecture):
            bad, wrong, _ = fault.plant(architecture, contract, weights)
            yield Row(
                name,
                *measured(truth, noise, partial(forward, architecture, wrong, bad, pictures)),
                explained(wrong, bad),
            )
    for name, graph in GRAPHS.items():
        otherwise = partial(logits_of, architecture, contract, weights, **graph.otherwise)
        named_as = explained(contract, weights, port_logits=otherwise(few))
        yield Row(f"{name}, the port's framework", *measured(truth, noise, partial(otherwise, pictures)), named_as)


def main(arch: str, count: str, size: str) -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as folder:
        port = read(checkpoint_file(Path(folder), arch, "zip"))
        results = [row._asdict() for row in rows(port, images(int(count), int(size), seed=1))]
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
