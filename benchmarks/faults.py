"""What each planted fault does to a whole 121, and what it is named: the table of docs/faults.md."""

from pathlib import Path
from typing import Any

from benchmarks.group import Data, Group, Plan, sections, table
from benchmarks.measure import script
from benchmarks.networks import SMALL_SPEC


def measured(_folder: Path, plan: Plan) -> dict[str, Any]:
    """A row for each fault. 128 pixels are the size that the network's statistics were taken at."""
    arch, images, size = (SMALL_SPEC, 4, 64) if plan.quick else ("121", 16, 128)
    return {"images": images, "size": size, "rows": script("faults", arch, images, size)}


def faults(data: Data) -> str:
    """All of them."""
    columns = ["fault", "float64", "float32", f"top-1 changed, of {data['images']}", "fails", "named"]
    keys = ("fault", "float64", "float32", "flips", "caught", "named")
    rows = [[f"{row[key]:.1e}" if key.startswith("float") else row[key] for key in keys] for row in data["rows"]]
    return table(columns, rows)


def render(data: Data) -> str:
    """The section: how many, and where they stand."""
    named = sum(row["named"] != "nothing" for row in data["rows"])
    caught = sum(row["caught"] != "nothing" for row in data["rows"])
    return sections(
        f"{len(data['rows']) - 1} faults were planted in a 121: {caught} fail a check, {named} are named "
        f"([all of them](faults.md#what-each-planted-fault-does)); {data['images']} images of {data['size']} pixels."
    )


GROUP = Group("Planted faults", measured, render, tables={"docs/faults.md": faults}, runs=1, asked=True)
