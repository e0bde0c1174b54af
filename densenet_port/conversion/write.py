"""A network in a layout: planned, checked, and written one tensor at a time.

Everything is decided and checked before a byte is written.
"""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from densenet_port import formats
from densenet_port.about import TOOL
from densenet_port.checkpoint import Array, Tensor, array_digest, digest
from densenet_port.conversion.notes import assumption, infinity_notes, notes
from densenet_port.conversion.source import Source
from densenet_port.errors import DiskError, MisfitError, UsageError
from densenet_port.formats.record import DIGEST, REST, SCHEMA, UNKNOWN, record_digest
from densenet_port.formats.source import stored_size
from densenet_port.layouts.layout import Kernels, Layout, Ordering, TensorKey, TensorSpec, layouts
from densenet_port.layouts.transform import absorb, absorb_in_scale, absorb_in_variance, move, rounded
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.graph import graph
from densenet_port.network.units import Slot

BATCH = 1 << 22  # bytes that are hashed at once: to hand a tensor over takes longer than to hash most of them
DTYPES = ("float16", "bfloat16", "float32", "float64")

_FIXED = {  # entries of a contract that no weights can make up for → what a network does by them
    "stem_stride": "has the stem stride {}",
    "stem_padding": "pads the stem {}",
    "stem_pool": "pools the stem by {}",
    "head_pool": "pools by {} before the head",
}

