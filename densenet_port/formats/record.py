"""The record: a JSON object that densenet-port writes into a file beside the tensors, wherever a container keeps it.

    schema, tool          "densenet-port/file/3" and who wrote it; /2 has no `rest`, /1 no `sha256` either
    layout                the layout of the tensors' names
    architecture          the numbers of the network (`Architecture.to_json`)
    contract              what must hold beside its weights (`Contract.to_json`)
    origins               entry of the contract → where it is known from
    source                layout, container and digest of the file that it was made from
    mappings              layout → digest of the table by which it was read or written
    absorbed              {"from", "to", "scale"}: epsilons, and the norms whose scale took up the change; or null
    tensors               name → digest of each tensor
    labels                a name for each class, where they are known
    fold, kernels         what was worked out of several tensors, and how kernels are stored, where there is a choice
    companion             digest of the file that was written beside this one, where one is
    sha256                digest of all that stands above
    rest                  digest of the file's bytes that are no tensor's, with zeros for these digits

What stands there is checked when it is read, entries that are missing or unknown are let through; and so is every
tensor when it is loaded, against its digest. So no bit of a file is anything but what was written: it is a tensor's, or
the record's, or one of the rest, whoever reads it or nobody.

The digits of `rest` are put where the zeros are once all else is written. In a zip, where the members' checksums would
change with them, the record keeps its zeros, and the digits are the archive's comment, its last bytes. An archive that
someone packed anew has no comment, and what it holds has the members' checksums and the digests of the tensors.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from densenet_port.checkpoint import Array, Checkpoint, Extent, Tensor, array_digest
from densenet_port.errors import CorruptError, MisfitError
from densenet_port.files import sha256, sha256_of
from densenet_port.formats.bounds import parsed_json
from densenet_port.formats.source import AGAIN, Source
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import WORDS, Contract, Origin
from densenet_port.strict import Fields

RECORD = "densenet_port"
SCHEMA = "densenet-port/file/3"
SCHEMAS = ("densenet-port/file/1", "densenet-port/file/2", SCHEMA)
DIGEST, REST = "sha256", "rest"
UNKNOWN = "0" * 64  # a digest that is still to come, of the right length
CHANGED = "if it was changed on purpose, save it anew without the record, and convert that"
_HEX = re.compile("[0-9a-f]{64}")
_ZIP, _ZIP_END, _ZIP_END_SIZE = b"PK\x03\x04", b"PK\x05\x06", 22  # of an archive without a comment, how it ends
_ENDS = 2**20  # bytes at either end of a file in which a record begins; in the `.h5` of DenseNet-264 it is 546 kB
_TEXTS = ("schema", "tool", "layout", "fold", "kernels", "companion")


def parse_record(path: Path, text: str | bytes) -> dict[str, Any]:
    """The record in a file. Raises CorruptError for what densenet-port cannot have written."""
    where, refused = f"{path}: its record", partial(CorruptError, hint=AGAIN)
    try:
        record: dict[str, Any] = parsed_json(where, text)
    except (ValueError, RecursionError) as error:
        raise refused(f"{where} is unreadable: {error}") from error
    fields = Fields(where, record, refused)
    _check_digest(fields)
    for key in _TEXTS & record.keys():
        fields.text(key)
    readers = {"mappings": fields.text_map, "tensors": fields.text_map, "labels": fields.texts}
    for key in readers.keys() & record.keys():
        readers[key](key)
    if "origins" in record:
        origins = fields.fields("origins")
        origins.check_keys(WORDS, optional=WORDS)
        for key in origins.content:
            origins.one_of(key, get_args(Origin))
    if record.get("absorbed") is not None:
        _check_absorbed(fields.fields("absorbed"))
    try:
        for key, read in (("architecture", Architecture.from_json), ("contract", Contract.from_json)):
            if key in record:
                read(record[key])
    except MisfitError as error:
        raise refused(f"{where}: {error.message}") from error
    return record


def differing(checkpoint: Checkpoint) -> list[str]:
    """The tensors of a file that are not what its record says, a line each; each is read, and its digest compared.

    Raises MisfitError for a file that records no digests, CorruptError where only the rest of the file differs.
    """
    recorded = (checkpoint.record or {}).get("tensors")
    if not isinstance(recorded, dict):
        hint = "only files that densenet-port wrote can be verified"
        raise MisfitError(f"{checkpoint.path}: carries no digests", hint=hint)
    wrong = [f"{name} is not recorded" for name in checkpoint.tensors if name not in recorded]
    for name, digest in recorded.items():
        if name not in checkpoint.tensors:
            wrong.append(f"{name} is missing")
        elif (actual := array_digest(checkpoint.tensors[name].load())) != digest:
            wrong.append(f"{name}: recorded {digest[:12]}…, found {actual[:12]}…")
    if not wrong:
        _check_rest(checkpoint)
    return wrong


def record_digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record without its own digest and that of the rest, in hex, whatever the order of its keys."""
    content = {key: value for key, value in record.items() if key not in (DIGEST, REST)}
    return sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def seal(path: Path, extents: Iterable[Extent]) -> None:
    """Write the digest of the rest of a file where zeros stand for it, if any do; in the `extents` are its tensors."""
    source, zeros = Source.of_file(path), UNKNOWN.encode()
    *_, (start, length) = gaps = list(_gaps(extents, source.size))  # a record stands before the tensors, or behind them
    place = source.data(start, length).rfind(zeros)
    if place >= 0:
        digest = _rest_digest(source, gaps, zeros)
        with path.open("r+b") as file:
            file.seek(start + place)
            file.write(digest)


