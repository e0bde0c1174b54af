"""How far two right float32 runs may be apart: the measurement behind `checks.FACTOR32`.

    python -m benchmarks.scripts.noise SEEDS LARGE      (seeds of a small network, and of a 121)

Prints JSON: network → backend → the port's distance to the float64 truth over the reference's own, both root mean
square, for random networks and inputs.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SMALL = "layers=2-3-2,growth_rate=8,init_channels=16,classes=7"


def ratios(arch: str, seeds: Sequence[int], folder: Path) -> dict[str, list[float]]:
    """Backend → the ratio for each seed and probe."""
    from densenet_port.conversion.convert import convert
    from densenet_port.conversion.load import read
    from densenet_port.prove.checks import FACTOR32
    from densenet_port.prove.images import make_probes
    from densenet_port.prove.parity import judge
    from tests.support.networks import checkpoint_file
    from tests.support.ports import recordings

    sources, ports, probes = [], [], []
    for seed in seeds:
        source = checkpoint_file(folder, arch, "zip", seed=seed)
        convert(source, out=folder / f"{seed}.weights.h5", force=True)
        sources.append(read(source))
        ports.append(read(folder / f"{seed}.weights.h5"))
        probes.append(make_probes(sources[-1], (65,), 2, None, 100 * seed))
    theirs = recordings(sources, probes, "torchvision")
    found: dict[str, list[float]] = {}
    for backend in ("numpy", "tensorflow", "torch", "jax"):
        network = "numpy" if backend == "numpy" else "keras"
        mine = recordings(ports, probes, network, "tensorflow" if backend == "numpy" else backend)
        results = [judge(*four) for four in zip(ports, sources, theirs, mine, strict=True)]
        checks = [check for result in results for check in result.checks if check.kind == "float32"]
        found[backend] = [FACTOR32 * check.measured / check.bound for check in checks]
        assert all(result.passed for result in results), backend
    return found


def main(seeds: int, large: int) -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as name:
        rows = {"small": ratios(SMALL, range(seeds), Path(name))}
        if large:
            rows["121"] = ratios("121", range(large), Path(name))
    print(json.dumps(rows))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