Progress = Callable[[int, int], None]  # tensors done, and of how many


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A network in another layout: what was written, or with `out` None would be.

    `tensors` are the target's, in order, read and turned when they are loaded; `specs` say how each is named and
    stored. `record` is what the file says of itself, but for the digest of its rest; `absorbed` which norms took up
    another epsilon, and how; `assumption` what of the contract nothing in the source tells, and `notes` are what the
    file's owner should know.
    """

    source: Source
    target: Layout
    contract: Contract
    specs: Mapping[TensorKey, TensorSpec]
    tensors: Mapping[str, Tensor]
    absorbed: Mapping[str, Any] | None
    out: Path | None
    record: Mapping[str, Any]
    assumption: str | None
    notes: tuple[str, ...]


def silent(_done: int, _total: int) -> None:
    """The progress of work that nobody watches: nothing happens."""


def write(
    source: Source,
    out: Path | None,
    *,
    target: Layout,
    dtype: str = "float32",
    kernels: Kernels | None = None,
    dim_ordering: Ordering | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Conversion:
    """Write a network in a layout to `out`; without `out` only plan it.

    `dtype` is the floating type to write. `kernels` ("theano", "tensorflow") and `dim_ordering` ("th": out channels
    first, "tf": out channels last) choose among the ways in which the layout stores kernels. `progress` is called after
    each tensor. An existing `out` stays unless `force`, and on any failure. Raises UsageError for a container that the
    layout does not come in, an unknown dtype, and a choice that the layout does not have; MisfitError for a network
    that it cannot hold, and for numbers that the dtype cannot.
    """
    check_place(source.checkpoint.path, out, target, dtype, force=force)
    with helper() as pool:
        source_digest = pool.submit(digest, source.checkpoint)
        planned = plan(source, target, dtype, kernels, dim_ordering)
        return write_plan(planned, out, source_digest, pool, progress) if out else planned


def check_place(path: Path, out: Path | None, target: Layout, dtype: str, *, force: bool) -> None:
    """Refuse a place or a container that would fail, before any work."""
    if out is None:
        return
    ending = formats.ending(out)
    alike = {".hdf5": ".h5", ".pt": ".pth"}.get(ending, ending)
    if alike not in (*target.containers, *formats.ANYBODYS):
        known = f"it comes as {', '.join((*target.containers, *formats.ANYBODYS))}"
        others = [name for name in layouts() if alike in Layout.load(name).containers]
        hint = f"{known}; {ending} is what --dst {', '.join(others)} can write" if others else known
        raise UsageError(f"{out}: {target.name} does not come as {ending}", hint=hint)
    if dtype == "bfloat16" and ending not in formats.BFLOAT16:
        hint = f"write {', '.join(formats.BFLOAT16)}, or another --dtype"
        raise UsageError(f"{out}: no {ending} holds bfloat16", hint=hint)
    if out.exists() and path.exists() and out.samefile(path):
        raise UsageError(f"{out}: is the checkpoint itself", hint="write to another file")
    if out.is_dir():
        raise DiskError(f"{out}: cannot be written: is a directory")
    for file in (out, formats.companion(out)):
        if file and file.exists() and not force:
            raise UsageError(f"{file}: exists already", hint="pass --force to replace it, or --out to write elsewhere")


# -- planning ----------------------------------------------------------------------------------------------------------


def plan(
    source: Source,
    target: Layout,
    dtype: str = "float32",
    kernels: Kernels | None = None,
    dim_ordering: Ordering | None = None,
) -> Conversion:
    """The conversion with nothing read but the norms whose epsilon must change. Raises as `write` does."""
    if dtype not in DTYPES:
        raise UsageError(f"unknown --dtype {dtype!r}", hint=f"known: {', '.join(DTYPES)}")
    specs = target.spell(source.architecture, dim_ordering, kernels)
    contract = target_contract(source, target)
    if _truly_convolves(specs) and contract.stem_padding == "same" and _pads_by_contract(source.architecture):
        raise MisfitError(
            f'{target.name} pads its stem "same", which Theano does alike on both sides: '
            "with kernels as Theano stores them the file would be another function",
            hint="leave out --dst-kernels",
        )
    replaced, absorbed = absorb_all(source, contract, dtype)
    orders = target.channel_order(source.architecture)
    tensors: dict[str, Tensor] = {}
    for key, spec in specs.items():
        shape = _shape(source.architecture, key, spec.axes)
        load = partial(target_tensor, source, target, key, spec.axes, dtype, replaced, orders.get(key.unit))
        tensors[spec.name] = Tensor(shape=shape, dtype=dtype, load=load)
    planned = Conversion(
        source=source,
        target=target,
        contract=contract,
        specs=specs,
        tensors=tensors,
        absorbed=absorbed,
        out=None,
        record={},
        assumption=assumption(source),
        notes=tuple(notes(source, target, contract, dtype)),
    )
    return replace(planned, record=_record(planned, {}, ""))


def _truly_convolves(specs: Mapping[TensorKey, TensorSpec]) -> bool:
    """Whether kernels are written as a true convolution has them, turned by 180°."""
    return any("-" in spec.axes for spec in specs.values())


def _pads_by_contract(architecture: Architecture) -> bool:
    """Whether the contract has a say in how the network's stem is padded."""
    steps = graph(architecture, Contract(stem_padding="same")).operations.values()
    return any(step.padding == "same" for step in steps)


def target_contract(source: Source, target: Layout) -> Contract:
    """The contract of what is written: the layout's own, but for the entries that go with the weights.

    Raises MisfitError where the two are different functions of the same weights.
    """
    carried = {key: getattr(source.contract, key) for key in target.carried}
    contract = replace(target.contract, **cast("Any", carried))
    for key, verb in _FIXED.items():
        own, other = getattr(source.contract, key), getattr(contract, key)
        changed = replace(contract, **cast("Any", {key: own}))
        if own != other and graph(source.architecture, changed) != graph(source.architecture, contract):
            raise MisfitError(
                f"{source.checkpoint.path}: its network {verb.format(own)}, {target.name} only "
                f"{'the usual one' if other is None else other}: "
                "the same weights would be another function",
                hint="convert to a layout that carries its contract (keras)",
            )
        contract = changed
    return contract


