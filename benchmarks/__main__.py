"""Every measurement in one command.

    python -m benchmarks                      measure, and write docs/benchmarks.md, its pictures and README's tables
    python -m benchmarks convert --runs 15    one group alone, more runs; the others stay as they were measured
    python -m benchmarks faults noise         groups that are measured by their name alone: they take long
    python -m benchmarks --quick --out DIR    a try with small networks and few files, which changes nothing but DIR
    python -m benchmarks --render             write everything anew from benchmarks/results.json

Files are made in the system's temporary folder (TMPDIR), which needs 16 GB for all groups. A group whose command or
package is not there says so on the page, and one that fails is told at the end, with exit code 1; the rest is
measured all the same.
"""

import argparse
import json
import re
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import page
from benchmarks.group import Missing, Plan
from benchmarks.measure import ROOT, machine, watched

RESULTS = ROOT / "benchmarks" / "results.json"


def asked(words: Sequence[str] | None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(page.GROUPS)}")
    parser.add_argument("--runs", type=int, help="instead of each group's own number")
    parser.add_argument("--quick", action="store_true", help="one run, small networks, few files; needs --out")
    parser.add_argument("--out", type=Path, help="a folder for results, page and pictures; the repository if left out")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    given = parser.parse_args(words)
    if unknown := set(given.groups) - page.GROUPS.keys():
        parser.error(f"no group {', '.join(sorted(unknown))}; there are {', '.join(page.GROUPS)}")
    if given.quick and not given.out:
        parser.error("--quick measures nothing that belongs on the page; name a folder with --out")
    return given


def main(words: Sequence[str] | None = None) -> int:
    """Measure what is asked for, each group kept as soon as it is there, and write it down."""
    given = asked(words)
    kept = given.out / "results.json" if given.out else RESULTS
    kept.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    due = given.groups or [name for name, group in page.GROUPS.items() if not group.asked]
    failed = []
    for name in [] if given.render else due:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            page.merge(results, name, measured(name, given.runs, quick=given.quick))
        except Exception:  # noqa: BLE001 (the rest is measured all the same)
            failed.append(name)
            traceback.print_exc()
        kept.write_text(as_text(results), encoding="utf-8")
    page.write(results, given.out or ROOT / "docs")
    if not given.out:
        page.write_tables(results, ROOT)
    if failed:
        print(f"not measured, because it failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def as_text(results: dict[str, Any]) -> str:
    """JSON with a line for each run, whose numbers stand side by side."""
    spread = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    return re.sub(r"\[\s+([^\[\]{}]+?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", spread)


def measured(name: str, runs: int | None, *, quick: bool) -> dict[str, Any]:
    """One group's result: its data and how it came about, or why there is none. Raises Failed."""
    group = page.GROUPS[name]
    plan = Plan(runs or (1 if quick else group.runs), quick)
    with tempfile.TemporaryDirectory(prefix="densenet-port-bench-") as folder, watched() as load:
        try:
            data = group.measure(Path(folder), plan)
        except Missing as missing:
            return {"missing": str(missing), "machine": machine()}
    return {"runs": plan.runs, "quick": quick, "machine": machine(), "load": load, "data": data}


if __name__ == "__main__":
    sys.exit(main())
