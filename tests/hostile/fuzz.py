"""The long run: mutants of every container, read in processes of their own, with limits of memory and time.

    python -m tests.hostile.fuzz --count 20000 [--seed 0] [--only .pth …] [--out fuzz.json]

`make fuzz` runs it. What is wrong stands in the result with the numbers that make the mutant again:
`mutants.mutant(container, seed's bytes, Random(f"{seed} {container} {number}"))`. A mutant is wrong where it ends in a
signal, takes more than five seconds or 256 MiB, raises an error that is not of our family, or is read as another
network although the file carries digests or checksums that were not made anew.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.hostile.isolated import called
from tests.hostile.judge import MEMORY, high_water, judged, limit, network_of
from tests.hostile.mutants import MUTATORS, Mutant, mutant

BATCH = 100  # mutants of one process
MARKS = (b'"densenet-port/file/', b'\\"densenet-port/file/')  # of a record
OURS = (".pth", ".safetensors", ".h5", ".weights.h5", ".keras", "packed.keras", ".caffemodel", ".onnx", ".npz")
# Which carry digests, or checksums:
CHECKED = (*OURS, "packed.pth", "numpy.npz", "packed.npz", ".index", ".data-00000-of-00001", ".prototxt")
BESIDE = {".prototxt": ".caffemodel", ".index": ".index", ".data-00000-of-00001": ".index"}  # → what is read


def made(container: str, data: bytes, seed: int, number: int) -> Mutant:
    """The mutant of a number."""
    return mutant(container, data, Random(f"{seed} {container} {number}"))  # noqa: S311 (nothing is secret)


def is_believed(container: str, changed: Mutant, *, recorded: bool) -> bool:
    """Whether another network in this file is a fault: it carries what would have shown it."""
    if container not in CHECKED:
        return False
    if not changed.forged:
        return True
    return recorded or (container in OURS and any(mark in changed.data for mark in MARKS))


def run(container: str, paths: dict[str, Path], numbers: range, seed: int, folder: Path) -> dict:
    """Outcomes of some mutants: kinds counted, the worst time and memory, and what is wrong."""
    whole, place = paths[container].read_bytes(), folder / f"x{container}"
    judged_path = folder / f"x{BESIDE.get(container, container)}"
    for other in {container, BESIDE.get(container), *(each for each in BESIDE if BESIDE[each] == container)} & {*paths}:
        (folder / f"x{other}").write_bytes(paths[other].read_bytes())
    right, _ = network_of(judged_path)
    before = high_water()
    limit(2 * MEMORY)
    kinds: Counter = Counter()
    wrong, slowest = [], 0.0
    for number in numbers:
        (folder / "number").write_text(str(number))
        changed = made(container, whole, seed, number)
        place.write_bytes(changed.data)
        verdict = judged(judged_path)
        kind = verdict.kind
        if kind == "read":
            kind = "same" if verdict.digest == right else "other"
        fault = kind in ("untyped", "hang", "memory") or (
            kind == "other" and is_believed(container, changed, recorded=verdict.recorded)
        )
        kinds[kind] += 1
        slowest = max(slowest, verdict.seconds)
        if fault:
            wrong.append({"number": number, "how": changed.how, "kind": kind, "detail": verdict.detail})
    memory = high_water() - before
    return {"kinds": dict(kinds), "slowest": slowest, "memory": memory, "wrong": wrong}


def fuzzed(container: str, paths: dict[str, Path], count: int, seed: int) -> dict:
    """All mutants of a container, batch by batch; a batch whose process dies goes on behind the mutant that it was."""
    total: Counter = Counter()
    wrong, slowest, memory, at = [], 0.0, 0, 0
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        while at < count:
            numbers = range(at, min(at + BATCH, count))
            result = called(lambda pipe, numbers=numbers: pipe.send(run(container, paths, numbers, seed, folder)), 600)
            if isinstance(result, int) and result > 0:
                raise SystemExit(f"{container}: the run itself fails on mutant {(folder / 'number').read_text()}")
            if isinstance(result, int):
                number = int((folder / "number").read_text())
                total["signal"] += 1
                wrong.append({"number": number, "how": "", "kind": "signal", "detail": f"ended with {result}"})
                at = number + 1
                continue
            total.update(result["kinds"])
            wrong += result["wrong"]
            slowest, memory = max(slowest, result["slowest"]), max(memory, result["memory"])
            at = numbers.stop
    return {
        "count": count, "kinds": dict(total), "slowest": round(slowest, 2), "memory": memory, "wrong": wrong,
        "clock": round(time.monotonic() - start),
    }  # fmt: skip


def seeds_in(folder: Path) -> dict[str, Path]:
    """The seeds, made by a process of its own, so that ours stays small."""

    def make(pipe):
        from tests.hostile.seeds import pairs, seeds

        paths = seeds(folder)
        pipe.send(paths | pairs(folder, paths))

    paths = called(make, 600)
    if isinstance(paths, int):
        raise SystemExit("the seeds cannot be made")
    return paths


def main() -> int:
    """Run, write the result, and say what is wrong; 1 where anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[*MUTATORS])
    parser.add_argument("--out", type=Path, default=Path("fuzz.json"))
    asked = parser.parse_args()
    results = {"seed": asked.seed, "containers": {}}
    with tempfile.TemporaryDirectory() as name:
        paths = seeds_in(Path(name))
        for container in asked.only:
            results["containers"][container] = result = fuzzed(container, paths, asked.count, asked.seed)
            asked.out.write_text(json.dumps(results, indent=1))
            sys.stdout.write(f"{container:16} {json.dumps({**result, 'wrong': len(result['wrong'])})}\n")
            sys.stdout.flush()
    return int(any(result["wrong"] for result in results["containers"].values()))


if __name__ == "__main__":
    sys.exit(main())