def believed(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, whose tensors are compared with their recorded digests whenever they are loaded.

    Raises CorruptError where other tensors are recorded than are there, or anything but a tensor is not as it was
    written, or a record is there that the file's own structure does not lead to; whoever loads a tensor that is not the
    one that was written meets it then.
    """
    if checkpoint.record is None:
        if checkpoint.path.is_file():
            _check_no_record(checkpoint.path)
        return checkpoint
    digests: Mapping[str, str] | None = checkpoint.record.get("tensors")
    if digests is None:
        return checkpoint
    if digests.keys() != checkpoint.tensors.keys():
        stray = min(digests.keys() ^ checkpoint.tensors.keys())
        detail = "is recorded and missing" if stray in digests else "is there and not recorded"
        raise CorruptError(f"{checkpoint.path}: {stray} {detail}", hint=f"{AGAIN}; {CHANGED}")
    _check_rest(checkpoint)
    tensors = {
        name: replace(tensor, load=partial(_held, checkpoint.path, name, tensor, digests[name]))
        for name, tensor in checkpoint.tensors.items()
    }
    return replace(checkpoint, tensors=tensors)


def _held(path: Path, name: str, tensor: Tensor, digest: str) -> Array:
    """A tensor that has the digest that is recorded. Raises CorruptError for any other."""
    array = tensor.load()
    if array_digest(array) != digest:
        hint = f"densenet-port verify lists all that differ; {AGAIN}; {CHANGED}"
        raise CorruptError(f"{path}: {name} is not the tensor that was written", hint=hint)
    return array


def _check_no_record(path: Path) -> None:
    """Raise CorruptError for a file that has a record where its own structure does not lead to it."""
    mark = f'"{SCHEMA.rpartition("/")[0]}/'.encode()
    with Source.of_file(path).mapped() as data:
        has_mark = data.find(mark, 0, _ENDS) >= 0 or data.find(mark, max(0, len(data) - _ENDS)) >= 0
    if has_mark:
        raise CorruptError(f"{path}: it has a record of densenet-port's, but where it should be is none", hint=AGAIN)


def _check_rest(checkpoint: Checkpoint) -> None:
    """Raise CorruptError for a file that is not as it was written, its tensors left aside."""
    record, path = checkpoint.record or {}, checkpoint.path
    if record.get("schema") != SCHEMA or checkpoint.parts:
        return
    source, digits = Source.of_file(path), record[REST].encode()
    if record[REST] == UNKNOWN:
        end = source.data(source.size - len(UNKNOWN), len(UNKNOWN))
        if source.data(0, len(_ZIP)) != _ZIP or end[-_ZIP_END_SIZE:].startswith(_ZIP_END):
            return  # a member that was taken out, or an archive that was packed anew
        digits = end
    extents = [tensor.extent for tensor in checkpoint.tensors.values() if tensor.extent]
    if _rest_digest(source, _gaps(extents, source.size), digits) != digits:
        raise CorruptError(f"{path}: is not as it was written, its tensors left aside", hint=f"{AGAIN}; {CHANGED}")


def _gaps(extents: Iterable[Extent], size: int) -> Iterator[Extent]:
    """The parts of a file of `size` bytes that lie in none of the extents."""
    at = 0
    for start, length in sorted(extents):
        if start > at:
            yield at, start - at
        at = max(at, start + length)
    if at < size:
        yield at, size - at


def _rest_digest(source: Source, gaps: Iterable[Extent], digits: bytes) -> bytes:
    """SHA-256 of the parts of a file, with zeros for its own digits, in hex."""
    return sha256_of(source.data(*gap).replace(digits, UNKNOWN.encode()) for gap in gaps).encode()


def _check_digest(record: Fields) -> None:
    """Refuse a record that has not its own digest, or none for the rest; one that never had a schema has none."""
    digests = record.content.keys() & {DIGEST, REST}
    if "schema" not in record.content and not digests:
        return
    schema = record.one_of("schema", SCHEMAS)  # a bit of it may be another's
    if digests if schema == SCHEMAS[0] else record.text(DIGEST) != record_digest(record.content):
        raise CorruptError(f"{record.document} is not the one that was written", hint=AGAIN)
    if schema == SCHEMA and not _HEX.fullmatch(record.text(REST)):
        raise CorruptError(f"{record.document}: {REST}: expected 64 hex digits", hint=AGAIN)


def _check_absorbed(absorbed: Fields) -> None:
    """Refuse what is no absorption of an epsilon."""
    absorbed.number("from")
    absorbed.number("to")
    absorbed.values("scale", str)
