"""What a user may name as a source, opened as a checkpoint.

A file, a folder, a registered name, a place on the Hugging Face Hub, a state dict, or a checkpoint that is open.
"""

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from densenet_port import formats
from densenet_port.checkpoint import Checkpoint, live

if TYPE_CHECKING:
    from densenet_port.fetch.converted import Port

Opens = str | PathLike[str] | Checkpoint | Mapping[str, Any]


class Reader(Protocol):
    """What reads a file: `formats.read`, or `formats.as_it_is`."""

    def __call__(self, path: Path, *, output: str | None = None, body: bool = False) -> Checkpoint:
        """The checkpoint in a file or folder."""


def opened(
    source: Opens, *, port: "Port", output: str | None = None, body: bool = False, reader: Reader = formats.read
) -> Checkpoint:
    """The checkpoint that a source means.

    `port` is as in `fetch.registry`, `output` and `body` are as in `formats.read`. Raises what these raise.
    """
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, Mapping):
        return live(source)
    if is_remote(source):
        return _of_hub(source, reader, output=output, body=body)
    return reader(_located(source, port), output=output, body=body)


def is_remote(source: str | PathLike[str]) -> bool:
    """Whether a source is a place on the Hub, and none here."""
    return str(source).startswith(("hf:/", "hf:\\"))


def _of_hub(source: str | PathLike[str], reader: Reader, *, output: str | None, body: bool) -> Checkpoint:
    """The checkpoint in a repository of the Hub, which says in `hub` where it comes from."""
    from densenet_port.fetch.hub import fetched  # noqa: PLC0415 (only such a place needs the network)

    here = fetched(source)
    checkpoint = reader(here.path, output=output, body=body)
    metadata = {**checkpoint.metadata, "hub": {"repo": here.place.repo, "revision": here.commit}}
    if here.note:
        metadata["notes"] = [*checkpoint.metadata.get("notes", ()), here.note]
    return replace(checkpoint, metadata=metadata)


def _located(source: str | PathLike[str], port: "Port") -> Path:
    """The file of a path, or of a registered name where no file is called so."""
    path = Path(source)
    if isinstance(source, str) and not path.exists():
        from densenet_port.fetch.registry import is_registered, named  # noqa: PLC0415 (only a name needs the cache)

        if is_registered(source):
            return named(source, port=port)
    return path
