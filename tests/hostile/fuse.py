"""Bombs, lit: each is made in one process and read in another, whose time and memory are measured.

python -m tests.hostile.fuse [--only PART …] [--seconds 1]
"""

import argparse
import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from densenet_port import formats
from tests.hostile.isolated import apart, called
from tests.hostile.judge import MEMORY

SECONDS = 1.0  # of the processor that a bomb may take, on a machine that does nothing else


def names() -> list[str]:
    """Of all bombs."""

    def listed(pipe):
        from tests.hostile.bombs import BOMBS

        pipe.send([*BOMBS])

    return called(listed)


def lit(name: str, seconds: float) -> dict:
    """What came of a bomb that may take so many seconds."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / ("x." + name.partition(".")[2])

        def make(pipe):
            from tests.hostile.bombs import BOMBS

            BOMBS[name](path)
            pipe.send("made")

        called(make)
        verdict, memory = apart(path, 8 * MEMORY)
        message = " ".join(verdict.detail.replace(f"{place}/", "").split())
        is_refused = verdict.kind in ("corrupt", "misfit") and verdict.seconds < seconds and memory < MEMORY
        return {"name": name.partition(".")[0].replace("_", " "), "container": name.partition(".")[2],
                "bytes": path.stat().st_size, "kind": verdict.kind, "seconds": round(verdict.seconds, 2),
                "memory": memory, "message": message, "refused": is_refused}  # fmt: skip


def warm() -> None:
    """Import what readers import, so that the processes that are measured need not."""
    for module in (*formats.READERS, *formats.FOLDERS, "folders", "foreign", "hdf5.copy"):
        import_module(f"densenet_port.formats.{module}")


def main() -> int:
    """Light them, one line each; 1 where one goes off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[""], help="parts of names")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of the processor that each may take")
    asked = parser.parse_args()
    warm()
    results = [lit(name, asked.seconds) for name in names() if any(part in name for part in asked.only)]
    sys.stdout.writelines(json.dumps(result) + "\n" for result in results)
    return int(not all(result["refused"] for result in results))


if __name__ == "__main__":
    sys.exit(main())
