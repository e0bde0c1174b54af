"""The record: a JSON object that densenet-port writes into a file beside the tensors, wherever a container keeps it.

    schema, tool          "densenet-port/file/1" and who wrote it
    layout                the layout of the tensors' names
    architecture          the numbers of the network (`Architecture.to_json`)
    contract              what must hold beside its weights (`Contract.to_json`)
    origins               entry of the contract → where it is known from
    source                layout, container and digest of the file that it was made from
    mappings              layout → digest of the table by which it was read or written
    absorbed              {"from", "to", "scale"}: epsilons, and the norms whose scale took up the change; or null
    tensors               name → digest of each tensor
    fold, kernels         what was worked out of several tensors, and how kernels are stored, where there is a choice

What stands there is checked when it is read, entries that are missing or unknown are let through.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any, get_args

from densenet_port.checkpoint import Checkpoint, array_digest
from densenet_port.errors import CorruptError, MisfitError
from densenet_port.formats.source import AGAIN
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import ENTRIES, Contract, Origin
from densenet_port.strict import Fields

RECORD = "densenet_port"
_TEXTS = ("schema", "tool", "layout", "fold", "kernels")


def parse_record(path: Path, text: str | bytes) -> dict[str, Any]:
    """The record in a file. Raises CorruptError for what densenet-port cannot have written."""
    where, refused = f"{path}: its record", partial(CorruptError, hint=AGAIN)
    try:
        record: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refused(f"{where} is unreadable: {error}") from error
    fields = Fields(where, record, refused)
    for key in _TEXTS & record.keys():
        fields.text(key)
    for key in {"mappings", "tensors"} & record.keys():
        fields.text_map(key)
    if "origins" in record:
        origins = fields.fields("origins")
        origins.check_keys(ENTRIES, optional=ENTRIES)
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

    Raises MisfitError for a file that records no digests.
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
    return wrong


def _check_absorbed(absorbed: Fields) -> None:
    """Refuse what is no absorption of an epsilon."""
    absorbed.number("from")
    absorbed.number("to")
    absorbed.values("scale", str)
