"""A user's own module, imported by name in a process of its own: its model made, filled with weights, recorded.

    folder/words.json   what was asked for          folder/error.json   or else a PortError

This is the one place where code of the user's runs, and it is the code that the user names. The weights are not: torch
reads them with `weights_only=True`, or this project's reader does, and Keras loads them into the model that is there.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from densenet_port.conversion.load import read, table
from densenet_port.errors import DiskError, MisfitError, PortError, UsageError
from densenet_port.formats.live import name_of
from densenet_port.layouts.identify import first_few
from densenet_port.layouts.layout import Kernels
from densenet_port.network.contract import Input, Resize
from densenet_port.prove.images import BATCH
from densenet_port.prove.live import Model, explained, kind_of
from densenet_port.prove.recorder import record
from densenet_port.prove.recording import Recording
from densenet_port.prove.worker import LIMIT, environment, leave_error, raise_left, start

SHOWN = 5  # misfits named before "and n more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What `densenet-port record` was asked for; all but the first three as in `recorder.record`."""

    factory: str
    weights: str
    out: str
    src: str | None = None
    kernels: Kernels | None = None
    within: str | None = None
    sizes: tuple[int, ...] | None = None
    batch: int = BATCH
    images: str | None = None
    seed: int = 0


def record_factory(words: Words, *, contract: Mapping[str, Any] | None = None, limit: float = LIMIT) -> Recording:
    """Record what a factory makes, in a process of its own with `limit` seconds; what was recorded.

    Raises UsageError for a factory that cannot be called or fails, MisfitError for weights that do not fit its model,
    PortError for a process that dies, and what `record` raises.
    """
    module, colon, name = words.factory.partition(":")
    if not (module and colon and name):
        hint = "as package.module:factory, a class or a function that takes no arguments"
        raise UsageError(f"{words.factory!r} names no factory", hint=hint)
    network = read(words.weights, src=_path(words.src), kernels=words.kernels, within=words.within, contract=contract)
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")  # which alone computes in float64
    try:
        with TemporaryDirectory(prefix="densenet-port-") as name:
            folder = Path(name)
            here = {"weights": str(network.checkpoint.path)}  # of a folder, or of a place on the Hub
            plain = {**asdict(words), **here, "contract": _to_json(contract or {})}
            (folder / "words.json").write_text(json.dumps(plain), encoding="utf-8")
            start("densenet_port.prove.factory", [folder], words.factory, environment(backend), limit)
            raise_left(folder)
    except OSError as error:
        raise DiskError(f"nothing can be recorded in the temporary folder: {error}") from error
    return Recording.load(Path(words.out))


def _path(src: str | None) -> str | Path | None:
    """A layout's name, or the path of a table of the user's own."""
    return None if src is None else table(src)


