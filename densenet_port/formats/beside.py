"""What stands beside the weights: the configuration that timm and KerasHub write into a folder, read as facts.

How a software writes it is told by a table in `mappings/beside/`:

    software, containers  whose it is, and the containers of the weights that it speaks of
    weights, head         names of the weights in such a folder, the first that is there is taken; and of a head's own
    files                 what is read; a place such as `task.json:config.num_classes` is in another than the first
    mark, begins          a text that a file of this software has at its top, and what that begins with
    strict, harmless      an object whose every key must be known, and keys of it that change no function
    widths, scale         channels of the stem for each of the growth rate; what pixels are divided by
    writes                layouts that are written as such a folder
    [networks]            name of a network → numbers of its architecture (`arch` for a published one), and its pool
    [tells]               our word → the place, or the places of which the first that is there counts
    [usual]               place → the values that it may have
    [defaults], [words]   what the software takes where a word is missing; and its values in ours
    [written]             file → what is written into it: `{word}` stands for a word, or for another file's content; a
                          key whose word is not known is left out, and so is a file without the word that it `needs`

What is understood goes into the checkpoint's metadata as `beside`: the `file`, its `software`, the `name` that it gives
the network, `numbers` of the architecture as far as they are told, entries of the `contract`, `features` (channels of
the last map) and `names` (`stem` and `head` → the module, and the key that says so). Beside that `labels`, a name for
each class, and `pool` where nothing else tells it. A file of another software, or of nobody's, is said and not
believed.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from densenet_port.checkpoint import Checkpoint
from densenet_port.errors import CorruptError, DiskError, PortError, UsageError
from densenet_port.files import resource
from densenet_port.formats.bounds import parsed_json
from densenet_port.strict import Fields, quoted

CONFIG = "config.json"
ALONE = "correct it, or read the weights from a folder without it"
LIMIT = 2**24  # bytes; with names and descriptions of 22,000 classes such a file has 3 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a software writes what stands beside its weights; one table."""

    software: str
    containers: tuple[str, ...]
    weights: tuple[str, ...]
    head: str | None
    files: tuple[str, ...]
    mark: str
    begins: str
    strict: str
    harmless: tuple[str, ...]
    widths: int | None
    scale: float | None
    networks: Mapping[str, Mapping[str, Any]]
    tells: Mapping[str, tuple[str, ...]]
    usual: Mapping[str, tuple[Any, ...]]
    defaults: Mapping[str, Any]
    words: Mapping[str, Mapping[str, str]]
    writes: tuple[str, ...]
    written: Mapping[str, Mapping[str, Any]]

    @classmethod
    def load(cls, path: Path) -> "Form":
        """The form of a table. Raises UsageError for one that is none."""
        table = Fields(str(path), tomllib.loads(path.read_text("utf-8")), UsageError)
        optional = ("head", "begins", "widths", "scale", "usual", "defaults")
        table.check_keys([entry.name for entry in fields(cls)], optional=optional)
        content = table.content
        return cls(
            software=table.text("software"),
            containers=table.texts("containers"),
            weights=table.texts("weights"),
            head=content.get("head"),
            files=table.texts("files"),
            mark=table.text("mark"),
            begins=content.get("begins", ""),
            strict=table.text("strict"),
            harmless=table.texts("harmless"),
            widths=content.get("widths"),
            scale=content.get("scale"),
            networks=table.fields("networks").content,
            tells={word: table.fields("tells").texts(word) for word in content["tells"]},
            usual={place: tuple(values) for place, values in content.get("usual", {}).items()},
            defaults=content.get("defaults", {}),
            words=table.fields("words").content,
            writes=table.texts("writes"),
            written=table.fields("written").content,
        )


def forms() -> list[Form]:
    """Every form that there is a table of."""
    return [Form.load(path) for path in sorted((resource("mappings") / "beside").glob("*.toml"))]


def form_of(content: Mapping[str, Any]) -> Form | None:
    """The form of a configuration, by its mark; None for another software's."""
    for form in forms():
        mark = content.get(form.mark)
        if isinstance(mark, str) and mark.startswith(form.begins):
            return form
    return None


def attached(checkpoint: Checkpoint, *, belongs: bool) -> Checkpoint:
    """The checkpoint with what the configuration beside it says; as it is where there is none.

    `belongs` says that folder and names leave no doubt whose the configuration is: then one that is no JSON is an
    error, and else a note. Raises CorruptError, DiskError, and MisfitError for what no network of ours has.
    """
    path = checkpoint.path.parent / CONFIG
    if not path.is_file():
        return checkpoint
    try:
        content = document(path)
    except PortError as error:
        if belongs:
            raise
        return _noted(checkpoint, f"{error.message}: nothing is taken from it")
    form = form_of(content)
    if form is None:
        known = " nor ".join(form.software for form in forms())
        note = f"{path} is neither of {known}: nothing is taken from it, and what it says of pictures is not known"
        return _noted(checkpoint, note) if belongs else checkpoint
    if checkpoint.container not in form.containers:
        return checkpoint
    from densenet_port.formats.configuration import Reading  # noqa: PLC0415 (most files have none beside them)

    reading = Reading(form, path.parent, content, has_head=form.head is None or len(checkpoint.parts) > 1)
    facts = {"pool": reading.pool, **checkpoint.metadata, "beside": reading.facts()}
    if labels := reading.labels():
        facts["labels"] = labels
    noted = [*checkpoint.metadata.get("notes", ()), *reading.notes]
    return replace(checkpoint, metadata=facts | ({"notes": noted} if noted else {}))


def _noted(checkpoint: Checkpoint, note: str) -> Checkpoint:
    """The checkpoint with one more note."""
    notes = [*checkpoint.metadata.get("notes", ()), note]
    return replace(checkpoint, metadata={**checkpoint.metadata, "notes": notes})


def document(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises DiskError, and CorruptError for anything else."""
    try:
        with path.open("rb") as file:
            text = file.read(LIMIT + 1)
        content = parsed_json(f"{path}:", text) if len(text) <= LIMIT else None
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{path}: is no JSON: {error}", hint=ALONE) from error
    if not isinstance(content, dict):
        what = f"longer than {LIMIT} bytes" if content is None else quoted(content)
        raise CorruptError(f"{path}: expected an object, found {what}", hint=ALONE)
    return content
