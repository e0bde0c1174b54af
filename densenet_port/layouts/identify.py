"""Which layout a file has: its complete ledger under the one table that fits, or an error that shows what does not.

Where nothing fits, `advice` tries what else could be asked for, and the error's hint is what works.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from densenet_port.checkpoint import Checkpoint, Tensor
from densenet_port.errors import MisfitError, PortError
from densenet_port.layouts.index import Sight
from densenet_port.layouts.layout import STRUCTURE, Kernels, Layout, layouts, structure_path
from densenet_port.layouts.match import NO_TOP, Ledger, body, fitted, match
from densenet_port.layouts.scan import FLOATS, Scan, places, scan, with_head
from densenet_port.layouts.symptoms import explained, without_statistics
from densenet_port.network.architecture import Architecture, infer
from densenet_port.network.units import is_head

SHOWN = 6  # tensors listed in an error before "and n more"
FEW = 3  # of them in one line


class Words(NamedTuple):
    """What the user says of a file: its layout or table, its architecture, how kernels are stored, no head."""

    src: str | Path | None = None
    arch: Architecture | None = None
    kernels: Kernels | None = None
    no_top: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A table tried on a file: what it recognises and the ledger, or the error that stopped it.

    There is neither ledger nor error where the table recognises no name.
    """

    layout: Layout
    scanned: Scan | None = None
    ledger: Ledger | None = None
    error: MisfitError | None = None

    @property
    def complete(self) -> Ledger | None:
        """The ledger, if every tensor is accounted for."""
        return self.ledger if self.ledger and not self.ledger.problems else None


def identify(
    checkpoint: Checkpoint,
    *,
    src: str | Path | None = None,
    arch: Architecture | None = None,
    kernels: Kernels | None = None,
    no_top: bool = False,
) -> Ledger:
    """The complete ledger of a file under the one table that fits it. Raises MisfitError that shows what does not.

    `src` is the layout, or a table of the user's own; without it the one that the file's record names, or else
    the one table that fits.
    `arch` is the architecture; without it the one of the file's shapes. `kernels` is how convolution
    kernels are stored, where the file does not record it. `no_top` leaves out what is no part of the body.
    """
    words = Words(src, arch, kernels, no_top)
    try:
        return _in_file_order(checkpoint, _identified(checkpoint, words))
    except MisfitError as error:
        if symptom := explained(checkpoint):
            raise symptom from error
        raise


def _in_file_order(checkpoint: Checkpoint, ledger: Ledger) -> Ledger:
    """The ledger under a layout that joins and flattens maps as the file's own graph does, where it tells."""
    known = {key: checkpoint.metadata[key] for key in ("concatenation", "flatten") if key in checkpoint.metadata}
    if all(getattr(ledger.layout, key) == value for key, value in known.items()):
        return ledger
    return replace(ledger, layout=replace(ledger.layout, **known))


def _identified(checkpoint: Checkpoint, words: Words) -> Ledger:
    """As `identify`, whose errors know nothing of what the tensors say of themselves."""
    if words.src in (STRUCTURE, structure_path()):
        return _floating(checkpoint, _by_structure(checkpoint, words))
    if sole := _at_first_sight(checkpoint, words):
        return _floating(checkpoint, sole)
    attempts, others = _attempts(checkpoint, words)
    best = _preferred(checkpoint, [ledger for attempt in attempts if (ledger := attempt.complete)])
    if len(best) == 1:
        return _floating(checkpoint, best[0])
    if best:
        raise _equal(checkpoint, [ledger.layout.name for ledger in best])
    for layout in others:
        if _attempt(checkpoint, layout, words).complete:
            raise _unrecorded(checkpoint, layout.name)
    if words.src is not None or len(attempts) == 1 or _other_numbers(attempts, words):  # somebody's word, or the file's
        raise _misfit(checkpoint, attempts, words)
    try:
        return _floating(checkpoint, _by_structure(checkpoint, words))
    except MisfitError as error:
        nearest = _nearest(attempts, words)
        if nearest and _is_near(checkpoint, nearest):
            raise _misfit(checkpoint, attempts, words) from error
        raise


def _by_structure(checkpoint: Checkpoint, words: Words) -> Ledger:
    """The complete ledger of a file by its structure. Raises MisfitError that says what it lacks."""
    from densenet_port.layouts.closing import Words as Asked  # noqa: PLC0415 (a file that a table fits needs none)
    from densenet_port.layouts.structure import ledger_of  # noqa: PLC0415 (as above)

    try:
        return ledger_of(checkpoint, Asked(words.arch, words.kernels, words.no_top))
    except MisfitError as error:
        raise MisfitError(f"{checkpoint.path}: {error.message}", hint=error.hint) from error


