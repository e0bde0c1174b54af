"""Writes mappings/index.json, of each table the names that every file of it has: `python -m tests.record.index`."""

import json
from pathlib import Path

from densenet_port.layouts.index import entry_of, table_digest
from densenet_port.layouts.layout import Layout, layouts

INDEX = Path(__file__).parents[2] / "mappings" / "index.json"


def text():
    """The whole file, an entry a line."""
    entries = {name: {"sha256": table_digest(name), **entry_of(Layout.load(name))} for name in layouts()}
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items()) + "\n}\n"


if __name__ == "__main__":
    INDEX.write_text(text())
