"""Files and folders that hold no checkpoint for densenet-port, each called by its name, with the next step.

What the kinds are called and what leads on from them stands in `mappings/foreign/files.toml`; here is how they are
told: by content, where that says it, and else by name. Nothing is looked at but the first 4 KiB, the directory of a
zip, the fields of a protobuf, and short JSON:

    SavedModel    1 saved_model_schema_version, 2 meta_graphs, and nothing else
    GraphDef      1 node (NodeDef: 1 name, 2 op), 2 library, 3 version, 4 versions
    Core ML       1 specificationVersion, 2 description, one of 200 and above for the network
    ProgramDesc   of Paddle: 1 blocks (BlockDesc: 1 idx, 2 parent_idx, both varints)
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import NamedTuple
from zlib import decompressobj
from zlib import error as ZlibError  # noqa: N812 (an exception's name)

from densenet_port.errors import CorruptError, DiskError, MisfitError, PortError, UsageError
from densenet_port.files import resource
from densenet_port.formats import npz
from densenet_port.formats import zip as zip_archive
from densenet_port.formats.protobuf import LEN, VARINT, Field, Message
from densenet_port.formats.source import Source, guarded
from densenet_port.strict import Fields

HEAD = 4096  # bytes that tell a file
SAVED_MODEL = "saved_model.pb"
TABLE = Path("foreign", "files.toml")
SHOWN = 3  # names listed before "and n more"
_FIELDS = 64  # of a protobuf that are looked at
_ATTACHED = 200  # the first number of a network in a model of Core ML
_ENDINGS = (  # of files that may be checkpoints
    *(".safetensors", ".pth", ".pt", ".pth.tar", ".bin", ".ckpt", ".pkl", ".npz"),
    *(".keras", ".h5", ".hdf5", ".onnx", ".caffemodel"),
)
_ANYBODYS = ".bin"  # an ending that other frameworks' files have too
_MARKS = {  # kind of a folder → patterns for names that it has, each of them
    "torch-unzipped": ["data.pkl", "data"],
    "keras-unzipped": ["config.json", "metadata.json", "model.weights.h5"],
    "torch-distributed": [".metadata", "*.distcp"],
    "orbax": ["_METADATA", "manifest.ocdbt"],
    "core-ml-package": ["Manifest.json", "Data"],
}
_PARTS = ("model.json", "*.pdiparams", "*-symbol.json", "*.xml")  # a file by which a folder is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a file is, the next step, and how it is told; `corrupt` for what is no checkpoint of anybody's."""

    what: str
    hint: str
    at: int = 0
    begins: tuple[bytes, ...] = ()
    names: tuple[str, ...] = ()
    corrupt: bool = False

    def refusal(self, path: Path, subject: "Subject | None" = None) -> PortError:
        """The error for a file or folder of this kind; `subject` is what its words speak of, where not of itself."""
        words = (subject or Subject(path)).words()
        error = CorruptError if self.corrupt else MisfitError
        return error(f"{path}: {_filled(self.what, words)}", hint=_filled(self.hint, words))


class Subject(NamedTuple):
    """What the words of a kind speak of: a path, what it holds, and whatever else a kind has words for."""

    path: Path
    inside: Sequence[str] = ()
    more: Mapping[str, str] = {}

    def words(self) -> dict[str, str]:
        """Place in a text → what stands there."""
        whole = self.path if self.path.name else self.path.resolve()
        stem = str(whole.with_suffix("")) if whole.suffix else f"{whole}{'' if whole.is_dir() else '.out'}"
        rest = [f"and {len(self.inside) - SHOWN} more"] if len(self.inside) > SHOWN else []
        return {
            "file": quote(str(self.path)),
            "path": repr(str(self.path)),
            "stem": quote(stem),
            "new": stem,
            "inside": ", ".join([*self.inside[:SHOWN], *rest]),
            **self.more,
        }


def _filled(text: str, words: Mapping[str, str]) -> str:
    """A text with its words; any other brace is Python's."""
    return re.sub(r"\{(\w+)\}", lambda place: words.get(place[1], place[0]), text)


def kinds() -> dict[str, Kind]:
    """Every kind, by its name in the table. Raises UsageError for a table that is none."""
    path = resource("mappings") / TABLE
    table = Fields(str(path), tomllib.loads(path.read_text("utf-8")), UsageError)
    return {name: _kind(table.fields(name)) for name in table.content}


