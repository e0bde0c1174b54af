"""Kills, disk faults and determinism, as a section of the page; `tests.record.reliability_writer` measures them."""

from typing import Any

from tests.record.reliability.part import Part, flowed, table


def measure(scale: float) -> dict[str, Any]:
    from tests.record.reliability_writer import rows

    return {"rows": [list(row) for row in rows(scale)]}


def render(measured: dict[str, Any]) -> str:
    words = """Conversions of the embedded sample that were killed, whose disk failed, and that were run again: what was
        tried, and what was found at the final path afterwards."""
    return f"{flowed(words)}\n\n{table(['what', 'tried', 'result'], measured['rows'])}"


PARTS = {"writer": Part("Killed, disturbed, repeated", measure, render)}
