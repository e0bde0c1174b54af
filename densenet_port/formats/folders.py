"""A folder that holds a checkpoint, as the Hub's libraries write it; and a checkpoint in several files, a shard each.

- The weights are the first that is there of `WEIGHTS`, or of those that the software of its `config.json` has
  (`beside`). A preset of KerasHub's has the weights of its head in a file of their own.
- An index of shards is a JSON object whose `weight_map` gives, for each tensor's name, the file beside it that it is
  in. The index and the shards must say the same: a shard that is missing or elsewhere, a tensor that is in another
  shard, or in none, or in one and not in the index, are errors. The order is that of the shards' names.

The checkpoint's path is the index, or the file of the weights; its `parts` are all that hold tensors.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from densenet_port.checkpoint import Checkpoint, Tensor
from densenet_port.errors import CorruptError, DiskError, PortError
from densenet_port.formats import foreign
from densenet_port.formats.beside import CONFIG, attached, document, form_of, forms
from densenet_port.strict import Fields

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
INDEX = ".index.json"
AGAIN = "fetch or copy the whole folder again"

Read = Callable[[Path], Checkpoint]  # of one file, whatever stands beside it


def read(folder: Path, read_file: Read) -> Checkpoint:
    """The checkpoint in a folder, with what its configuration says. Raises MisfitError for a folder of another kind."""
    try:
        names = [entry.name for entry in folder.iterdir() if entry.is_file()]
    except OSError as error:
        raise DiskError(f"{folder}: cannot be read: {error.strerror}", hint="is the path right?") from error
    weights = weights_in(folder, names)
    if not weights:
        raise foreign.folder_refusal(folder)
    checkpoint = read_file(folder / weights[0])
    for name in weights[1:]:
        checkpoint = _joined(checkpoint, read_file(folder / name))
    return attached(checkpoint, belongs=True)


def weights_in(folder: Path, names: Iterable[str]) -> list[str]:
    """The files of the weights among a folder's: the first, or the index, and behind it a head's own; perhaps none.

    Of `config.json` it is read whose the folder is; where it tells nothing, the names tell.
    """
    names = set(names)
    form = None
    if CONFIG in names:
        try:
            form = form_of(document(folder / CONFIG))
        except PortError:  # whoever reads the weights says so
            form = None
    if form is None:
        indexes = [name for name in names if name.endswith(INDEX)]
        usual = [name for name in WEIGHTS if name in names][:1]
        return usual or (indexes if len(indexes) == 1 else [])
    first = [name for name in form.weights if name in names][:1]
    return [*first, *([form.head] if first and form.head in names and form.head else [])]


def wanted(names: Iterable[str]) -> list[str]:
    """What is needed of a folder that is elsewhere, by the names in it alone: weights, and all that is read beside."""
    names, choices = set(names), [(WEIGHTS, None), *((form.weights, form.head) for form in forms())]
    for weights, head in choices:
        if first := [name for name in weights if name in names][:1]:
            return [*first, *([head] if head in names and head else []), *beside(names)]
    return []


def beside(names: Iterable[str]) -> list[str]:
    """The files among a folder's that may say something of the weights beside them."""
    names = set(names)
    return [name for name in dict.fromkeys(name for form in forms() for name in form.files) if name in names]


def _joined(first: Checkpoint, second: Checkpoint) -> Checkpoint:
    """Two files as one checkpoint, of which the first says what it is. Raises CorruptError for a name in both."""
    if twice := first.tensors.keys() & second.tensors.keys():
        raise CorruptError(f"{second.path}: {min(twice)} is in {first.path.name}, too", hint=AGAIN)
    record = first.record
    if record and second.record:
        record = {**record, "tensors": {**record.get("tensors", {}), **second.record.get("tensors", {})}}
    files = (*(first.parts or (first.path,)), second.path)
    return replace(first, tensors={**first.tensors, **second.tensors}, record=record, parts=files)


# -- shards ------------------------------------------------------------------------------------------------------------


def sniff(head: bytes) -> bool:
    """Whether a file begins as an index of shards does."""
    return head.lstrip().startswith(b"{") and b'"weight_map"' in head


def shards(path: Path) -> dict[str, str]:
    """Tensor's name → the shard that has it, by an index. Raises CorruptError for what is none, or leads elsewhere."""
    fields = Fields(str(path), document(path), CorruptError)
    places = fields.text_map("weight_map")
    for name in dict.fromkeys(places.values()):
        plain = PurePosixPath(name)
        if plain.is_absolute() or ".." in plain.parts or "\\" in name or ":" in name or not plain.parts:
            raise CorruptError(f"{path}: the shard {name!r} is not in the index's folder", hint="trust no such file")
    if not places:
        raise CorruptError(f"{path}: lists no tensors", hint=AGAIN)
    return places


def read_index(path: Path, read_file: Read) -> Checkpoint:
    """The checkpoint in the shards of an index. Raises CorruptError where they do not say the same."""
    places = shards(path)
    names = sorted(set(places.values()))
    if missing := [name for name in names if not (path.parent / name).is_file()]:
        what = f"{len(missing)} of {len(names)} shards are missing"
        raise CorruptError(f"{path}: {what}: {', '.join(missing)}", hint=AGAIN)
    parts = {name: read_file(path.parent / name) for name in names}
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        _check(path, name, part.tensors, places)
        tensors |= part.tensors
    first = parts[names[0]]
    metadata: Mapping[str, Any] = {key: first.metadata[key] for key in ("form",) if key in first.metadata}
    files = tuple(path.parent / name for name in names)
    return Checkpoint(path=path, container=first.container, tensors=tensors, metadata=metadata, parts=files)


def _check(path: Path, shard: str, tensors: Mapping[str, Tensor], places: Mapping[str, str]) -> None:
    """Refuse a shard that has other tensors than the index says."""
    for name in tensors:
        if places.get(name) != shard:
            said = f"the index says {places[name]}" if name in places else "the index does not have it"
            raise CorruptError(f"{path}: {name} is in {shard}, {said}", hint=AGAIN)
    if lacking := [name for name, place in places.items() if place == shard and name not in tensors]:
        raise CorruptError(f"{path}: {shard} lacks {lacking[0]}, which the index says is in it", hint=AGAIN)