def _kind(entry: Fields) -> Kind:
    """One kind of the table."""
    optional = {"at": int, "corrupt": bool}
    entry.check_keys(["what", "hint", "begins", "names", *optional], optional=["begins", "names", *optional])
    return Kind(
        what=entry.text("what"),
        hint=entry.text("hint"),
        begins=tuple(text.encode("latin-1") for text in entry.texts("begins")) if "begins" in entry.content else (),
        names=entry.texts("names") if "names" in entry.content else (),
        **{key: entry.value(key, kind) for key, kind in optional.items() if key in entry.content},
    )


# -- files -------------------------------------------------------------------------------------------------------------


def refusal(path: Path, head: bytes, known: str) -> PortError:
    """The error for a file that no reader takes; `head` is its first 4 KiB, `known` the hint for what is unknown."""
    table = kinds()
    try:
        with guarded(path, "file"):
            kind, subject = _structure(path, head)
    except PortError as error:
        return error
    if kind:
        return table[kind].refusal(path, subject)
    if named := _signed(table, head) or _named(table, path):
        return named.refusal(path)
    if _is_text(head):
        return _text(table, path, head)
    return CorruptError(f"{path}: not a checkpoint that densenet-port reads", hint=known)


def _signed(table: Mapping[str, Kind], head: bytes) -> Kind | None:
    """The kind that begins as a file does."""
    lower = head.lower().lstrip()
    starts = ((kind, start.lower()) for kind in table.values() for start in kind.begins)
    return next((kind for kind, start in starts if lower.startswith(start, kind.at)), None)


def _named(table: Mapping[str, Kind], path: Path) -> Kind | None:
    """The kind whose files have such names."""
    name = path.name.lower()
    return next((kind for kind in table.values() if any(fnmatchcase(name, pattern) for pattern in kind.names)), None)


def _structure(path: Path, head: bytes) -> tuple[str | None, Subject]:
    """The kind that a file is by its structure, and what its words speak of."""
    if zip_archive.first_name(head):
        return _zip(path)
    if kind := _python_or_packed(head):
        return kind, Subject(path)
    if path.suffix == ".bin" and path.with_suffix(".xml").is_file():
        return "openvino", Subject(path)
    kind = _protobuf(path)
    return kind, Subject(path, more=_ends(path) if kind == "frozen-graph" else {})


def _python_or_packed(head: bytes) -> str | None:
    """The kind of an empty file, and of those that Python's libraries and gzip write."""
    if not head:
        return "empty"
    if head.startswith(npz.MAGIC):
        return "numpy-pickle" if b"|O" in head[:128] else "numpy-array"
    if head.startswith(b"\x1f\x8b"):
        return "gzip-tar" if _inflated(head, 31)[257:262] == b"ustar" else "gzip"
    joblib = _inflated(head, 15).startswith(b"\x80") or (head.startswith(b"\x80") and b"joblib" in head)
    return "joblib" if joblib else None


def _inflated(head: bytes, window: int) -> bytes:
    """What the beginning of a packed file unpacks to; nothing for what is none."""
    try:
        return decompressobj(window).decompress(head, 512)
    except ZlibError:
        return b""


def _zip(path: Path) -> tuple[str, Subject]:
    """The kind of a zip, and the checkpoints in it, or else whatever is."""
    names = list(zip_archive.members(Source.of_file(path)))
    if any(Path(name).name == SAVED_MODEL for name in names):
        return "zip-saved-model", Subject(path)
    if any("com.apple.CoreML" in name for name in names):
        return "core-ml-package", Subject(path)
    return "zip", Subject(path, [name for name in names if may_hold(name)] or names or ["nothing"])


def may_hold(name: str) -> bool:
    """Whether a file of this name may be a checkpoint."""
    return name.lower().endswith(_ENDINGS)


# -- protobuf ----------------------------------------------------------------------------------------------------------


def _protobuf(path: Path) -> str | None:
    """The kind of a protobuf; None for what is none, or another's."""
    try:
        fields = list(islice(Message.of(Source.of_file(path)), _FIELDS))
        numbers = {(field.number, field.wire) for field in fields}
        if fields and fields[0].number == 1 and fields[0].wire == VARINT:
            return _versioned({number for number, _ in numbers})
        if (1, LEN) in numbers and numbers <= {(1, LEN), (2, LEN), (3, VARINT), (4, LEN), (5, LEN)}:
            return _graph(fields[0])
    except PortError:
        return None
    return None


