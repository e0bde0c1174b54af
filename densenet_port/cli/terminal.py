"""Results as text for a terminal: what a command gathered, as a string or as things that rich can draw.

Each function takes the plain object that `--json` prints; nothing here prints.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FEW = 4  # numbers with gaps that are listed one by one


def conversion(data: Mapping[str, Any]) -> str:
    """What `convert` did, or would do."""
    source, ledger, target = data["source"], data["ledger"], data["target"]
    ignored = "".join(f", {count} ignored by {rule!r}" for rule, count in ledger["ignored"].items())
    prefix = f", under {source['prefix']!r}" if source["prefix"] else ""
    lines = [
        f"{source['path']}: {source['layout']} {data['architecture']['name']} ({source['container']}{prefix})",
        f"  {ledger['used']} tensors used{ignored}; {ledger['filled']} of {ledger['slots']} slots filled",
        f"  {_contract_line(data['contract'], data['architecture']['classes'])}",
    ]
    if data["absorbed"]:
        change = data["absorbed"]
        lines.append(
            f"  epsilon {change['from']:g} became {change['to']:g}: taken up by the variance, "
            f"in {len(change['scale'])} norms by the scale"
        )
    lines += [f"  note: {note}" for note in data["notes"]]
    if target["path"]:
        lines.append(f"{target['path']}: {target['layout']}, {target['bytes']:,} bytes, {data['seconds']:.2f} s")
    else:
        lines.append(f"nothing written (--dry-run); it would be {target['layout']}")
    return "\n".join(lines)


def inspection(data: Mapping[str, Any]) -> list[Any]:
    """A checkpoint: what it is, and its tensors, alike ones in one row."""
    lines = [f"{data['file']}: {data['container']}, {data['bytes']:,} bytes, {len(data['tensors'])} tensors"]
    if data["layout"]:
        prefix = f", under {data['prefix']!r}" if data["prefix"] else ""
        lines.append(f"{data['layout']} {data['architecture']['name']}{prefix}")
        lines.append(_contract_line(data["contract"], data["architecture"]["classes"]))
    else:
        lines += filter(None, (data["misfit"]["message"], data["misfit"]["hint"]))
    if data["written_by"]:
        lines.append(f"written by {data['written_by']}")
    used = [tensor for tensor in data["tensors"] if tensor["slot"]]
    rest = [tensor for tensor in data["tensors"] if not tensor["slot"]]
    parts: list[Any] = ["\n".join(lines), ""]
    if used:
        parts.append(_rows(("ours", "theirs", "tensors", "dtype", "shape", "digest"), _collapsed(used)))
    if rest:
        title = "left over" if used else "tensors"
        parts += ["", _rows((title, "rule", "tensors", "dtype", "shape", "digest"), _collapsed(rest))]
    return parts


def difference(data: Mapping[str, Any]) -> list[Any]:
    """Two checkpoints, slot by slot."""
    first, second = data["files"]
    lines = [
        f"{first} ({data['layouts'][0]}) and {second} ({data['layouts'][1]})",
        f"{data['identical']} tensors identical, {len(data['differing'])} differ",
    ]
    lines += [f"{key}: {old} and {new}" for key, (old, new) in data["contracts"].items()]
    lines += [
        f"only in {name}: {slot}" for name, slots in zip(data["files"], data["only"], strict=True) for slot in slots
    ]
    parts: list[Any] = ["\n".join(lines)]
    if data["differing"]:
        worst = sorted(data["differing"], key=lambda row: -row["ulps"])
        rows = [(row["slot"], f"{row['absolute']:.3g}", f"{row['ulps']:.3g}") for row in worst]
        parts += ["", _rows(("slot", "largest difference", "in ULP"), rows)]
    return parts


def diagnosis(data: Mapping[str, Any]) -> str:
    """The mistakes that explain a difference."""
    if data["passed"]:
        return "the same network: nothing to explain"
    place = f"first off: {data['where'] or 'nowhere alone'}, on the side of the {data['off'] or 'port'}"
    lines = [f"not the same network; {place}"]
    lines += [f"  {finding['mistake']}: {finding['says']}" for finding in data["findings"]]
    return "\n".join(lines if data["findings"] else [*lines, "  no known mistake explains it"])


def verification(data: Mapping[str, Any]) -> str:
    """Digests, and golden logits where there are some."""
    lines = [f"{data['file']}: {data['tensors']} tensors, every digest as written"]
    for check in data["checks"]:
        verdict = "ok" if check["passed"] else "FAILED"
        lines.append(f"  {check['name']}: {check['measured']:.1e}, at most {check['bound']:.1e}  {verdict}")
    return "\n".join(lines)


LEVELS = {"logits": "●", "names": "◐", "table": "○", None: "–"}  # the best evidence first
LEGEND = (
    "Each network twice, as source and as target. ● its logits agree with those of the layout's own software, or of a\n"
    "stand-in (the card in --json says which, and how far they agree); ◐ the names of its tensors are recorded from\n"
    "that software; ○ by the table alone; – not possible."
)


def built(data: Mapping[str, Any]) -> str:
    """The networks of a release that was built."""
    lines = []
    for network in data["networks"]:
        if network["passed"]:
            lines.append(
                f"{network['network']}: {'kept' if network['kept'] else 'built'}, {len(network['files'])} files"
            )
        else:
            lines.append(f"{network['network']}: FAILED its check, and is not in the release; see {network['report']}")
            lines += [f"  {name}" for name in network["failed"]]
    there = any(network["passed"] for network in data["networks"])
    return "\n".join([*lines, f"{data['folder']}: {'release ' + data['tag'] if there else 'no release'}"])


def verified(data: Mapping[str, Any]) -> str:
    """The checks of a release."""
    failed = [check for check in data["checks"] if not check["passed"]]
    verdict = "every check passed" if data["passed"] else f"{len(failed)} FAILED"
    counts = f"{len(data['files'])} weight files, {len(data['checks'])} checks, {verdict}"
    lines = [f"{data['place']}: release {data['tag']}, {counts}"]
    lines += [
        f"  {check['name']}: {check['says']}  {'ok' if check['passed'] else 'FAILED'}" for check in data["checks"]
    ]
    return "\n".join([*lines, *(f"note: {note}" for note in data["notes"])])


def published(data: Mapping[str, Any]) -> str:
    """The steps of a publication, done or planned."""
    lines = [f"  {step['doing']} {step['name']}{': ' + step['why'] if step['why'] else ''}" for step in data["steps"]]
    there = "would be done (--dry-run)" if data["dry_run"] else f"done: {data['page']}"
    return "\n".join([*lines, *(f"note: {note}" for note in data["notes"]), f"{data['repo']} {data['tag']}: {there}"])


def layouts(data: Mapping[str, Any]) -> list[Any]:
    """The layouts, and the networks that each can hold."""
    rows, cells = [], []
    for entry in data["layouts"]:
        contract, card = entry["contract"], entry["card"]
        told = contract if isinstance(contract, str) else f"{contract['epsilon']:g}, {contract['stem_padding']}"
        rows.append((entry["layout"], ", ".join(entry["writes"]), told, entry["about"]))
        measured = f"{card['software']}, {card['date']}" if card else "–"
        cells.append((entry["layout"], *_marks(entry["support"]).values(), measured))
    columns = _marks(data["layouts"][0]["support"])
    return [
        _rows(("layout", "written as", "epsilon, stem padding", "what it is"), rows),
        "",
        _rows(("layout", *columns, "measured with"), cells),
        "",
        LEGEND,
    ]


def archs(data: Mapping[str, Any]) -> list[Any]:
    """The architectures that have a name."""
    rows = [
        (
            e["arch"],
            "-".join(map(str, e["numbers"]["layers"])),
            e["numbers"]["growth_rate"],
            f"{e['trainable']:,}",
            e["tensors"],
        )
        for e in data["archs"]
    ]
    return [_rows(("arch", "layers per block", "growth rate", "trainable values", "tensors"), rows)]


def doctor(data: Mapping[str, Any]) -> list[Any]:
    """What is installed, and where things are."""

    def told(versions: Mapping[str, str | None]) -> str:
        return ", ".join(f"{name} {found or 'not installed'}" for name, found in versions.items())

    rows: list[tuple[str, Any]] = [
        ("densenet-port", data["version"]),
        ("Python", data["python"]),
        ("core", told(data["core"])),
    ]
    rows += [(f"extra {extra}", told(versions)) for extra, versions in data["extras"].items()]
    rows += [("mappings", data["mappings"]), ("layouts", ", ".join(data["layouts"]))]
    rows += [("registered", ", ".join(data["registered"])), ("cache", data["cache"])]
    return [_rows(("", ""), rows)]


def cache(data: Mapping[str, Any]) -> list[Any]:
    """The weight files in the cache."""
    heads = ("file", "source", "arch", "bytes", "known by", "SHA-256", "")
    rows = [
        (
            e["file"],
            e["source"],
            e["arch"],
            f"{e['bytes']:,}",
            e["known_by"],
            (e["sha256"] or "not hashed")[:12],
            _state(e),
        )
        for e in data["files"]
    ]
    return [data["folder"], _rows(heads, rows) if rows else "  empty"]


def demo(data: Mapping[str, Any]) -> str:
    """The small network, converted and the same."""
    accuracy = f"{data['accuracy_before']:.2%} in PyTorch, {data['accuracy_after']:.2%} converted"
    difference = f"{data['relative32']:.1e} in float32, {data['relative64']:.1e} in float64"
    lines = [
        f"a DenseNet trained on handwritten digits: {data['tensors']} tensors, {data['parameters']:,} values",
        "converted from torchvision's layout to Keras 3, every digest as written",
        f"accuracy on {data['images']} digits that it never saw: {accuracy}",
        f"same answer for {data['agreeing']} of {data['images']}",
        f"largest logit difference, in deviations of the logits: {difference}",
        f"{data['seconds']:.1f} s, no framework",
    ]
    return "\n".join(lines)


def _grid(*headings: str) -> Any:
    """An empty table without a box."""
    from rich.table import Table as RichTable

    grid = RichTable(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        grid.add_column(heading, overflow="fold")
    return grid


def _rows(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> Any:
    """A table of plain cells."""
    from rich.text import Text

    grid = _grid(*headings)
    for row in rows:
        grid.add_row(*(Text(str(cell)) for cell in row))
    return grid


def _contract_line(contract: Mapping[str, Any], classes: int | None) -> str:
    """Classes and contract; pools only where they are not the original network's."""
    told = [f"epsilon {contract['epsilon']:g}", f"{contract['stem_padding']} stem padding"]
    told += ["blur pool"] if contract["stem_pool"] == "blur" else []
    told += ["pools round up"] if contract["pool_rounding"] == "ceil" else []
    head = f"{classes} classes" if classes else "no head"
    return f"{head}; {', '.join(told)}, {contract['input']['order']} input"


