"""A mapping table learned from a file, with what is proven of it and what is assumed in its comments.

The table is held against the file before it is written: it must read the network that it was learned from, every
tensor to the bit, and spell the file's own names.
"""

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from densenet_port.about import __version__
from densenet_port.checkpoint import Checkpoint
from densenet_port.conversion.load import Network, port, read
from densenet_port.conversion.opening import opened
from densenet_port.conversion.origins import entries_of
from densenet_port.errors import DiskError, MisfitError, PortError, UsageError
from densenet_port.files import resource, whole
from densenet_port.layouts.heads import OLD_FIRST
from densenet_port.layouts.layout import SPLIT, STRUCTURE, Kernels, Layout, layouts
from densenet_port.layouts.learn import WITHOUT, Names, names_of
from densenet_port.layouts.match import Ledger
from densenet_port.layouts.scan import ROOT
from densenet_port.layouts.schema import OPTIONAL_ENTRIES, part_axes
from densenet_port.layouts.structure import section_of
from densenet_port.network.channels import CONCATENATIONS, FLATTENS
from densenet_port.network.contract import ENTRIES, WORDS, Origin
from densenet_port.network.explanations import STEM_POOL
from densenet_port.network.graph import graph
from densenet_port.network.head import USUAL
from densenet_port.network.units import Kind

TABLE = Path("structure", "learned.toml")
SUFFIX = ".toml"
UNKNOWN = "ASSUMED: nothing in the file says it"
BECAUSE: dict[Origin, str] = {
    "graph": "by the file's own graph",
    "record": "by what the file records of itself",
    "statistics": "by the file's running statistics",
    "software": "as the software of the file's layout builds it",
    "user": "by your word",
    "assumed": UNKNOWN,
}
LOOK_UP = "what is assumed stands in the network's own code: look it up, and take it out of `assumed`"

Reader = Callable[[Path], Network]  # the same file by a table


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A table learned from a network: where it is, what it says, and in words what of it is proven and what assumed.

    `stated` is what the user, or the software of a layout that reads the file already, says of the contract. `outside`
    is what stands before all names in the file and is no part of the network's own.
    """

    network: Network
    out: Path
    layout: Layout
    outside: str
    proven: tuple[str, ...]
    stated: tuple[str, ...]
    assumed: tuple[str, ...]


def learn(
    source: str | PathLike[str] | Checkpoint,
    *,
    out: str | PathLike[str],
    kernels: Kernels | None = None,
    within: str | None = None,
    no_top: bool = False,
    output_name: str | None = None,
    contract: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Learned:
    """Write the table of an unknown file to `out`, once it has read the file and every tensor is the same, bit by bit.

    `kernels`, `within`, `no_top`, `output_name` and `contract` are as in `read`. `force` replaces an existing table,
    and learns from a file that a table has already. Raises the errors of `read`; UsageError for a place that is taken
    or is no table's, and for a file that another table reads; MisfitError for names that no table can say.
    """
    place = Path(out)
    _check_place(place, force=force)
    checkpoint = opened(source, port=port, output=output_name, body=no_top)
    network = read(checkpoint, kernels=kernels, within=within, no_top=no_top, contract=contract)
    if network.layout != STRUCTURE and not force:
        hint = "convert it as it is; --force learns a table of its names all the same"
        raise UsageError(f"{checkpoint.path}: {network.layout}'s table reads it", hint=hint)
    outside = _outside(network)
    text = table_of(network, place.stem, outside, kernels)
    with whole(place) as temporary:
        temporary.write_text(text, encoding="utf-8")
        check_table(
            network, temporary, outside, lambda table: read(checkpoint, src=table, within=within, no_top=no_top)
        )
    return Learned(
        network=network,
        out=place,
        layout=Layout.load(place),
        outside=outside,
        proven=tuple(_proven(network)),
        stated=tuple(_by(network, ("user", "software"))),
        assumed=tuple(_assumed(network)),
    )


def _check_place(out: Path, *, force: bool) -> None:
    """Refuse a place that no table can have, or that is taken."""
    if out.suffix != SUFFIX:
        raise UsageError(f"{out}: a table's name ends in {SUFFIX}", hint=f"--out {out.with_suffix(SUFFIX)}")
    if out.stem in (*layouts(), STRUCTURE):
        raise UsageError(
            f"{out}: a layout is called {out.stem} already", hint="the table's file gives its layout's name"
        )
    if out.is_dir():
        raise DiskError(f"{out}: cannot be written: is a directory")
    if out.exists() and not force:
        raise UsageError(f"{out}: exists already", hint="pass --force to replace it, or --out to write elsewhere")


def _outside(network: Network) -> str:
    """What stands before a network's names that its own software does not call it: where a state dict is kept."""
    if network.within not in (None, ROOT):
        name = next(iter(network.ledger.claims.values())).name
        start = str(network.within).rstrip(SPLIT)
        return name[: len(start) + 1]
    names = [claim.name for claim in network.ledger.claims.values()]
    modules: Sequence[str] = network.checkpoint.metadata.get("modules") or ()
    around = [f"{module}." for module in modules if module and all(name.startswith(f"{module}.") for name in names)]
    return min(around, key=len, default="") if modules and "" not in modules else ""


