"""Writes `docs/reliability.md` from what was measured, and measures it.

    python -m tests.record.reliability [PART …] [--scale 0.1]

Each part measures one thing, keeps it in `measured/<part>.json`, and has a section of the page. Without parts the page
is written anew from what was kept. A further part is an entry in `PARTS`: what measures it and what renders it, from a
module of its own. `--scale` makes fewer of everything; how many there were stands in the page.
"""

import argparse
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

from tests.record.reliability import hostile, writer
from tests.record.reliability.part import Part

HERE = Path(__file__).parent
PAGE = Path(__file__).parents[3] / "docs" / "reliability.md"
PARTS: dict[str, Part] = {**hostile.PARTS, **writer.PARTS}
HEAD = """# Nothing runs, nothing is lost, nothing damaged is believed

What was tried against the readers and the writer, and what came of it. The scripts that measured it write this page:
`python -m tests.record.reliability`. Hostile files are made by scripts, in `tests/hostile`; none is committed. A share
of all this runs with the tests, and `make fuzz` is the long run.
"""


def machine() -> str:
    """What it was measured on."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "h5py"))
    processors = f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"
    return f"{processors}, Python {platform.python_version()}, {libraries}"


def main() -> None:
    """Measure what is asked for, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    parser.add_argument("--scale", type=float, default=1)
    asked = parser.parse_args()
    for name in asked.parts:
        kept = {"machine": machine(), **PARTS[name].measure(asked.scale)}
        (HERE / "measured" / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
    PAGE.write_text(page())


def page() -> str:
    """The page, of all parts that were measured."""
    sections = [HEAD]
    for name, part in PARTS.items():
        kept = HERE / "measured" / f"{name}.json"
        if kept.exists():
            measured = json.loads(kept.read_text())
            sections.append(f"## {part.title}\n\n{part.render(measured)}\n\nMeasured on {measured['machine']}.\n")
    return "\n".join(sections)


if __name__ == "__main__":
    main()