def target_tensor(
    source: Source,
    target: Layout,
    key: TensorKey,
    axes: str,
    dtype: str,
    replaced: Mapping[Slot, Array],
    order: Array | None,
) -> Array:
    """One tensor in the target's axes and type, contiguous; `order` is that of its channels, where it is another."""
    content = target.content(key)
    if not isinstance(content, str):
        return np.full(_shape(source.architecture, key, axes), content, "float32" if dtype == "bfloat16" else dtype)
    slot = Slot(key.unit, content)
    array = replaced[slot] if slot in replaced else source.weights[slot]
    if order is not None and (axis := _channel_axis(source.architecture, slot)) is not None:
        array = array.take(np.argsort(order), axis=axis)
    turned = move(array, target.canonical_axes(key), axes)
    return np.ascontiguousarray(in_type(turned, dtype, slot))


def _channel_axis(architecture: Architecture, slot: Slot) -> int | None:
    """Which axis of a slot has the channels that its unit reads."""
    return architecture.units[slot.unit].channel_axis(slot.role)


def in_type(array: Array, dtype: str, slot: Slot) -> Array:
    """The array in another floating type. Raises MisfitError for a number that only the old one could hold."""
    if array.dtype == dtype:
        return array
    cast = rounded(array, dtype)
    if bool(np.any(np.isinf(cast) & np.isfinite(array))):
        raise MisfitError(f"{slot} holds numbers that {dtype} cannot", hint="write a wider --dtype")
    return cast


def _shape(architecture: Architecture, key: TensorKey, axes: str) -> tuple[int, ...]:
    """The shape of a tensor whose axes are in this order."""
    sizes = architecture.units[key.unit].sizes
    return tuple(1 if axis == "1" else sizes[axis] for axis in axes.replace("-", "").split())


def absorb_all(
    source: Source, contract: Contract, target_dtype: str
) -> tuple[dict[Slot, Array], Mapping[str, Any] | None]:
    """The scales and variances that change because the target fixes another epsilon, and the record of which did.

    They have the target's type, or float64 where NumPy lacks that, so that each is rounded once. A file that was itself
    made so is taken back the same way, so that its own source's numbers return.
    """
    old, new = source.contract.epsilon, contract.epsilon
    dtype = np.dtype("float64" if target_dtype == "bfloat16" else target_dtype)
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


# -- writing -----------------------------------------------------------------------------------------------------------