# -- the comparison ----------------------------------------------------------------------------------------------------


def check_table(network: Network, table: Path, outside: str, by_table: Reader) -> None:
    """Hold a table against the network that it was learned from.

    Raises MisfitError where it does not read the file, RuntimeError where it reads another network, or writes other
    names: a table that is wrong is a fault of what learned it.
    """
    path = network.checkpoint.path
    try:
        again = by_table(table)
    except PortError as error:
        why = error.message.removeprefix(f"{path}: ").replace(str(table), "the table").splitlines()[0]
        raise MisfitError(f"{path}: a table of its names does not read it\n  {why}", hint=WITHOUT) from error
    if difference := next(_differences(network, again, outside), None):
        raise RuntimeError(f"{path}: the table that was learned is wrong: {difference}")


def _differences(network: Network, again: Network, outside: str) -> Iterator[str]:
    """What is another in a network that is read by its table."""
    if again.architecture != network.architecture:
        yield f"its architecture is {again.architecture.spec}, not {network.architecture.spec}"
        return
    if (contract := entries(again)) != entries(network):
        yield f"its contract is {contract}, not {entries(network)}"
    for slot, array in network.weights.items():
        other = again.weights[slot]
        if (array.dtype, array.shape, array.tobytes()) != (other.dtype, other.shape, other.tobytes()):
            yield f"{slot} is another tensor"
    specs = again.ledger.layout.spell(network.architecture)
    for key, claim in network.ledger.claims.items():
        if key in specs and (outside + specs[key].name, specs[key].axes) != (claim.name, claim.axes):
            yield f"{key} is written as {specs[key].name} ({specs[key].axes}), not {claim.name} ({claim.axes})"


# -- what is known -----------------------------------------------------------------------------------------------------


def _proven(network: Network) -> Iterator[str]:
    """What of a table is known to be right, in words."""
    way = "its structure does" if network.layout == STRUCTURE else f"{network.layout}'s does"
    yield f"names: the table reads the file as {way}, {len(network.ledger.claims)} tensors the same bit by bit"
    if network.witness and network.witness.line:
        yield f"wiring: {network.witness.line}"
    yield from _by(network, ("graph", "record", "statistics"))


def _by(network: Network, origins: Sequence[Origin]) -> Iterator[str]:
    """The entries of the contract that are known from some origins, in words."""
    values = entries(network)
    for key, origin in network.origins.items():
        if origin in origins:
            yield f"{key} {values[key]}: {_because(network, key, origin)}"


def _assumed(network: Network) -> Iterator[str]:
    """What of a table nothing in the file tells, in words."""
    values = entries(network)
    yield from (f"{key} {values[key]}" for key in _unknown_entries(network))
    yield from network.ledger.assumed
    if network.evidence:
        yield from network.evidence.assumed
    if network.ledger.kernels_assumed:
        yield f"kernels as {network.ledger.kernels} has them"


def _unknown_entries(network: Network) -> list[str]:
    """The entries of the contract that are assumed."""
    return [key for key, origin in network.origins.items() if origin == "assumed"]


def _unknown(network: Network) -> list[str]:
    """What of the table stands in it without being known: entries, the order of channels, the head."""
    head = network.architecture.head != USUAL and any("head" in text for text in network.ledger.assumed)
    is_untold = OLD_FIRST in network.ledger.assumed
    return [*_unknown_entries(network), *(["concatenation"] if is_untold else []), *(["head"] if head else [])]