def _to_json(contract: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a contract as plain JSON values."""
    return {key: value.to_json() if isinstance(value, Input | Resize) else value for key, value in contract.items()}


def _from_json(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that `_to_json` made plain."""
    kinds = {"input": Input.from_json, "resize": Resize.from_json}
    return {key: kinds[key](value) if key in kinds else value for key, value in plain.items()}


# -- in the process ----------------------------------------------------------------------------------------------------


def main() -> None:
    """Record what `words.json` asks for, in the folder that the command line names; an error is left there."""
    folder = Path(sys.argv[1])
    plain = json.loads((folder / "words.json").read_text(encoding="utf-8"))
    contract, sizes = _from_json(plain.pop("contract")), plain.pop("sizes")
    words = Words(**plain, sizes=None if sizes is None else tuple(sizes))
    sys.path.insert(0, str(Path.cwd()))
    try:
        model = _filled(_made(words.factory), Path(words.weights), words.within)
        record(
            model,
            words.out,
            source=words.weights,
            src=_path(words.src),
            kernels=words.kernels,
            within=words.within,
            contract=contract,
            sizes=words.sizes,
            batch=words.batch,
            images=words.images,
            seed=words.seed,
        )
    except PortError as error:
        leave_error(error, folder)


def _made(factory: str) -> Model:
    """What a factory makes. Raises UsageError where it is not there, or fails."""
    module_name, _, name = factory.partition(":")
    made: Any = None
    try:
        with explained(f"{module_name} cannot be imported"):
            made = import_module(module_name)
    except UsageError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            error.hint = f"is it in {Path.cwd()}, or installed?"
        raise
    for part in name.split("."):
        if not hasattr(made, part):
            public = [known for known in dir(made) if not known.startswith("_")]
            raise UsageError(f"{module_name} has no {name!r}", hint=f"it has {', '.join(first_few(public))}")
        made = getattr(made, part)
    with explained(f"{factory} fails"):
        return made()


def _filled(model: Model, weights: Path, within: str | None) -> Model:
    """The model with the weights of the file."""
    kind = kind_of(model)
    if kind == "callable":
        hint = "a factory makes a torch module or a Keras model; dp.record takes any callable, in Python"
        raise UsageError(f"{name_of(model)} takes no weights", hint=hint)
    return _keras_filled(model, weights) if kind == "keras" else _torch_filled(model, weights, within)


def _keras_filled(model: Model, weights: Path) -> Model:
    try:
        model.load_weights(weights)
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise MisfitError(f"{weights}: {name_of(model)} does not take it: {error}") from error
    return model


def _torch_filled(model: Model, weights: Path, within: str | None) -> Model:
    """A torch module with the file's tensors, strictly, as it lies below its names there."""
    from densenet_port.prove.runners.torch import file_tensors  # noqa: PLC0415 (torch alone needs it)

    tensors = {name: value for name, value in file_tensors(weights).items() if hasattr(value, "shape")}
    front = _front(model, tensors, within)
    state = {name.removeprefix(front): value for name, value in tensors.items() if name.startswith(front)}
    if misfits := [*_misfits(model.state_dict(), state)]:
        more = f"and {len(misfits) - SHOWN} more" if len(misfits) > SHOWN else ""
        lines = [f"{weights}: {name_of(model)} does not take it", *misfits[:SHOWN], *filter(None, [more])]
        raise MisfitError("\n  ".join(lines), hint="the factory makes the very class that the weights were saved from")
    model.load_state_dict(state, strict=True)
    return model


def _misfits(own: Mapping[str, Any], state: Mapping[str, Any]) -> Iterator[str]:
    """What a module has and a file has not, the other way round, and in which sizes they differ.

    A file of before torch 0.4.1 counts no batches, and torch does not miss that.
    """
    for name, value in own.items():
        if name not in state and not name.endswith("num_batches_tracked"):
            yield f"{name} is missing"
        elif name in state and state[name].shape != value.shape:
            yield f"{name}: expected {tuple(value.shape)}, found {tuple(state[name].shape)}"
    for name in state:
        if name not in own:
            yield f"{name} is none of its tensors"


def _front(model: Model, tensors: Mapping[str, Any], within: str | None) -> str:
    """What stands before the module's own names in a file: `state_dict.module.`. Raises UsageError for several."""
    own = [*model.state_dict()]
    first = own[0] if own else ""
    fronts = {name.removesuffix(first) for name in tensors if name.endswith(first)}
    fronts = {front for front in fronts if front.startswith(within or "") and (not front or front.endswith("."))}
    counts = {front: sum(front + name in tensors for name in own) for front in sorted(fronts)}
    most = max(counts.values(), default=0)
    best = [front for front, count in counts.items() if count == most]
    if len(best) > 1:
        names = ", ".join(front.rstrip(".") for front in best)
        raise UsageError(
            f"{name_of(model)} could be any of {names}", hint=f"choose one: --within {best[0].rstrip('.')}"
        )
    return best[0] if best else ""


if __name__ == "__main__":
    main()
