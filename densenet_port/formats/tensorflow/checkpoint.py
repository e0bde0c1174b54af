"""TensorFlow checkpoints: a tensor bundle (see `bundle`), by whichever of its files somebody names it.

    <prefix>.index, <prefix>.data-0000k-of-0000n     the bundle
    checkpoint                                       a text, `model_checkpoint_path: "<prefix>"` and older ones

A checkpoint may be named by its prefix, as TensorFlow does, by one of its files, or by the folder, which means the one
that the text `checkpoint` names, or the only one. Where the folder was moved, the named file is looked for in it.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from densenet_port.checkpoint import Checkpoint
from densenet_port.errors import CorruptError, DiskError, MisfitError
from densenet_port.formats.source import Source, guarded
from densenet_port.formats.tensorflow.bundle import CONTAINER, INDEX, Bundle
from densenet_port.formats.tensorflow.bundle import read as read_bundle
from densenet_port.formats.tensorflow.objects import GRAPH, Name, by_names, by_objects
from densenet_port.formats.tensorflow.table import is_table

STATE = "checkpoint"
_BEGINS = b"model_checkpoint_path:"
_STATE_LIMIT = 1 << 20  # bytes
_DATA = re.compile(r"\.data-\d{5}-of-\d{5}$")


def sniff(path: Path, head: bytes) -> bool:
    """Whether a file is the index of a checkpoint, its data, or the list of those in its folder."""
    if head.startswith(_BEGINS) or (_DATA.search(path.name) and _index(path).is_file()):
        return True
    return is_table(Source.of_file(path))


def takes(path: Path) -> bool:
    """Whether a path that is no file names a checkpoint: by its prefix, or by its folder."""
    if path.is_dir():
        return _begins(path / STATE) or bool(_indices(path))
    return _index(path).is_file()


def read(path: Path) -> Checkpoint:
    """The checkpoint that a path names.

    Raises DiskError for a file that cannot be read, CorruptError for one that is broken, or lacks a part, MisfitError
    for what is not read.
    """
    index = _located(path)
    with guarded(index, CONTAINER):
        bundle = read_bundle(index)
        return checkpoint_of(bundle, index, names_of(bundle))


def names_of(bundle: Bundle) -> dict[str, Name]:
    """Key → name of each tensor of numbers."""
    keys = bundle.tensors()
    if GRAPH not in bundle.entries:
        return by_names(keys)
    return by_objects(bundle.index, bundle.text(GRAPH), {key: bundle.content(key) for key in keys})


def checkpoint_of(bundle: Bundle, path: Path, names: Mapping[str, Name]) -> Checkpoint:
    """The checkpoint in a bundle; `path` is what messages call it."""
    tensors, others = bundle.tensors(), bundle.others()
    if not tensors:
        raise CorruptError(f"{path}: a TensorFlow checkpoint without tensors")
    is_graph = others.pop(GRAPH, None) is not None
    return Checkpoint(
        path=path,
        container="tensorflow",
        tensors={
            name: replace(tensors[key], identity=(own, bundle.content(key)) if own else None)
            for key, (name, own) in names.items()
        },
        metadata={"form": "objects" if is_graph else "names", "kernels": "tensorflow"}
        | ({"opaque": others} if others else {}),
        parts=bundle.files,
    )


# -- where it is -------------------------------------------------------------------------------------------------------


def _located(path: Path) -> Path:
    """The index of the checkpoint that a path names."""
    if path.is_dir():
        return _named(path / STATE) if _begins(path / STATE) else _only(path)
    if path.is_file() and _begins(path):
        return _named(path)
    return path if path.name.endswith(INDEX) and path.is_file() else _index(path)


def _index(path: Path) -> Path:
    """The index of a prefix, or beside a file of data."""
    return path.with_name(_DATA.sub("", path.name) + INDEX)


def _indices(folder: Path) -> list[Path]:
    """The indices in a folder."""
    return sorted(folder.glob(f"*{INDEX}"))


def _only(folder: Path) -> Path:
    """The only index of a folder. Raises MisfitError where there are several, DiskError where there is none."""
    indices = _indices(folder)
    if not indices:
        raise DiskError(f"{folder}: cannot be read: no TensorFlow checkpoint is in it")
    if len(indices) > 1:
        hint = f"give one of them: {', '.join(map(str, indices))}"
        raise MisfitError(f"{folder}: a folder of {len(indices)} TensorFlow checkpoints", hint=hint)
    return indices[0]


def _begins(path: Path) -> bool:
    """Whether a file is a list of checkpoints."""
    if not path.is_file():
        return False
    source = Source.of_file(path)
    return source.data(0, min(len(_BEGINS), source.size)) == _BEGINS


def _named(state: Path) -> Path:
    """The index that a list names as the last. Raises CorruptError where it is not there."""
    source = Source.of_file(state)
    text = source.data(0, min(source.size, _STATE_LIMIT)).decode("utf-8", "replace")
    named = re.search(r'model_checkpoint_path:\s*"((?:[^"\\\n]|\\.)*)"', text)
    prefix = Path(re.sub(r"\\(.)", r"\1", named[1])) if named else Path()
    for place in (state.parent / prefix, state.parent / prefix.name):
        if named and (index := place.with_name(place.name + INDEX)).is_file():
            return index
    indices = ", ".join(map(str, _indices(state.parent)))
    raise CorruptError(
        f"{state}: names the checkpoint {str(prefix)!r}, which is not there",
        hint=f"give one that is: {indices}" if indices else "copy the files of the checkpoint to where the list is",
    )