def _other_numbers(attempts: Sequence[Attempt], words: Words) -> bool:
    """Whether a table fits but for the user's architecture."""
    return words.arch is not None and any(_inferred(attempt, words) for attempt in attempts)


def _is_near(checkpoint: Checkpoint, nearest: Attempt) -> bool:
    """Whether a table fits most of a file, or has all of its names, or says that several networks are in it."""
    if nearest.ledger is None:
        is_whole = nearest.scanned is not None and not nearest.scanned.unclaimed
        return is_whole or len(places(nearest.layout, checkpoint)) > 1
    return 2 * nearest.ledger.fit_count >= len(checkpoint.tensors)


# -- trying ------------------------------------------------------------------------------------------------------------


def _at_first_sight(checkpoint: Checkpoint, words: Words) -> Ledger | None:
    """The ledger of the one table that fits, of those that the file's names leave; None where one must look closer.

    Where they leave none, and the user knows no more, it is that by structure.
    """
    if words.src is not None or checkpoint.record is not None:
        return None
    by_names = checkpoint.graph is None and "architecture" not in checkpoint.metadata and words.arch is None
    sight = Sight(checkpoint, layouts())
    tables = sight.likely(final_norm=by_names)
    if not tables and words.arch is None and sight.is_nobody_s:
        with suppress(MisfitError):  # what is in the way is said of the nearest table, or by structure
            return _by_structure(checkpoint, words)
    return fitting(checkpoint, words, tables)


def _attempts(checkpoint: Checkpoint, words: Words) -> tuple[list[Attempt], list[Layout]]:
    """The tables that the file may have, tried on it, and those that are left."""
    recorded = (checkpoint.record or {}).get("layout")
    src = recorded if words.src is None and recorded in layouts() else words.src
    candidates, others = _candidates(checkpoint) if src is None else ([Layout.load(src)], [])
    return [_attempt(checkpoint, layout, words) for layout in candidates], others


def _candidates(checkpoint: Checkpoint) -> tuple[list[Layout], list[Layout]]:
    """The tables that the file may have, and the others.

    It may have those that its own record names, or else all that need no such record.
    """
    tables = [Layout.load(name) for name in layouts()]
    named = {table.name for table in tables if table.when and checkpoint.records(table.when)}
    candidates = named or {table.name for table in tables if not table.when}
    return (
        [table for table in tables if table.name in candidates],
        [table for table in tables if table.name not in candidates],
    )


def _attempt(checkpoint: Checkpoint, layout: Layout, words: Words) -> Attempt:
    """One table tried on a file."""
    scanned = None
    try:
        scanned = scan(layout, checkpoint, words.kernels)
        if not scanned.matches:
            return Attempt(layout=layout)
        ledger = _ledger(scanned, words)
    except MisfitError as error:
        return Attempt(layout=layout, scanned=scanned, error=error)
    return Attempt(layout=layout, scanned=scanned, ledger=ledger)


def _ledger(scanned: Scan, words: Words) -> Ledger:
    """The ledger of what is recognised, for the architecture that it has."""
    architecture = _architecture(scanned, words.arch)
    if words.no_top:
        return body(scanned, architecture)
    headed = with_head(scanned, architecture, words.kernels)
    ledger = match(headed, architecture if headed is scanned else _architecture(headed, words.arch))
    is_word = words.arch and words.arch.head == ledger.architecture.head
    return replace(ledger, assumed=()) if is_word and ledger.assumed else ledger


def _architecture(scanned: Scan, arch: Architecture | None) -> Architecture:
    """The architecture asked for, with the file's own classes and channels; or the one its shapes say."""
    if not scanned.unclaimed and all(is_head(match.key.unit) for match in scanned.matches):
        raise MisfitError(
            f"it holds a head without a network: {', '.join(match.name for match in scanned.matches)}",
            hint="take the file of the whole network; KerasHub's presets keep the body in another one beside it",
        )
    known = scanned.checkpoint.metadata.get("architecture")  # by the file's own graph
    numbers = arch or (Architecture.from_json(known) if known else infer(scanned.kernel_sizes, scanned.norm_count))
    return fitted(numbers, scanned)


# -- deciding ----------------------------------------------------------------------------------------------------------


def _preferred(checkpoint: Checkpoint, ledgers: Sequence[Ledger]) -> list[Ledger]:
    """Those of the highest rank: the layout's software can have the network, and the file's record prefers it.

    Where no software can, those that have such a head: their other names for it are what tells layouts apart; or else
    those that have the usual one, in whose place somebody put this. Nothing else of the numbers decides, for the same
    names may be of two functions (timm's deep stems).
    """
    ranks = [
        (
            ledger.layout.refusal(ledger.architecture) is None,
            ledger.layout.holds("head", ledger.architecture),
            ledger.layout.holds("head", ledger.architecture.without_head()),
            bool(ledger.layout.prefer) and checkpoint.records(ledger.layout.prefer),
        )
        for ledger in ledgers
    ]
    highest = max(ranks, default=None)
    return [ledger for ledger, rank in zip(ledgers, ranks, strict=True) if rank == highest]


