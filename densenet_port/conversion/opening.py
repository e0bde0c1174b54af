"""What a user may name as a source, opened as a checkpoint.

A file, a folder, a registered name, a place on the Hugging Face Hub, an object in memory, or a checkpoint that is open.
"""

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from densenet_port import formats
from densenet_port.checkpoint import Checkpoint
from densenet_port.errors import UsageError

if TYPE_CHECKING:
    from densenet_port.fetch.converted import Port


class TorchModule(Protocol):
    """A `torch.nn.Module`, as far as a type can say so without torch."""

    training: bool

    def state_dict(self) -> Any:
        """Its tensors by name."""

    def named_modules(self) -> Any:
        """Its parts by name."""


class KerasModel(Protocol):
    """A `keras.Model`, as far as a type can say so without Keras."""

    @property
    def layers(self) -> Any:
        """Its layers."""

    def get_config(self) -> Any:
        """Its configuration."""


Object = Mapping[str, Any] | TorchModule | KerasModel
Opens = str | PathLike[str] | Checkpoint | Object


class Reader(Protocol):
    """What reads a file: `formats.read`, or `formats.as_it_is`."""

    def __call__(self, path: Path, *, output: str | None = None, body: bool = False) -> Checkpoint:
        """The checkpoint in a file or folder."""


def opened(
    source: Opens, *, port: "Port", output: str | None = None, body: bool = False, reader: Reader = formats.read
) -> Checkpoint:
    """The checkpoint that a source means.

    `port` is as in `fetch.registry`, `output` and `body` are as in `formats.read`. Raises what these raise for a file,
    and for an object what `formats.live.live` raises; UsageError for anything else.
    """
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, str | PathLike):
        if is_remote(source):
            return _of_hub(source, reader, output=output, body=body)
        return reader(_located(source, port), output=output, body=body)
    from densenet_port.formats.live import live  # noqa: PLC0415 (files need none of it)

    if (held := live(source)) is None:
        hint = "give a path, a registered name, a state dict (name → array), a torch module or a Keras model"
        raise UsageError(f"an object of the class {type(source).__name__} cannot be read", hint=hint)
    if output is not None:
        raise UsageError(f"{held.checkpoint.path}: has no output {output!r}", hint=formats.NO_OUTPUTS)
    return held.checkpoint


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