def _because(network: Network, key: str, origin: Origin) -> str:
    """Where an entry is known from, with the numbers of what testifies to it."""
    explanations = network.witness.explanations if network.witness else ()
    if key == "stem_pool" and origin == "statistics":
        for one in explanations:
            if one.question == STEM_POOL and one.best:
                other = f"{one.alternatives[one.best]:.3f} with {one.best}"
                return f"{BECAUSE[origin]}: residual {one.residual:.3f} with {one.assumed}, {other}"
    if key == "epsilon" and origin == "assumed" and network.witness and network.witness.epsilons:
        epsilon, change = max(network.witness.epsilons.items(), key=lambda item: item[1])
        return f"{BECAUSE[origin]}; with {epsilon:g} a norm's slope changes by {100 * change:.2g} % at most"
    if key == "input" and origin == "assumed" and network.witness and network.witness.picture:
        means = ", ".join(f"{mean:.2f}" for mean in network.witness.picture)
        return f"{BECAUSE[origin]}; prepared pictures of its training have the means {means}"
    return BECAUSE[origin]


# -- the text ----------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """One line of a table: key, value in TOML, comment."""

    key: str
    value: str
    comment: str = ""


def table_of(network: Network, name: str, outside: str, kernels: Kernels | None = None) -> str:
    """The text of a network's table, whose layout is called `name`.

    `outside` is what stands before all names in the file and not in the table; `kernels` is the user's word. Raises
    MisfitError for names that no table can say.
    """
    try:
        names = names_of(network.ledger, outside)
    except MisfitError as error:
        raise MisfitError(f"{network.checkpoint.path}: {error.message}", hint=error.hint) from error
    sections = [
        [*_header(network), *_lines(_top(network, name, names))],
        ["[contract]", *_lines(_contract_lines(network))],
        ["[units] # ours = theirs", *_lines(Line(_text(unit), _text(text)) for unit, text in names.units.items())],
        ["[tensors]", *_lines(_tensor_lines(network, names, kernels))],
    ]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _header(network: Network) -> Iterator[str]:
    """What the table is, and what of it is known, in comments."""
    name, numbers = network.checkpoint.path.name, network.architecture.name
    yield _comment(f"Learned by densenet-port {__version__} from {name}, a DenseNet {numbers}.")
    for text in _proven(network):
        if not text.startswith(WORDS):
            yield _comment(f"Proven: {text}.")
    others = [text for text in _assumed(network) if not text.startswith(WORDS)]
    if others:
        yield _comment(f"Assumed beside the contract: {'; '.join(others)}.")
    if _unknown(network):
        yield _comment(f"{LOOK_UP[0].upper()}{LOOK_UP[1:]}.")


def _top(network: Network, name: str, names: Names) -> Iterator[Line]:
    """The table's first lines."""
    ledger = network.ledger
    section = section_of(TABLE, network.checkpoint.container, "read", ("containers", "include"))
    include, rules = _ignored(ledger, section.text("include"))
    yield Line("layout", _text(name))
    yield Line("about", _text(f"learned from {network.checkpoint.path.name}"))
    yield Line("containers", _value(list(section.texts("containers"))))
    yield Line("reference", _text("numpy"), "software that runs it is not known")
    yield Line("first", _value(dict(names.first)))
    yield Line("only", _value(_only(network)), "what the file has; add what else its software can build")
    classes = network.architecture.classes
    yield Line("classes", str(classes or 0), "" if classes else "bodies without a head")
    if ledger.layout.concatenation != CONCATENATIONS[0]:
        yield Line("concatenation", _text(ledger.layout.concatenation))
    if ledger.layout.flatten != FLATTENS[0]:
        yield Line("flatten", _text(ledger.layout.flatten))
    if include:
        yield Line("include", _text(include))
    if rules:
        yield Line("ignore", _value(rules))
    if unknown := _unknown(network):
        yield Line("assumed", _value(unknown), "told wherever the table reads")


def _only(network: Network) -> dict[str, Any]:
    """The numbers of the architecture that a layout may not be able to do without."""
    numbers = network.architecture
    only: dict[str, Any] = {"stem": numbers.stem, "bottleneck": numbers.bottleneck}
    if len(numbers.layers) == 1:
        only["layers"] = [list(numbers.layers)]
    else:
        only["reduction"] = [numbers.reduction] if isinstance(numbers.reduction, tuple) else numbers.reduction
    if not numbers.final_norm:
        only["final_norm"] = False
    if numbers.head != USUAL:
        only["head"] = numbers.head
    return only