def fitting(checkpoint: Checkpoint, words: Words, tables: Sequence[Layout]) -> Ledger | None:
    """The complete ledger under the one of these tables that fits; None where none does, or several."""
    attempts = [_attempt(checkpoint, table, words) for table in tables]
    best = _preferred(checkpoint, [ledger for attempt in attempts if (ledger := attempt.complete)])
    return best[0] if len(best) == 1 else None


def _nearest(attempts: Sequence[Attempt], words: Words) -> Attempt | None:
    """The attempt that shows best what is in the way.

    That which would fit without the user's architecture; that with the fewest misfits; that which recognises most.
    """
    seen = [attempt for attempt in attempts if attempt.ledger or attempt.error]
    inferred = [attempt for attempt in seen if words.arch and _inferred(attempt, words)]
    return min(inferred or seen, key=_distance, default=None)


def _distance(attempt: Attempt) -> tuple[float, int, bool]:
    """How far a table is from a file; of two that are as far, the one whose software can be had is nearer."""
    recognised = len(attempt.scanned.matches) if attempt.scanned else 0
    problems = attempt.ledger.problems if attempt.ledger else float("inf")
    return problems, -recognised, attempt.layout.reference == "numpy"


def _inferred(attempt: Attempt, words: Words) -> Architecture | None:
    """The architecture that the file's shapes say, if that one fits whole."""
    if attempt.scanned is None:
        return None
    try:
        ledger = _ledger(attempt.scanned, words._replace(arch=None))
    except PortError:
        return None
    return None if ledger.problems else ledger.architecture


def _floating(checkpoint: Checkpoint, ledger: Ledger) -> Ledger:
    """The same ledger, if every tensor it claims holds floating-point numbers."""
    for claim in ledger.claims.values():
        if claim.tensor.dtype not in FLOATS:
            raise MisfitError(
                f"{checkpoint.path}: {claim.name} is {claim.tensor.dtype}, expected one of {', '.join(FLOATS)}",
                hint="a quantised network has other layers; convert the one it was made from",
            )
    return ledger


# -- errors ------------------------------------------------------------------------------------------------------------


def _equal(checkpoint: Checkpoint, names: Sequence[str]) -> MisfitError:
    """The error for a file that several layouts fit."""
    return MisfitError(
        f"{checkpoint.path}: {len(names)} layouts fit equally: {', '.join(names)}",
        hint=f"say which one it is with {' or '.join(f'--src {name}' for name in names)}",
    )


def _misfit(checkpoint: Checkpoint, attempts: Sequence[Attempt], words: Words) -> MisfitError:
    """The error for a file that no table fits: what is in the way of the nearest, and what does work, if anything."""
    from densenet_port.layouts.advice import advice  # noqa: PLC0415 (what fits needs none)

    nearest = _nearest(attempts, words)
    if nearest is None:
        return _unknown(checkpoint, [attempt.layout for attempt in attempts])
    ways = None
    if nearest.layout.is_own:  # else the table is what may be wrong
        ways = advice(checkpoint, words, [attempt.layout for attempt in attempts if attempt.ledger or attempt.error])
    if nearest.error:
        whose = "" if len(places(nearest.layout, checkpoint)) > 1 else f"as {nearest.layout.name}: "
        return MisfitError(f"{checkpoint.path}: {whose}{nearest.error.message}", hint=ways or nearest.error.hint)
    assert nearest.ledger  # noqa: S101 (an attempt has one or the other)
    if error := without_statistics(checkpoint, nearest.ledger):
        return error
    inferred = _inferred(nearest, words) if words.arch else None
    if inferred:
        return _other_architecture(checkpoint, nearest.ledger, inferred)
    if not nearest.layout.is_own and nearest.ledger.problems == len(nearest.ledger.unclaimed):
        ways = "name them under [units], or under `ignore` if they may be dropped"
    message = _listing(nearest.ledger) if words.src else _view(nearest)
    fits = f"{nearest.ledger.fit_count} of {len(nearest.layout.keys(nearest.ledger.architecture))} tensors fit"
    more = "" if words.src else f"; --src {nearest.layout.name} lists what does not"
    return MisfitError(f"{checkpoint.path}: {message}", hint=ways or fits + more)


def _unknown(checkpoint: Checkpoint, tried: Sequence[Layout]) -> MisfitError:
    """The error for a file in which no table recognises a name."""
    names = [f"{name} {tensor.shape}" for name, tensor in checkpoint.tensors.items()]
    who = f"{tried[0].name} does not have" if len(tried) == 1 else "no layout has"
    message = f"{checkpoint.path}: {who} the names of its {_count(len(names), 'tensor')}"
    shown = f": {', '.join(names[:FEW])}{' …' if len(names) > FEW else ''}" if names else ""
    hint = "`densenet-port inspect` lists them; a table of your own names them (--mapping, see docs/add-a-layout.md)"
    return MisfitError(message + shown, hint=hint)


