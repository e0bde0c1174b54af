"""What the owner of a file should know beside that it was converted."""

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np

from densenet_port.conversion.modules import reasons
from densenet_port.conversion.source import Source
from densenet_port.layouts.layout import Layout
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.graph import graph
from densenet_port.network.units import HEAD

DIGITS = {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53}  # binary digits of a number


def notes(source: Source, target: Layout, contract: Contract, dtype: str) -> Iterator[str]:
    """What the owner of a file should know beside that it was converted."""
    yield from source.checkpoint.metadata.get("notes", ())
    yield from source.ledger.notes
    yield from source.evidence.notes if source.evidence else ()
    yield from source.witness.notes if source.witness else ()
    yield from _contract_notes(source, target, contract)
    if source.ledger.kernels_assumed:
        yield (
            f"no record says how the kernels are stored: taken as {source.ledger.kernels} has them, as files of this "
            "ordering usually are; --kernels says otherwise, and known logits of one image would decide"
        )
    if source.ledger.layout.running_names and not (source.ledger.layout.units or source.checkpoint.record):
        yield f"its layers have no names of their own: taken by their order for {source.layout}'s ({_brief(source)})"
    stored = {claim.tensor.dtype for claim in source.ledger.claims.values()}
    worked = "fold" in source.checkpoint.metadata  # by the reader, in float64
    widest = max(stored, key=lambda name: DIGITS.get(name, 0), default=dtype)
    if DIGITS[dtype] < DIGITS.get(widest, 0) and not (worked and widest == "float64"):
        way = "" if DIGITS[dtype] >= DIGITS["float32"] else ", to the nearest, halves to even"
        yield f"the checkpoint holds {widest}; what is written is rounded to {dtype}{way} (--dtype {widest} keeps it)"
    if stored & {"float16", "bfloat16"}:
        kinds = " and ".join(sorted(stored & {"float16", "bfloat16"}))
        yield f"the checkpoint holds {kinds}: its rounding stays in the weights"
    yield from _underflow_notes(source)


def infinity_notes(names: Sequence[str]) -> Iterator[str]:
    """What is told where tensors of a written file hold NaN or infinity, as they do in what it was made from."""
    if names:
        which = f"{names[0]} and {len(names) - 1} more hold" if len(names) > 1 else f"{names[0]} holds"
        yield f"{which} NaN or infinity, as the checkpoint does"


def assumption(source: Source) -> str | None:
    """What of the contract nothing in the file tells, in one line; None where everything is known."""
    entries_of = _entries_of(source.architecture, source.contract)
    shown = {key: text for key, text in entries_of.items() if key in source.origins}
    outside, why = source.evidence.assumed if source.evidence else (), reasons(source.checkpoint, source.ledger)
    entries = [
        f"{text} ({why[key]})" if key in why else text
        for key, text in shown.items()
        if source.origins[key] == "assumed"
    ]
    assumed = ", ".join([*entries, *source.ledger.assumed, *outside])
    rest = f"as {source.layout}'s software builds it, which weights alone do not tell"
    is_recorded = source.checkpoint.record is not None  # what was said when it was written
    if is_recorded or not any(source.origins[key] == "software" for key in shown):
        return f"assumed: {assumed}" if assumed else None
    return f"assumed: {assumed}; the rest {rest}" if assumed else f"assumed: {rest}"


def _entries_of(architecture: Architecture, contract: Contract) -> dict[str, str]:
    """The entries of a contract in words; a network without a head has no output of its own."""
    picture = contract.input
    mean, std = ("/".join(f"{number:.4g}" for number in numbers) for numbers in (picture.mean, picture.std))
    stem = graph(architecture, contract).operations[next(iter(architecture.units))]
    entries = {
        "epsilon": f"epsilon {contract.epsilon:g}",
        "stem_stride": f"stride {stem.stride} of the stem's {stem.kernel}×{stem.kernel} convolution",
        "stem_padding": f"{contract.stem_padding} stem padding",
        "stem_pool": {"max": "a max pool", "blur": "a blur pool", "none": "no pool"}[contract.stem_pool]
        + " in the stem",
        "head_pool": f"a pool of {contract.head_pool}×{contract.head_pool} before the head"
        if contract.head_pool > 1
        else "no pool before the head",
        "pool_rounding": f"pools that round {'up' if contract.pool_rounding == 'ceil' else 'down'}",
        "output": f"output {contract.output}",
        "input": f"input {picture.order}, scale {picture.scale:g}, mean {mean}, std {std}",
    }
    if architecture.classes is None:
        del entries["output"]
    return entries


def _underflow_notes(source: Source) -> Iterator[str]:
    """How many variances are zero in float16, whose smallest number is 6e-8."""
    claims = source.ledger.claims.values()
    halves = [claim.tensor for claim in claims if claim.key.part == "variance" and claim.tensor.dtype == "float16"]
    zeros = sum(int(np.count_nonzero(tensor.load() == 0)) for tensor in halves)
    if zeros:
        count = sum(prod(tensor.shape) for tensor in halves)
        yield (
            f"{zeros} of {count} variances are zero: what was below 6e-8 is lost in float16; the function is the "
            "file's own, but not that of the network before it was halved"
        )


def _brief(source: Source) -> str:
    """What of a contract a file most often leaves out."""
    return f"epsilon {source.contract.epsilon:g} and {source.contract.stem_padding} stem padding"


def _contract_notes(source: Source, target: Layout, contract: Contract) -> Iterator[str]:
    """Where the graph of the source, or of the target, is not quite what its weights are used with."""
    if source.contract.output not in ("logits", contract.output) and HEAD in source.architecture.units:
        yield f"the network ends in {source.contract.output}, and a file of {target.name} in {contract.output}"
    if source.contract.pool_rounding != contract.pool_rounding:
        change = f"{source.contract.pool_rounding} to {contract.pool_rounding}"
        yield f"average pools round from {change}: the same for maps of even size, as 224 and 256 pixels give"
    channels, order = source.architecture.channels, source.contract.input.order
    known = source.checkpoint.record or source.origins.get("input") == "record"
    if channels != 3 and order != "grey" and not known:  # red, green, blue
        counts = f"{source.layout}'s pictures have 3 channels, this network's {channels}"
        yield f"{counts}: how to prepare them is not recorded"
    if contract.input != target.contract.input and "output" not in target.carried:
        order, usual = contract.input.order, target.contract.input.order
        yield f"the input stays the source's ({order}), not what {target.name} usually takes ({usual})"
