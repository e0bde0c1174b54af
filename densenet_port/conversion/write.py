"""Ours → theirs: a gathered checkpoint in another layout, written, verified and compared.

Everything is decided and checked before a byte is written; tensors are read, turned and written one at a time.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np

from densenet_port import __version__, formats
from densenet_port.checkpoint import Array, Checkpoint, Tensor, array_digest
from densenet_port.conversion.load import Network, read
from densenet_port.errors import ComparisonError, DiskError, MisfitError, UsageError
from densenet_port.files import file_digest
from densenet_port.layouts.identify import first_few
from densenet_port.layouts.layout import Kernels, Layout, Ordering, TensorKey, TensorSpec, ours_axes, written
from densenet_port.layouts.transform import absorb, absorb_in_scale, absorb_in_variance, move
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.units import HEAD, Slot

SCHEMA = "densenet-port/file/1"
UNKNOWN = "0" * 64  # a digest that is still to come, of the right length
SMALL = 1 << 15  # bytes that are hashed sooner than handed over
BEHIND = 16  # tensors that may wait to be hashed, which bounds the memory they hold


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What a conversion did, or with `out` None would do.

    `tensors` are the target's, in order; `record` is what the file says of itself; `notes` what its owner should
    know.
    """

    source: Network
    target: Layout
    contract: Contract
    rules: Mapping[TensorKey, TensorSpec]
    tensors: Mapping[str, Tensor]
    absorbed: Mapping[str, Any] | None
    out: Path | None
    record: Mapping[str, Any]
    notes: tuple[str, ...]


# -- writing -----------------------------------------------------------------------------------------------------------