class _Digests:
    """The digests of tensors, taken in a thread of its own, some at a time, while the next are turned and written.

    One batch is hashed while the next comes together; a tensor that is larger than a batch comes when all are hashed.
    """

    def __init__(self, tensors: Mapping[str, Tensor], pool: Executor, progress: Progress) -> None:
        self.pool = pool
        self.progress = progress
        self.digests = dict.fromkeys(tensors, UNKNOWN)
        self.infinite: list[str] = []  # tensors that hold what is no finite number
        self.batch: dict[str, Array] = {}
        self.size = 0  # of the batch, in bytes
        self.pending: Future[dict[str, str]] | None = None
        self.loaded = 0

    def watched(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor; whoever loads it has it hashed, too."""
        return replace(tensor, load=partial(self._load, name, tensor))

    def _load(self, name: str, tensor: Tensor) -> Array:
        if stored_size(tensor.shape, tensor.dtype) > BATCH:
            self._hand_over()
            self._settle()
        array = tensor.load()
        self.batch[name] = array
        self.size += array.nbytes
        if self.size >= BATCH:
            self._hand_over()
        self.loaded += 1
        self.progress(self.loaded, len(self.digests))
        return array

    def _hand_over(self) -> None:
        """Have the batch hashed, once the one before is."""
        self._settle()
        if not self.batch:
            return
        self.pending = self.pool.submit(self._hashed, self.batch)
        self.batch, self.size = {}, 0

    def _hashed(self, arrays: Mapping[str, Array]) -> dict[str, str]:
        """Name → the digest of an array; those that are not finite are noted."""
        self.infinite += [name for name, array in arrays.items() if not _is_finite(array)]
        return {name: array_digest(array) for name, array in arrays.items()}

    def _settle(self) -> None:
        """Wait for the batch that is being hashed."""
        if self.pending:
            self.digests |= self.pending.result()
            self.pending = None

    @property
    def complete(self) -> bool:
        """Whether every tensor was loaded, and is hashed now."""
        self._hand_over()
        self._settle()
        return UNKNOWN not in self.digests.values()


def _is_finite(array: Array) -> bool:
    """Whether all numbers are finite: their sum is, or else each for itself."""
    with np.errstate(all="ignore"):
        total = array.sum(dtype=np.float64 if array.itemsize == 8 else np.float32)
    return bool(np.isfinite(total) or np.isfinite(array).all())


class _AtOnce(Executor):
    """Does what is submitted there and then."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> "Future[Any]":
        """What has become of it."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **named))
        except Exception as error:  # noqa: BLE001 (whoever asks for the result meets it)
            future.set_exception(error)
        return future


def helper(threads: int | None = None) -> Executor:
    """Who hashes: another thread, for hashing lets the interpreter go on, or with one thread nobody else.

    Where every core has a process of its own, a second thread in each costs a third of them all.
    """
    return _AtOnce() if threads == 1 else ThreadPoolExecutor(1)


def write_plan(
    planned: Conversion, out: Path, source_digest: Future[str], pool: Executor, progress: Progress
) -> Conversion:
    """Write the planned tensors; the file and what goes with it appear whole or not at all."""
    digests = _Digests(planned.tensors, pool, progress)
    blueprint = planned.target.blueprint(planned.source.architecture, planned.contract)
    companion = formats.companion_digest(out, blueprint)

    record: dict[str, Any] = {}

    def text() -> bytes:
        """The record as far as it is known."""
        nonlocal record
        known = source_digest.result() if digests.complete else UNKNOWN
        record = _record(planned, digests.digests, known, companion)
        return json.dumps(record, separators=(",", ":")).encode()

    tensors = {name: digests.watched(name, tensor) for name, tensor in planned.tensors.items()}
    formats.write(out, tensors, text, blueprint)
    own = {key: entry for key, entry in record.items() if key != REST}
    return replace(planned, out=out, record=own, notes=(*planned.notes, *infinity_notes(digests.infinite)))


def _record(
    planned: Conversion, digests: Mapping[str, str], source_digest: str, companion: str | None = None
) -> dict[str, Any]:
    """What the written file says of itself. The same input gives the same bytes: no names, no times.

    `absorbed` and `fold` are what rounded tensors, if anything did; `kernels` is there where the layout has several
    ways, and `companion` where a file goes beside it.
    """
    source, target = planned.source, planned.target
    container = source.checkpoint.container
    origin: dict[str, Any] = {"layout": source.layout, "container": container, "sha256": source_digest}
    if source.within is not None:
        origin["within"] = source.within
    if hub := source.checkpoint.metadata.get("hub"):
        origin["hub"] = hub
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "tool": TOOL,
        "layout": target.name,
        "architecture": source.architecture.to_json(),
        "contract": planned.contract.to_json(),
        "origins": dict(source.origins),
        "source": origin,
        "mappings": {source.layout: source.ledger.layout.digest, target.name: target.digest},
        "absorbed": planned.absorbed,
        "tensors": dict(digests),
    }
    if labels := labels_of(source):
        record["labels"] = labels
    if fold := source.ledger.fold or source.checkpoint.metadata.get("fold"):
        record["fold"] = fold
    if len(target.tensors["conv"]["kernel"].axes) > 1:
        record["kernels"] = "theano" if _truly_convolves(planned.specs) else "tensorflow"
    if companion:
        record["companion"] = companion
    return {**record, DIGEST: record_digest(record), REST: UNKNOWN}


def labels_of(source: Source) -> list[str] | None:
    """A name for each class, where the source, or what stands beside it, has them; None where it has no head."""
    checkpoint = source.checkpoint
    labels = checkpoint.metadata.get("labels") or (checkpoint.record or {}).get("labels")
    return list(labels) if labels and len(labels) == source.architecture.classes else None