def _versioned(numbers: set[int]) -> str | None:
    """The kind of a message that begins with a version."""
    if numbers == {1, 2}:
        return "saved-model"
    return "core-ml" if max(numbers) >= _ATTACHED else None


def _graph(first: Field) -> str | None:
    """The kind of a message that begins with a part of a graph."""
    inner = [(field.number, field.wire) for field in islice(first.message(), 2)]
    if inner == [(1, VARINT), (2, VARINT)]:
        return "paddle"
    if inner != [(1, LEN), (2, LEN)]:
        return None
    name, operation = (field.data() for field in islice(first.message(), 2))
    is_node = name.isascii() and operation.isalnum()  # a meta graph begins with a version and a list
    return "frozen-graph" if is_node else None


def _ends(path: Path) -> dict[str, str]:
    """The inputs and outputs of a graph, as words: what is a placeholder, and what nothing takes in."""
    placeholders, names, taken = [], [], set[str]()
    for node in (field.message().by_number() for field in Message.of(Source.of_file(path)) if field.number == 1):
        name, operation = (node[number][-1].text() for number in (1, 2))
        names.append(name)
        if operation == "Placeholder":
            placeholders.append(name)
        taken.update(field.text().lstrip("^").partition(":")[0] for field in node.get(3, []))
    outputs = [name for name in names if name not in taken]
    return {
        key: ",".join(f"{name}:0" for name in ends) for key, ends in (("inputs", placeholders), ("outputs", outputs))
    }


# -- text --------------------------------------------------------------------------------------------------------------


def _is_text(head: bytes) -> bool:
    """Whether a file begins as a text does; a character may be cut in two at the end."""
    text = head.decode("utf-8", "ignore")
    return len(text.encode()) > len(head) - 4 and not re.search(r"[\x00-\x08\x0e-\x1f]", text)


def _text(table: Mapping[str, Kind], path: Path, head: bytes) -> PortError:
    """The error for a text."""
    if head.lstrip().startswith((b"{", b"[")):
        return _json(table, path, head)
    if re.match(rb"\s*(<\?xml[^>]*>\s*)?<net[ >]", head):
        return table["openvino"].refusal(path)
    if re.search(rb"^(backend|class_name): ", head, re.MULTILINE):
        return table["keras-architecture"].refusal(path)
    if path.suffix == ".prototxt" or re.search(rb"^(layers?|input_param) *\{", head, re.MULTILINE):
        return table["prototxt"].refusal(path)
    return table["text"].refusal(path)


def _json(table: Mapping[str, Kind], path: Path, head: bytes) -> PortError:
    """The error for a JSON text, told by the keys that it begins with."""
    if b'"modelTopology"' in head or b'"weightsManifest"' in head:
        layers = b'"layers-model"' in head or b'"model_config"' in head or b'"class_name"' in head
        return table["tensorflow-js-layers" if layers else "tensorflow-js-graph"].refusal(path)
    if b'"nodes"' in head and b'"op"' in head:
        return table["mxnet-symbol"].refusal(path)
    return table["keras-architecture" if b'"class_name"' in head else "json"].refusal(path)


# -- folders -----------------------------------------------------------------------------------------------------------


def folder_refusal(path: Path) -> PortError:
    """The error for a folder."""
    table = kinds()
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        return DiskError(f"{path}: cannot be read: {error.strerror}", hint="is the path right?")
    for kind, marks in _MARKS.items():
        if all(any(fnmatchcase(name, mark) for name in names) for mark in marks):
            return table[kind].refusal(path)
    checkpoints = [str(path / name) for name in names if may_hold(name)]
    parts = [path / name for pattern in _PARTS for name in names if fnmatchcase(name, pattern)]
    if parts and all(name.endswith(_ANYBODYS) for name in checkpoints):
        return refusal(parts[0], _head(parts[0]), "")
    kind = "folder-of-none" if not checkpoints else "folder-of-one" if len(checkpoints) == 1 else "folder-of-some"
    return table[kind].refusal(path, Subject(path, checkpoints))


def _head(path: Path) -> bytes:
    """The first bytes of a file."""
    source = Source.of_file(path)
    return source.data(0, min(source.size, HEAD))