def convert(
    path: Path,
    *,
    out: Path | None,
    src: str | Path | None = None,
    arch: Architecture | None = None,
    dst: str | Path = "keras",
    kernels: Kernels | None = None,
    within: str | None = None,
    dst_kernels: Kernels | None = None,
    dim_ordering: Ordering | None = None,
    no_top: bool = False,
    dtype: str = "float32",
    force: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Conversion:
    """Convert a checkpoint to another layout and write it to `out`; without `out` only say what would be done.

    `dst` is a layout's name or a table of the user's own, `dtype` the floating type to write. `kernels` and `within`
    are as in `read`; `dst_kernels` and `dim_ordering` ("th": out channels first, "tf": out channels last) say how to
    write them where the target has several ways. `progress` is told after each tensor. An existing `out` stays unless
    `force`, and on any failure. Raises the errors of `read`, UsageError for a container that the target does not come
    in.
    """
    target = Layout.load(dst)
    if dtype not in ("float16", "float32", "float64"):
        raise UsageError(f"unknown --dtype {dtype!r}", hint="known: float16, float32, float64")
    if out is not None:
        _check_out(path, out, target, force=force)
    with ThreadPoolExecutor(1) as beside:  # hashing lets the interpreter go on
        digest = beside.submit(file_digest, path)
        source = read(path, src=src, arch=arch, kernels=kernels, within=within, no_top=no_top)
        rules = target.spell(source.architecture, dim_ordering, dst_kernels)
        plan = _plan(source, target, rules, np.dtype(dtype))
        return _written(plan, out, digest, beside, progress) if out else plan


def _check_out(path: Path, out: Path, target: Layout, *, force: bool) -> None:
    """Refuse a place or container that would fail, before any work."""
    ending = formats.ending(out)
    alike = {".hdf5": ".h5", ".pt": ".pth"}.get(ending, ending)
    if alike not in target.containers:
        raise UsageError(
            f"{out}: {target.layout} does not come as {ending}", hint=f"known: {', '.join(target.containers)}"
        )
    if out.exists() and path.exists() and out.samefile(path):
        raise UsageError(f"{out}: is the checkpoint itself", hint="write to another file")
    if out.is_dir():
        raise DiskError(f"{out}: cannot be written: is a directory")
    for file in (out, formats.companion(out)):
        if file and file.exists() and not force:
            raise UsageError(f"{file}: exists already", hint="pass --force to replace it, or --out to write elsewhere")


def _plan(source: Network, target: Layout, rules: Mapping[TensorKey, TensorSpec], dtype: np.dtype[Any]) -> Conversion:
    """The conversion with nothing read but the norms whose epsilon must change, and nothing written."""
    contract = _target_contract(source, target)
    if contract.stem_padding == "same" and source.architecture.stem != "cifar" and _reversed(rules):
        raise MisfitError(
            f'{target.layout} pads its stem "same", which Theano does alike on both sides: '
            "with kernels as Theano stores them the file would be another function",
            hint="leave out --dst-kernels",
        )
    replaced, absorbed = _absorb_all(source, contract, dtype)
    tensors = {
        rule.name: Tensor(
            shape=_moved_shape(source.architecture, place, rule.axes),
            dtype=dtype.name,
            load=partial(_spelled, source, target, place, rule.axes, dtype, replaced),
        )
        for place, rule in rules.items()
    }
    plan = Conversion(
        source=source,
        target=target,
        contract=contract,
        rules=rules,
        tensors=tensors,
        absorbed=absorbed,
        out=None,
        record={},
        notes=tuple(_notes(source, target, contract, dtype)),
    )
    return replace(plan, record=_record(plan, {}, ""))


def _reversed(rules: Mapping[TensorKey, TensorSpec]) -> bool:
    """Whether kernels are written as a true convolution has them."""
    return any("-" in rule.axes for rule in rules.values())


def _target_contract(source: Network, target: Layout) -> Contract:
    """The contract of what is written: the layout's own, but for the entries that go with the weights.

    Raises MisfitError where the two are different functions of the same weights.
    """
    carried = {key: getattr(source.contract, key) for key in target.carried}
    contract = replace(target.contract, **cast("Any", carried))
    if source.architecture.stem == "cifar":
        return replace(contract, stem_padding=source.contract.stem_padding, stem_pool=source.contract.stem_pool)
    for key, does in (("stem_padding", "pads the stem {}"), ("stem_pool", "pools the stem by {}")):
        own, theirs = getattr(source.contract, key), getattr(contract, key)
        if own != theirs:
            raise MisfitError(
                f"{source.checkpoint.path}: its network {does.format(own)}, {target.layout} only {theirs}: "
                "the same weights would be another function",
                hint="convert to a layout that carries its contract (keras)",
            )
    return contract


def _spelled(
    source: Network, target: Layout, place: TensorKey, axes: str, dtype: np.dtype[Any], replaced: Mapping[Slot, Array]
) -> Array:
    """One tensor in the target's axes and type, contiguous."""
    what = written(target, place)
    if not isinstance(what, str):
        return np.full(_moved_shape(source.architecture, place, axes), what, dtype)
    slot = Slot(place.unit, what)
    array = replaced[slot] if slot in replaced else source.weights[slot]
    return np.ascontiguousarray(_cast(move(array, ours_axes(target, source.architecture, place), axes), dtype, slot))


def _cast(array: Array, dtype: np.dtype[Any], slot: Slot) -> Array:
    """The array in another floating type. Raises MisfitError for a number that only the old one could hold."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if dtype.itemsize < array.dtype.itemsize and bool(np.any(np.isinf(cast) & np.isfinite(array))):
        raise MisfitError(f"{slot} holds numbers that {dtype.name} cannot", hint="write a wider --dtype")
    return cast


def _moved_shape(architecture: Architecture, place: TensorKey, axes: str) -> tuple[int, ...]:
    sizes = architecture.units[place.unit].sizes
    return tuple(1 if axis == "1" else sizes[axis] for axis in axes.replace("-", "").split())


def _absorb_all(
    source: Network, contract: Contract, dtype: np.dtype[Any]
) -> tuple[dict[Slot, Array], Mapping[str, Any] | None]:
    """The scales and variances that change because the target fixes another epsilon, and the record of which did.

    A file that was itself made so is taken back the same way, so that its own source's numbers return.
    """
    old, new = source.contract.epsilon, contract.epsilon
    record = (source.checkpoint.record or {}).get("absorbed")
    if old == new:
        return {}, record
    undo = set(record["scale"]) if record and (record["to"], record["from"]) == (old, new) else None
    replaced: dict[Slot, Array] = {}
    stretched: list[str] = []
    for unit in source.architecture.units.values():
        if unit.kind != "norm":
            continue
        slots = Slot(unit.name, "scale"), Slot(unit.name, "variance")
        scale, variance = (source.weights[slot] for slot in slots)
        if undo is None:
            chosen, scale, variance = absorb(scale, variance, old, new, dtype)
        elif unit.name in undo:
            chosen, scale = "scale", absorb_in_scale(scale, variance, old, new, dtype)
        else:
            chosen, variance = "variance", absorb_in_variance(variance, old, new, dtype)
        replaced[slots[0]], replaced[slots[1]] = scale, variance
        if chosen == "scale":
            stretched.append(unit.name)
    return replaced, None if undo is not None else {"from": old, "to": new, "scale": stretched}


def _written(
    plan: Conversion,
    out: Path,
    source_digest: Future[str],
    beside: ThreadPoolExecutor,
    progress: Callable[[int, int], None],
) -> Conversion:
    """Write the planned tensors; each one's digest is taken beside, while the next is turned and written."""
    hashing: dict[str, Future[str]] = {}
    digests = dict.fromkeys(plan.tensors, UNKNOWN)

    def settle(behind: int) -> None:
        while len(hashing) > behind:
            name = next(iter(hashing))
            digests[name] = hashing.pop(name).result()

    def digested(done: int, name: str, tensor: Tensor) -> Array:
        settle(BEHIND)
        array = tensor.load()
        if array.nbytes < SMALL:
            digests[name] = array_digest(array)
        else:
            hashing[name] = beside.submit(array_digest, array)
        progress(done, len(plan.tensors))
        return array

    def record() -> dict[str, Any]:
        settle(0)
        complete = all(digest != UNKNOWN for digest in digests.values())
        known = source_digest.result() if complete else UNKNOWN
        return _record(plan, digests, known)

    tensors = {
        name: replace(tensor, load=partial(digested, done, name, tensor))
        for done, (name, tensor) in enumerate(plan.tensors.items(), start=1)
    }
    blueprint = plan.target.blueprint(plan.source.architecture, plan.contract)
    content = lambda: json.dumps(record(), separators=(",", ":")).encode()  # noqa: E731 (called when the rest is written)
    formats.write(out, tensors, content, blueprint)
    return replace(plan, out=out, record=record())


def _record(plan: Conversion, digests: Mapping[str, str], source_digest: str) -> dict[str, Any]:
    """What the written file says of itself. The same input gives the same bytes: no names, no times.

    `absorbed` and `fold` are what rounded tensors, if anything did; `kernels` is there where the layout has several
    ways.
    """
    source, target = plan.source, plan.target
    record = {
        "schema": SCHEMA,
        "tool": f"densenet-port {__version__}",
        "layout": target.layout,
        "architecture": source.architecture.to_json(),
        "contract": plan.contract.to_json(),
        "source": {
            "layout": source.layout,
            "container": source.checkpoint.container,
            "sha256": source_digest,
            **({"within": source.within} if source.within is not None else {}),
        },
        "mappings": {source.layout: source.ledger.mapping.digest, target.layout: target.digest},
        "absorbed": plan.absorbed,
        "tensors": dict(digests),
    }
    if fold := source.ledger.mapping.fold or source.checkpoint.metadata.get("fold"):
        record["fold"] = fold
    if len(target.tensors["conv"]["kernel"].axes) > 1:
        record["kernels"] = "theano" if _reversed(plan.rules) else "tensorflow"
    return record


def _notes(source: Network, target: Layout, contract: Contract, dtype: np.dtype[Any]) -> Iterator[str]:
    """What the owner of a file should know beside that it was converted."""
    yield from source.checkpoint.metadata.get("notes", ())
    yield from _contract_notes(source, target, contract)
    if source.ledger.uncertain:
        yield (
            f"no record says how the kernels are stored: taken as {source.ledger.kernels} has them, as files of this "
            "ordering usually are; --kernels says otherwise, and known logits of one image would decide"
        )
    if not (source.ledger.mapping.units or source.checkpoint.record):
        yield f"its layers have no names of their own: taken by their order for {source.layout}'s ({_brief(source)})"
    stored = {claim.tensor.dtype for claim in source.ledger.claims.values()}
    worked = "fold" in source.checkpoint.metadata  # by the reader, in float64
    if "float64" in stored and dtype.itemsize < 8 and not worked:  # noqa: PLR2004 (bytes of a float64)
        yield f"the checkpoint holds float64; what is written is rounded to {dtype.name} (--dtype float64 keeps it)"
    if stored & {"float16", "bfloat16"}:
        kinds = " and ".join(sorted(stored & {"float16", "bfloat16"}))
        yield f"the checkpoint holds {kinds}: its rounding stays in the weights"
    yield from _underflow_notes(source)
    if "epsilon" in source.ledger.mapping.carried and not (
        source.checkpoint.record or "epsilon" in source.checkpoint.metadata
    ):
        yield f"the file records no contract: {_brief(source)} are taken"


def _underflow_notes(source: Network) -> Iterator[str]:
    """How many variances are zero in float16, whose smallest number is 6e-8."""
    claims = source.ledger.claims.values()
    halves = [claim.tensor for claim in claims if claim.place.part == "variance" and claim.tensor.dtype == "float16"]
    zeros = sum(int(np.count_nonzero(tensor.load() == 0)) for tensor in halves)
    if zeros:
        count = sum(prod(tensor.shape) for tensor in halves)
        yield (
            f"{zeros} of {count} variances are zero: what was below 6e-8 is lost in float16; the function is the "
            "file's own, but not that of the network before it was halved"
        )


def _brief(source: Network) -> str:
    """What of a contract a file most often leaves out."""
    return f"epsilon {source.contract.epsilon:g} and {source.contract.stem_padding} stem padding"


def _contract_notes(source: Network, target: Layout, contract: Contract) -> Iterator[str]:
    """Where the graph of the source, or of the target, is not quite what its weights are used with."""
    layers, last = source.checkpoint.metadata.get("layers", ()), source.ledger.mapping.last_relu
    seen = source.ledger.spelled("stem.conv") in layers  # else the network is a layer, and its own are not listed
    if last and seen and last not in layers and HEAD in source.architecture.units:
        yield f"the file's own graph lacks the last ReLU ({last}): its logits are not those of this network"
    if source.contract.pool_rounding != contract.pool_rounding:
        change = f"{source.contract.pool_rounding} to {contract.pool_rounding}"
        yield f"average pools round from {change}: the same for maps of even size, as 224 and 256 pixels give"
    channels, order = source.architecture.channels, source.contract.input.order
    if channels != 3 and order != "grey" and not source.checkpoint.record:  # noqa: PLR2004 (red, green, blue)
        found = f"{source.layout}'s pictures have 3 channels, this network's {channels}"
        yield f"{found}: how to prepare them is not recorded"
    if contract.input != target.contract.input and "output" not in target.carried:
        order, usual = contract.input.order, target.contract.input.order
        yield f"the input stays the source's ({order}), not what {target.layout} usually takes ({usual})"


# -- judging -----------------------------------------------------------------------------------------------------------


def verify(path: Path) -> Checkpoint:
    """The checkpoint in a file of ours, once every tensor's digest is the one in its record.

    Raises MisfitError for a file that carries none, ComparisonError that names the tensors that differ.
    """
    checkpoint = formats.read(path)
    recorded = (checkpoint.record or {}).get("tensors")
    if not isinstance(recorded, dict):
        raise MisfitError(f"{path}: carries no digests", hint="only files that densenet-port wrote can be verified")
    wrong = [f"{name} is not recorded" for name in checkpoint.tensors if name not in recorded]
    for name, digest in recorded.items():
        if name not in checkpoint.tensors:
            wrong.append(f"{name} is missing")
        elif (found := array_digest(checkpoint.tensors[name].load())) != digest:
            wrong.append(f"{name}: recorded {digest[:12]}…, found {found[:12]}…")
    if wrong:
        lines = "\n".join(f"  {line}" for line in first_few(wrong))
        raise ComparisonError(f"{path}: {len(wrong)} tensors are not the ones that were written\n{lines}")
    return checkpoint