def _other_architecture(checkpoint: Checkpoint, ledger: Ledger, inferred: Architecture) -> MisfitError:
    """The error for a file that would fit, were it not for the user's architecture."""
    message = f"{checkpoint.path} does not fit --arch {ledger.architecture.name}"
    hint = f"{ledger.problems} tensors differ or are unknown; every shape fits --arch {inferred.name}"
    return MisfitError("\n  ".join([message, *list(_misfits(ledger))[:FEW]]), hint=hint)


def _view(attempt: Attempt) -> str:
    """A file as a table sees it, in two lines."""
    assert attempt.ledger and attempt.scanned  # noqa: PT018, S101 (a ledger is of what was recognised)
    ledger, name = attempt.ledger, _network(attempt.ledger)
    alone = body(attempt.scanned, ledger.architecture)
    if alone.problems:
        shown = alone if alone.problems == len(alone.unclaimed) else ledger  # within the body, or all there are
        first = "" if shown.problems == 1 else "; the first"
        return f"{_count(shown.problems, 'misfit')} as {name}{first}\n  {next(_misfits(shown))}"
    tensors = attempt.scanned.checkpoint.tensors.items()
    beside = ", ".join(_modules({key: one for key, one in tensors if alone.ignored.get(key) == NO_TOP}))
    wrong = "".join(f"; {misfit}" for misfit in list(_misfits(ledger))[: len(ledger.wrong_shapes)][:1])
    return f"as {name} the body fits; beside it\n  {beside}{wrong}"


def _modules(tensors: Mapping[str, Tensor]) -> list[str]:
    """The modules or layers that hold tensors, each with the shape of the one of most axes; the first few."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors.items():
        module = re.sub(r"(?<=.)[./#][^./#]*$", "", name)
        shapes[module] = max(shapes.get(module, ()), tensor.shape, key=len)
    shown = [f"{module} {shape}" for module, shape in shapes.items()]
    return [*shown[:SHOWN], f"and {len(shown) - SHOWN} more"] if len(shown) > SHOWN else shown


def _network(ledger: Ledger) -> str:
    """A layout and an architecture, whose classes are no matter."""
    return f"{ledger.layout.name} {replace(ledger.architecture, classes=1000).name}"


def _listing(ledger: Ledger) -> str:
    """Every misfit under a table, or the first few, a line for each."""
    if ledger.problems == len(ledger.unclaimed):
        lines = _listed(ledger.unclaimed)
        head = f"no line of mappings/{ledger.layout.path.name} claims {_count(ledger.problems, 'tensor')}"
    else:
        lines = list(first_few(list(_misfits(ledger))))
        head = f"{_count(ledger.problems, 'misfit')} as {_network(ledger)}"
    return "\n  ".join([head, *lines])


def _misfits(ledger: Ledger) -> Iterator[str]:
    """A line for each tensor in the way."""
    for wrong in ledger.wrong_shapes:
        yield f"{wrong.key}  expected {wrong.expected}, found {wrong.actual}  ({wrong.name})"
    for key, name in ledger.missing.items():
        unit, axes = ledger.architecture.units[key.unit], ledger.layout.canonical_axes(key)
        shape = tuple(1 if axis == "1" else unit.sizes[axis] for axis in axes.split())
        yield f"{key}  is missing  (expected {name}, our shape {shape})"
    for key, names in ledger.ambiguous.items():
        yield f"{key}  could be any of {', '.join(names)}"
    for line in _listed(ledger.unclaimed):
        yield f"{line}  is claimed by no line of mappings/{ledger.layout.path.name}"


def _unrecorded(checkpoint: Checkpoint, name: str) -> MisfitError:
    """The error for a file that would fit a layout, did it not lack the record that the layout asks for."""
    return MisfitError(
        f"{checkpoint.path}: no other layout fits its {_count(len(checkpoint.tensors), 'tensor')}",
        hint=f"every tensor is {name}'s, but the file does not say that it is one: --src {name}, if you know",
    )


def _listed(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names and shapes, the first few."""
    return list(first_few([f"{name} {tensor.shape}" for name, tensor in tensors.items()]))


def first_few(lines: list[str]) -> Iterator[str]:
    """The lines that an error shows, and how many more there are."""
    yield from lines[:SHOWN]
    if len(lines) > SHOWN:
        yield f"and {len(lines) - SHOWN} more"


def _count(number: int, noun: str) -> str:
    """`1 tensor`, `2 tensors`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
