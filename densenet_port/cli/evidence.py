"""How what a file's statistics say is shown: a table of questions, and a picture of means, predicted and stored."""

from collections.abc import Iterator, Mapping
from html import escape
from math import inf
from typing import Any

import numpy as np

from densenet_port.cli.base import rows
from densenet_port.conversion.load import Network
from densenet_port.conversion.statistics import Witness, predictions
from densenet_port.network.moments import Prediction

SIDE, STRIP, EDGE = 480, 120, 48  # of the square, the strip below it and the margin, in SVG user units
CELL = 2  # user units: channels that fall into one cell are one dot
REACH = 4.0  # deviations that the square shows on either side of zero
WORST = 1.0  # the residual at the strip's top
LETTERS = 'font-family="sans-serif" font-size="11" fill="#777"'
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")  # Tol's bright scheme, one a block


def tables(witness: Witness) -> Iterator[Any]:
    """What the statistics say, question by question, as parts of a text."""
    if not witness.explanations:
        yield "no question is asked of statistics that are no evidence"
        yield ""
        return
    headings = ("question", "assumed", "residual", "next best", "its residual", "margin", "verdict")
    cells = [
        (
            one.question,
            one.assumed,
            f"{one.residual:.3f}",
            one.best or "",
            f"{one.alternatives[one.best]:.3f}" if one.best else "",
            "" if one.margin == inf else f"{one.margin:.1f}×",
            one.verdict,
        )
        for one in witness.explanations
    ]
    yield rows(headings, cells)
    if witness.picture:
        yield f"pictures of the training, prepared: means {'/'.join(f'{mean:.2f}' for mean in witness.picture)}"
    changes = ", ".join(f"{other:g} by {change:.1%}" for other, change in witness.epsilons.items())
    yield f"no statistics tell an epsilon; another would change a channel's slope at most: {changes}"
    yield ""


def picture(network: Network) -> str:
    """An SVG of a network's means: each channel's, as predicted and as stored, and each unit's residual."""
    told = {unit: one for unit, one in predictions(network.graph, network.weights).items() if one.residual < inf}
    blocks = {unit: network.graph.units[unit].block or 0 for unit in told}
    width, height = SIDE + 2 * EDGE, SIDE + STRIP + 3 * EDGE
    title = f"{network.layout} {network.architecture.name}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {LETTERS}>',
            f"<title>{escape(title)}: means of channels as predicted and as stored</title>",
            *_square(told, blocks),
            *_strip(told, blocks),
            "</svg>\n",
        ]
    )


def _square(told: Mapping[str, Prediction], blocks: Mapping[str, int]) -> Iterator[str]:
    """Predicted means against stored ones, in deviations of the channel; what agrees lies on the diagonal."""
    low, high = EDGE, EDGE + SIDE
    yield f'<rect x="{low}" y="{low}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#aaa"/>'
    yield f'<path d="M{low} {high}L{high} {low}" stroke="#aaa" fill="none"/>'
    yield f'<text x="{low}" y="{low - 8}">predicted mean, {REACH:g} deviations up and down</text>'
    yield f'<text x="{high}" y="{high + 14}" text-anchor="end">stored mean, {REACH:g} deviations to either side</text>'
    for block in sorted(set(blocks.values())):
        cells = {cell for unit, one in told.items() if blocks[unit] == block for cell in _cells(one)}
        path = "".join(f"M{x} {y}h{CELL}" for x, y in sorted(cells))
        name = f"block {block}" if block else "outside of the blocks"
        yield f'<path d="{path}" stroke="{_colour(block)}" stroke-width="{CELL}"><title>{name}</title></path>'


def _cells(one: Prediction) -> Iterator[tuple[int, int]]:
    """Where the channels of a norm are in the square."""
    with np.errstate(all="ignore"):
        pairs = np.stack([one.stored, one.predicted]) / one.deviation
    for stored, predicted in pairs.T[np.isfinite(pairs).all(axis=0)]:
        right, up = ((min(max(float(value), -REACH), REACH) + REACH) / (2 * REACH) for value in (stored, predicted))
        yield round((EDGE + right * SIDE) / CELL) * CELL, round((EDGE + (1 - up) * SIDE) / CELL) * CELL


def _strip(told: Mapping[str, Prediction], blocks: Mapping[str, int]) -> Iterator[str]:
    """Each unit's residual, in order of execution."""
    bottom = SIDE + STRIP + 2 * EDGE
    step = SIDE / max(len(told), 1)
    yield f'<path d="M{EDGE} {bottom}h{SIDE}" stroke="#aaa"/>'
    yield f'<text x="{EDGE}" y="{bottom + 14}">residual of each unit, in order; {WORST:g} at the top</text>'
    for place, (unit, one) in enumerate(told.items()):
        tall = min(one.residual / WORST, 1) * STRIP
        where = f'x="{EDGE + place * step:.1f}" y="{bottom - tall:.1f}" width="{max(step - 1, 1):.1f}"'
        name = f"<title>{escape(unit)}: {one.residual:.3f}</title>"
        yield f'<rect {where} height="{tall:.1f}" fill="{_colour(blocks[unit])}">{name}</rect>'


def _colour(block: int) -> str:
    return COLOURS[block % len(COLOURS)]
