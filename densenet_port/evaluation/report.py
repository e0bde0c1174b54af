"""One evaluation, three forms: terminal, JSON, and a web page that stands alone, with the pictures of flips in it.

As in `prove.report`, names come from files that anybody may have written. The same evaluation gives the same page.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from densenet_port.about import __version__
from densenet_port.errors import PortError
from densenet_port.evaluation import charts
from densenet_port.evaluation.figures import figures, hints
from densenet_port.evaluation.run import Evaluation
from densenet_port.evaluation.statistics import Flip, Unread
from densenet_port.files import write_into
from densenet_port.network.contract import Resize
from densenet_port.prove.charts import thumbnail
from densenet_port.prove.tables import Table, clean, drawn, plain, shown, side_by_side, templates

SHOWN = 60  # flips whose pictures are on the page: a megabyte of thumbnails at most
LISTED = 10  # pictures that a terminal lists
BY = {  # where something is known from, as it is said
    "assumed": "assumed",
    "graph": "by its own graph",
    "record": "by its record",
    "statistics": "by its statistics",
    "software": "by its layout's software",
    "user": "by your word",
}


class Card(NamedTuple):
    """A flip: the picture's name, its thumbnail (a `data:` URI, None for one that cannot be shown), and the flip."""

    name: str
    thumbnail: str | None
    flip: Flip