def _collapsed(tensors: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """Rows of tensors that differ in their running numbers only, in the order of their first."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for tensor in tensors:
        slot = tensor["slot"]
        name = re.sub(r"(block|layer|transition)\d+", r"\1#", slot) if slot else re.sub(r"\d+", "#", tensor["name"])
        groups.setdefault((name, str(tensor["ignored"]), tensor["dtype"]), []).append(tensor)
    return [_collapsed_row(group) for group in groups.values()]


def _collapsed_row(group: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    first = group[0]
    names = _ranges([tensor["name"] for tensor in group])
    digest = hashlib.sha256("".join(tensor["sha256"] for tensor in group).encode()).hexdigest()
    shape = " ".join(_range(sizes) for sizes in zip(*(tensor["shape"] for tensor in group), strict=False)) or "scalar"
    leading = (
        (_ranges([t["slot"] for t in group]), names)
        if first["slot"]
        else (names, first["ignored"] or "no line claims it")
    )
    return (*leading, len(group), first["dtype"], shape, (first["sha256"] if len(group) == 1 else digest)[:12])


def _ranges(names: Sequence[str]) -> str:
    """Names alike but for their numbers, as one: `block{1…4}.layer{1…24}.norm1`."""
    split = [re.split(r"(\d+)", name) for name in names]
    if len({len(parts) for parts in split}) > 1:
        return f"{names[0]} …"
    columns = zip(*split, strict=True)
    return "".join(_range([int(p) for p in column]) if column[0].isdigit() else column[0] for column in columns)


def _range(numbers: Sequence[int]) -> str:
    seen = sorted(set(numbers))
    if len(seen) == 1:
        return str(seen[0])
    gapless = len(seen) > FEW or seen[-1] - seen[0] == len(seen) - 1
    return f"{{{seen[0]}…{seen[-1]}}}" if gapless else f"{{{','.join(map(str, seen))}}}"


def _marks(support: Mapping[str, Sequence[str | None]]) -> dict[str, str]:
    """Architecture, or family of CIFAR networks → the marks of its weakest member, as a source and as a target."""
    order = list(LEVELS)
    families: dict[str, list[Sequence[str | None]]] = {}
    for name, levels in support.items():
        family = re.sub(r"^(cifar(-bc)?)-\d.*", r"\1", name)
        families.setdefault(family, []).append(levels)
    return {
        family: "".join(LEVELS[max(side, key=order.index)] for side in zip(*many, strict=True))
        for family, many in families.items()
    }


def _state(entry: Mapping[str, Any]) -> str:
    return ": ".join(filter(None, (entry.get("state"), entry.get("fault"))))
