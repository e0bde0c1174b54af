"""What a user may name as a source, opened as a checkpoint: a file, a registered name, a state dict, a checkpoint."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from densenet_port import formats
from densenet_port.checkpoint import Checkpoint, live

Opens = str | PathLike[str] | Checkpoint | Mapping[str, Any]


def opened(source: Opens, *, output: str | None = None, body: bool = False) -> Checkpoint:
    """The checkpoint that a source means; `output` and `body` are as in `formats.read`. Raises what that raises."""
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, Mapping):
        return live(source)
    return formats.read(_located(source), output=output, body=body)


def _located(source: str | PathLike[str]) -> Path:
    """The file of a path, or of a registered name where no file is called so."""
    path = Path(source)
    if isinstance(source, str) and not path.exists():
        from densenet_port.fetch.registry import is_registered, named  # noqa: PLC0415 (only a name needs the cache)

        if is_registered(source):
            return named(source)
    return path
