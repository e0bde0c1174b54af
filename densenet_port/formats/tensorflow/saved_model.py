"""SavedModel folders, as `tf.saved_model.save`, Keras 3's `model.export` and tf.keras's `model.save` write them.

    saved_model.pb               the program (see `program`)
    variables/variables.index    a tensor bundle (see `bundle`), with variables/variables.data-0000k-of-0000n
    keras_metadata.pb, fingerprint.pb, assets/, assets.extra/    not read

The tensors are those of the bundle, and the graph is that of the program (see `graph`), which knows epsilon, padding,
pools and the head's activation whatever class or language made it. Where it is not followed, the reason is said, and
the weights are all that is read. Nothing of the program runs. Keras 3's export saves each variable twice.
"""

from dataclasses import replace
from pathlib import Path

from densenet_port.checkpoint import Checkpoint
from densenet_port.errors import MisfitError
from densenet_port.formats.source import Source, guarded
from densenet_port.formats.tensorflow.bundle import read as read_bundle
from densenet_port.formats.tensorflow.checkpoint import checkpoint_of, names_of
from densenet_port.formats.tensorflow.graph import NotFollowedError, graph_of
from densenet_port.formats.tensorflow.program import Program

PROGRAM = "saved_model.pb"
VARIABLES = Path("variables", "variables.index")
_BESIDE = ("keras_metadata.pb", "fingerprint.pb")


def sniff(path: Path, _head: bytes) -> bool:
    """Whether a file is one of the top of a SavedModel, by its name and what stands beside it."""
    return path.name in (PROGRAM, *_BESIDE) and path.with_name(PROGRAM).is_file() and _folder(path).is_dir()


def takes(path: Path) -> bool:
    """Whether a folder is a SavedModel."""
    return (path / PROGRAM).is_file()


def read(path: Path) -> Checkpoint:
    """The checkpoint in a SavedModel.

    Raises DiskError for a file that cannot be read, CorruptError for one that is broken, MisfitError for a SavedModel
    without variables.
    """
    folder = path if path.is_dir() else path.parent
    Source.of_file(folder / PROGRAM)  # which is what makes it one
    if not (folder / VARIABLES).is_file():
        raise MisfitError(
            f"{folder}: a SavedModel without variables: its weights are constants of its program, or were left behind",
            hint=f"copy the whole folder; or `python -m tf2onnx.convert --saved-model {folder} --output {folder}.onnx`",
        )
    with guarded(folder / VARIABLES, "SavedModel"):
        bundle = read_bundle(folder / VARIABLES)
        names = names_of(bundle)
        checkpoint = checkpoint_of(bundle, folder, names)
    program = folder / PROGRAM
    parts = (program, *checkpoint.parts)
    with guarded(program, "SavedModel"):
        try:
            words = {key: name.own or name.name for key, name in names.items()}
            graph = graph_of(Program(program), checkpoint.tensors, words)
        except NotFollowedError as error:
            metadata = {**checkpoint.metadata, "notes": (f"its program is not followed: {error}",)}
            return replace(checkpoint, container="saved-model", metadata=metadata, parts=parts)
    return replace(checkpoint, container="saved-model", graph=lambda: graph, parts=parts)


def _folder(path: Path) -> Path:
    """The folder of the variables beside a file."""
    return (path.parent / VARIABLES).parent
