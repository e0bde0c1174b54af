"""The record: a JSON object that densenet-port writes into a file beside the tensors, wherever a container keeps it."""

import json
from pathlib import Path
from typing import Any

from densenet_port.errors import CorruptError
from densenet_port.formats.source import AGAIN

RECORD = "densenet_port"


def parse_record(path: Path, text: str | bytes) -> dict[str, Any]:
    """The record in a file. Raises CorruptError for what is no JSON object."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{path}: its record is unreadable: {error}", hint=AGAIN) from error
    if not isinstance(record, dict):
        raise CorruptError(f"{path}: its record is no JSON object", hint=AGAIN)
    return record
