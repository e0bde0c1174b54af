"""What a user may name as a source, opened as a checkpoint: a file, a registered name, a state dict, a checkpoint."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_port import formats
from densenet_port.checkpoint import Checkpoint, live

if TYPE_CHECKING:
    from densenet_port.fetch.converted import Port

Opens = str | PathLike[str] | Checkpoint | Mapping[str, Any]


def opened(source: Opens, *, port: "Port", output: str | None = None, body: bool = False) -> Checkpoint:
    """The checkpoint that a source means.

    `port` is as in `fetch.registry`, `output` and `body` are as in `formats.read`. Raises what these raise.
    """
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, Mapping):
        return live(source)
    return formats.read(_located(source, port), output=output, body=body)


def _located(source: str | PathLike[str], port: "Port") -> Path:
    """The file of a path, or of a registered name where no file is called so."""
    path = Path(source)
    if isinstance(source, str) and not path.exists():
        from densenet_port.fetch.registry import is_registered, named  # noqa: PLC0415 (only a name needs the cache)

        if is_registered(source):
            return named(source, port=port)
    return path