def _ignored(ledger: Ledger, include: str) -> tuple[str, list[str]]:
    """The list of `shared/` to include, and the rules beyond it by which tensors of the file are left out."""
    used = [rule for rule in dict.fromkeys(ledger.ignored.values()) if rule in ledger.layout.ignore]
    lists = {path.stem: _rules(path) for path in sorted((resource("mappings") / "shared").glob(f"*{SUFFIX}"))}
    include = include or next((name for name, rules in lists.items() if {*used} & rules), "")
    return include, [rule for rule in used if rule not in lists.get(include, ())]


def _rules(path: Path) -> frozenset[str]:
    """The rules of a list that tables include."""
    return frozenset(tomllib.loads(path.read_text("utf-8"))["ignore"])


def entries(network: Network) -> dict[str, str]:
    """Entry of the contract → its value in TOML: those that must be there, and those that say something.

    A stem that strides as its kind does has that stride.
    """
    numbers, contract = network.architecture, network.contract
    stem = graph(numbers, contract).operations[next(iter(numbers.units))]
    values = {**{key: getattr(contract, key) for key in ENTRIES}, "stem_stride": stem.stride}
    values["input"] = contract.input.to_json()
    relevant = set(entries_of(numbers, contract))
    if contract.resize:
        values["resize"] = contract.resize.to_json()
        relevant.add("resize")
    return {key: _value(values[key]) for key in WORDS if key in relevant or key not in OPTIONAL_ENTRIES}


def _contract_lines(network: Network) -> Iterator[Line]:
    """The entries of the contract, with where each is known from."""
    for key, value in entries(network).items():
        origin = network.origins.get(key)
        yield Line(key, value, _because(network, key, origin) if origin else "without a say in this network")


def _tensor_lines(network: Network, names: Names, kernels: Kernels | None) -> Iterator[Line]:
    """How the tensors of a unit are called, and the order of their axes."""
    ledger, layout = network.ledger, network.ledger.layout
    kinds: tuple[Kind, ...] = ("conv", "dense")
    for kind in kinds:
        parts = names.parts.get(kind, {})
        for part, (name, axes) in parts.items():
            ways = _ways(ledger, axes, kernels) if (kind, part) == ("conv", "kernel") else axes
            yield Line(f"{kind}.{part}", _tensor(kind, part, name, ways, None))
        if kind == "dense" and parts and "bias" not in parts:
            (name,) = layout.tensors["dense"]["bias"].names[:1]
            yield Line("dense.bias", _text(name), "not in the file")
    norm = {part: _tensor("norm", part, *names.parts["norm"][part], layout.fold) for part in layout.norm_parts}
    yield Line("norm", _inline({**({"fold": _text(layout.fold)} if layout.fold else {}), **norm}))


def _ways(ledger: Ledger, axes: str, kernels: Kernels | None) -> str | list[str]:
    """The order of a kernel's axes; and those that differ in the direction alone, where nobody knows which it is."""
    if kernels or not ledger.kernels_assumed:
        return axes
    stored = ledger.layout.tensors["conv"]["kernel"].axes
    alike = [one for one in stored if one.replace("-", "") == axes.replace("-", "") and one != axes]
    return [axes, *alike] if alike else axes


def _tensor(kind: Kind, part: str, name: str, axes: str | list[str], fold: str | None) -> str:
    """A tensor's name, and the order of its axes where it has several or another than ours."""
    usual = {**part_axes(kind, fold), "bias": "o"}[part]
    if " " not in usual and axes == usual:
        return _text(name)
    return _inline({"name": _text(name), "axes": _value(axes)})


# -- TOML --------------------------------------------------------------------------------------------------------------


def _lines(lines: Iterator[Line]) -> list[str]:
    """Lines with their keys padded to one width."""
    listed = list(lines)
    width = max(len(line.key) for line in listed)
    return [f"{line.key:{width}} = {line.value} {_comment(line.comment)}".rstrip() for line in listed]


def _comment(text: str) -> str:
    """A comment of one line, whatever a file's names hold; nothing for none."""
    return f"# {' '.join(text.split())}" if text else ""


def _text(text: str) -> str:
    """A string; TOML's and JSON's are alike, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _inline(entries: Mapping[str, str]) -> str:
    """A table of values in one line."""
    return "{ " + ", ".join(f"{key} = {value}" for key, value in entries.items()) + " }"


def _value(value: object) -> str:
    """A value in TOML: a string, a truth value, a number, a list or a table."""
    if isinstance(value, Mapping):
        return _inline({key: _value(entry) for key, entry in value.items()})
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        return _text(value)
    return str(value).lower() if isinstance(value, bool) else repr(value)