# -- the forms ---------------------------------------------------------------------------------------------------------


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything, as values that strict JSON has.

    `figures` are those of `figures.figures`, `statistics` what they are computed of; both are the same however the work
    was spread. `flips`, `unread` and `unanswered` name the pictures. `run` has what differs from run to run. The schema
    is `densenet-port/evaluate/1`: keys may be added to it, and what they say stays.
    """
    statistics, pictures = evaluation.statistics, evaluation.data.pictures
    flips = [{"picture": clean(pictures.name(flip.number)), **flip._asdict()} for flip in statistics.flips]
    return {
        "port": plain(evaluation.port),
        "original": plain(evaluation.original),
        "independent": evaluation.original is not None and evaluation.dependence is None,
        "dependence": evaluation.dependence,
        "data": {"path": clean(evaluation.data.place), **evaluation.data.facts()},
        "settings": dict(evaluation.settings),
        "figures": plain(_figures(evaluation)),
        "hints": _hints(evaluation),
        "flips": flips,
        "unread": [{"picture": clean(pictures.name(one.number)), **plain(one._asdict())} for one in statistics.unread],
        "unanswered": [{"picture": clean(pictures.name(one.number)), **one._asdict()} for one in statistics.unanswered],
        "statistics": statistics.to_json(),
        "run": {"pictures": evaluation.done, "seconds": round(evaluation.seconds, 3)},
    }


def terminal(evaluation: Evaluation) -> list[Any]:
    """Strings and rich renderables, in order: what was looked at, shares, differences, what it looks like, notes."""
    parts: list[Any] = [_sentence(evaluation), ""]
    for table in _tables(evaluation):
        if table.rows:
            parts += [drawn(table), ""]
    listed = [*_listed(evaluation)]
    lines = [*_lines(evaluation), *listed[:LISTED]]
    if len(listed) > LISTED:
        lines.append(f"and {len(listed) - LISTED} more pictures; --report DIR and --json list them all")
    return [*parts, *lines] if lines else parts[:-1]


def cautions(evaluation: Evaluation) -> list[str]:
    """What `--quiet` must not hide: what is assumed, what was not read, and what it looks like."""
    return _lines(evaluation)


def html(evaluation: Evaluation) -> str:
    """One web page that needs nothing else: styles, charts and pictures are in it, and no script."""
    computed = _figures(evaluation)
    pair = computed["pair"]
    cards = [*_cards(evaluation)]
    environment = templates("densenet_port.evaluation", "densenet_port.prove")
    return environment.get_template("evaluation.html").render(
        evaluation=evaluation,
        sentence=_sentence(evaluation),
        lines=_lines(evaluation),
        key_figures=[*_key_figures(computed)],
        tables={table.title: table for table in _tables(evaluation)},
        histogram_chart=pair and charts.histogram(pair["equal"], pair["histogram"], width=480, height=240),
        pair=pair,
        reliabilities=[
            (side, facts["calibration"]["error"], charts.reliability(facts["calibration"]["bins"], side=380))
            for side, facts in computed["sides"].items()
            if facts["calibration"]
        ],
        bins=_bins(computed),
        cards=cards,
        more=len(evaluation.statistics.flips) - len(cards),
        listed=[*_listed(evaluation)],
        files=side_by_side("Networks", _described(evaluation)),
        settings=side_by_side("Settings", {"value": {**evaluation.data.facts(), **evaluation.settings}}),
        method=computed["method"],
        version=__version__,
    )


def write(evaluation: Evaluation, folder: Path) -> dict[str, Path]:
    """Write `evaluation.json` and `evaluation.html` into a folder, made where it is missing.

    Each appears whole or not at all. Gives name → path. Raises DiskError.
    """
    data = json.dumps({"schema": "densenet-port/evaluate/1", **to_json(evaluation)}, indent=1, allow_nan=False) + "\n"
    contents = {"evaluation.json": data.encode(), "evaluation.html": html(evaluation).encode()}
    return write_into(folder, contents)


# -- what every form says ----------------------------------------------------------------------------------------------


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    return figures(evaluation.statistics, int(evaluation.port["architecture"]["classes"]))


def _sentence(evaluation: Evaluation) -> str:
    """What was looked at."""
    sides = [side["path"] for side in (evaluation.port, evaluation.original) if side is not None]
    count = evaluation.statistics.counts.get("pictures", 0)
    took = f"{evaluation.seconds:.1f} s"
    return shown(f"{' and '.join(sides)} on {evaluation.data.place}: {count:,} pictures, {took}")


def _tables(evaluation: Evaluation) -> list[Table]:
    """Right answers of each side, and what the two have to do with one another."""
    computed = _figures(evaluation)
    pair = computed["pair"]
    names = {"port": evaluation.port["name"], "original": (evaluation.original or {}).get("name")}
    rows: list[tuple[Any, ...]] = []
    for side, facts in computed["sides"].items():
        shares = [_share(facts.get(top)) for top in ("top1", "top5")]
        error = facts["calibration"] and f"{facts['calibration']['error']:.4f}"
        rows.append((f"{side} ({names[side]})", *shares, error))
    if pair and pair["difference"]:
        rows.append(("port − original", *(_points(pair["difference"].get(top)) for top in ("top1", "top5")), None))
    accuracy = Table("Accuracy", ("", "top-1", "top-5", "calibration error"), rows)
    return [accuracy, _pair(evaluation, pair)] if pair else [accuracy]


def _pair(evaluation: Evaluation, pair: Mapping[str, Any]) -> Table:
    """How the two sides differ."""
    largest = pair["largest"]
    rows: list[tuple[Any, ...]] = [
        ("same answer", _share(pair["agreement"]), _flips(pair)),
        ("logits apart, root mean square", pair["rms"], f"{pair['equal']:,} of {pair['values']:,} are equal"),
    ]
    if largest:
        rows.append(("at most", largest["difference"], evaluation.data.pictures.name(largest["number"])))
    if pair["difference"]:
        top = pair["difference"]["top1"]
        detail = f"{top['port_alone']:,} right by the port alone, {top['original_alone']:,} by the original alone"
        rows.append(("top-1, by McNemar's exact test", f"p = {top['p']:.3g}", detail))
    return Table("Port and original", ("port and original", "", ""), rows)


def _flips(pair: Mapping[str, Any]) -> str:
    return "1 flip" if pair["flips"] == 1 else f"{pair['flips']:,} flips"


def _share(facts: Mapping[str, Any] | None) -> str | None:
    """A share with its interval: `99.78 % (98.75 to 99.96)`."""
    if facts is None:
        return None
    low, high = facts["interval"]
    return f"{facts['share']:.2%} ({100 * low:.2f} to {100 * high:.2f})"


def _points(facts: Mapping[str, Any] | None) -> str | None:
    """A difference of two shares with its interval, in percentage points."""
    if facts is None:
        return None
    low, high = facts["interval"]
    return f"{100 * facts['share']:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def _lines(evaluation: Evaluation) -> list[str]:
    """What the figures rest on, and what they look like."""
    lines = [f"looks like: {hint}" for hint in _hints(evaluation)]
    if evaluation.dependence is not None:
        lines.append(f"not independent: {evaluation.dependence}")
    lines += _preparations(evaluation)
    for side, facts in _described(evaluation).items():
        if len(facts["ran"]) > 1:
            lines.append(f"note: {len(facts['ran'])} sets of versions ran the {side}; --json lists them")
        own = facts["contract"].get("resize")
        if own and facts.get("resize", own) != own:
            lines.append(f"note: pictures are not resized as the {side}'s own contract says: {Resize.from_json(own)}")
        if because := facts.get("because"):
            lines.append(f"note: {facts['name']} runs the {side}: {because}")
    unread, unanswered = len(evaluation.statistics.unread), len(evaluation.statistics.unanswered)
    if unread:
        lines.append(f"pictures that could not be read, and are in no figure: {unread}")
    if unanswered:
        lines.append(f"answers that were NaN or infinity, and are counted as wrong: {unanswered}")
    return [shown(line) for line in lines]


def _preparations(evaluation: Evaluation) -> Iterator[str]:
    """How pictures come to each side, and where that is known from; in one line where both sides say the same."""
    ways = {side: _preparation(facts) for side, facts in _described(evaluation).items()}
    if evaluation.data.prepared:
        yield "pictures: prepared by whoever made the file (by your word)"
    elif len({*ways.values()}) == 1:
        yield f"pictures: {ways['port']}"
    else:
        yield from (f"pictures of the {side}: {way}" for side, way in ways.items())


def _preparation(facts: Mapping[str, Any]) -> str:
    """How pictures come to a side."""
    if "resize" not in facts:
        return ""
    picture, origin = facts["contract"]["input"], facts["origins"].get("input", "assumed")
    mean, std = ("/".join(f"{number:.4g}" for number in picture[key]) for key in ("mean", "std"))
    resize = Resize.from_json(facts["resize"])
    numbers = f"{picture['order']}, scale {picture['scale']:g}, mean {mean}, std {std}"
    return f"{resize} ({BY[facts['resize_origin']]}); {numbers} ({BY[origin]})"


def _hints(evaluation: Evaluation) -> list[str]:
    return hints(evaluation.statistics)


def _described(evaluation: Evaluation) -> dict[str, Mapping[str, Any]]:
    """The sides that there are."""
    sides = {"port": evaluation.port, "original": evaluation.original}
    return {name: facts for name, facts in sides.items() if facts is not None}


def _listed(evaluation: Evaluation) -> Iterator[str]:
    """Pictures that were not read or not answered, and flips."""
    pictures, statistics = evaluation.data.pictures, evaluation.statistics
    for unread in statistics.unread:
        yield shown(f"unread: {pictures.name(unread.number)}: {unread.why}")
    for lost in statistics.unanswered:
        yield shown(f"unanswered: {pictures.name(lost.number)}: by the {lost.side}")
    for flip in statistics.flips:
        label = "" if flip.label is None else f"; its label is {flip.label}"
        yield shown(
            f"flip: {pictures.name(flip.number)}: {flip.original} by the original, {flip.port} by the port, "
            f"{flip.margin:.3g} apart{label}"
        )


# -- the page ----------------------------------------------------------------------------------------------------------


def _key_figures(computed: Mapping[str, Any]) -> Iterator[tuple[str, str, str, bool]]:
    """Label, value, detail, and whether it is as good as can be."""
    for side, facts in computed["sides"].items():
        if top := facts["top1"]:
            detail = f"{top['count']:,} of {top['of']:,}; {_share(top)}"
            yield f"{side} top-1", f"{top['share']:.2%}", detail, True
    if pair := computed["pair"]:
        agreement = pair["agreement"]
        detail = f"{_flips(pair)} of {agreement['of']:,} pictures"
        yield "same answer", f"{agreement['share']:.2%}", detail, not pair["flips"]
        yield "largest difference", shown(pair["largest"] and pair["largest"]["difference"]), "of two logits", True


def _bins(computed: Mapping[str, Any]) -> Table:
    """The bins of all sides."""
    rows = [
        (side, f"{entry['from']:.0%} to {entry['to']:.0%}", entry["pictures"], entry["confidence"], entry["right"])
        for side, facts in computed["sides"].items()
        for entry in (facts["calibration"] or {"bins": []})["bins"]
    ]
    return Table("Bins", ("side", "confidence", "pictures", "mean confidence", "right"), rows)


def _cards(evaluation: Evaluation) -> Iterator[Card]:
    """The first flips, with their pictures."""
    pictures = evaluation.data.pictures
    for flip in evaluation.statistics.flips[:SHOWN]:
        yield Card(pictures.name(flip.number), _thumbnail(evaluation, flip.number), flip)


def _thumbnail(evaluation: Evaluation, number: int) -> str | None:
    """A picture, small; None for one that is no picture to look at, or is not there any more."""
    if evaluation.data.prepared:
        return None
    try:
        pixels = next(evaluation.data.read(number, number + 1, 3))
    except PortError:
        return None
    return None if isinstance(pixels, Unread) else thumbnail(np.asarray(pixels))
