"""Measures what the verification cards say, and writes them into mappings/cards/.

    python -m tests.record.cards              every layout, each in a process of its own
    python -m tests.record.cards LAYOUT …

Full-size networks with random weights are written in the layout; the layout's own software takes each file by its own
loader and runs it, in float64 where it can, on images of 64 pixels. Its logits are compared with those of the weights'
own network, and with those of the file as we read it. Where the software does not run here any more, a network written
anew after it stands in, and the card says so. The recorded lists of names are counted as well. Layouts whose
software is run by zoo.py, because it is not installed with the rest, are measured when they are asked for.
"""

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from densenet_port import formats
from densenet_port.checkpoint import Tensor
from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.errors import UsageError
from densenet_port.layouts import cards as support
from densenet_port.layouts.cards import Measured
from densenet_port.layouts.layout import Layout, layouts
from densenet_port.layouts.match import fitted, match
from densenet_port.layouts.scan import scan
from densenet_port.network.architecture import NAMED, Architecture
from densenet_port.network.numpy import forward
from densenet_port.prove import checks
from densenet_port.prove.recording import job_of
from densenet_port.prove.worker import run
from tests.layouts.test_layout import KEYS, LAYOUT_OF, recorded
from tests.record import zoo
from tests.record.keys import software_and_network
from tests.support import stand_ins
from tests.support.networks import images
from tests.support.random_weights import random_weights

CARDS = Path(__file__).parents[2] / "mappings" / "cards"
ELSEWHERE = (
    "flyyufelix",
    *zoo.SOFTWARE,
)  # flyyufelix.py writes its card, with Pythons of the time; zoo.py has the rest


def keras_file(path, architecture, contract, weights):
    """A converted file of our own with these weights and this contract."""
    tensors = {rule.name: held(weights[place]) for place, rule in Layout.load("keras").spell(architecture).items()}
    manifest = {"layout": "keras", "architecture": architecture.to_json(), "contract": contract.to_json()}
    formats.write(path, tensors, lambda: json.dumps(manifest).encode())
    return path


def held(array):
    return Tensor(array.shape, array.dtype.name, lambda: array)


def apart(found, truth):
    """The largest difference in deviations of the truth."""
    return float(np.abs(found - truth).max() / truth.std())


def owned(told, pictures, dtype="float64"):
    """Logits of the layout's own software, what it computed in (float64 if it can), and what took part."""
    job = job_of(told, told.ledger.layout.reference, pictures, dtype=dtype)
    try:
        answer = run(job, limit=900.0)
    except UsageError:
        if dtype == "float32":
            raise
        return owned(told, pictures, "float32")
    return answer.logits, answer.computed_in, answer.versions


def stood_in(told, pictures):
    """The same of a stand-in."""
    logits, versions = STAND_INS[told.layout].run(told, pictures)
    return logits, "float64", versions | stand_ins.versions()


class StandIn(NamedTuple):
    """What a card calls it, and the function."""

    title: str
    run: Callable[..., Any]


STAND_INS = {
    "slim": StandIn("tensorflow (its network anew)", stand_ins.slim),
    "titu1994": StandIn("keras (its network anew)", stand_ins.titu1994),
    "titu1994-v2": StandIn("keras (its network anew)", stand_ins.titu1994_v2),
} | {layout: StandIn(own.title, zoo.logits) for layout, own in zoo.SOFTWARE.items()}


def probe(layout):
    """Two pictures of the side that a layout's software is made for."""
    return images(2, zoo.SOFTWARE[layout].side if layout in zoo.SOFTWARE else 64, seed=0)


def logits_rows(table, name, folder):
    """Both directions of one network, and the versions of what took part."""
    architecture, out, pictures = Architecture.named(name), folder / f"theirs{table.containers[0]}", probe(table.name)
    weights = random_weights(architecture)
    truth = forward(architecture, table.contract, weights, pictures)
    source = keras_file(folder / "ours.safetensors", architecture, table.contract, weights)
    convert(source, dst=table.name, out=out, force=True)
    told = read(out, src=table.name)
    logits, dtype, versions = (stood_in if table.name in STAND_INS else owned)(told, pictures)
    ours = forward(told.architecture, told.contract, told.weights, pictures)
    bound = checks.BOUND64
    if dtype == "float32":
        single = forward(told.architecture, told.contract, told.weights, pictures, dtype=np.float32)
        bound = checks.FACTOR32 * apart(single, ours)
    figures = {"written": apart(logits, truth), "read": apart(ours, logits)}
    return [row(name, what, dtype, figure, bound) for what, figure in figures.items()], versions


def genuine(layout):
    """The lists of a layout's names that its own software gave: architecture → file.

    Where a list was spelled after a description, its first line says so in brackets.
    """
    for path in sorted(KEYS.glob("*.txt")):
        software, name = software_and_network(path)
        header = path.read_text(encoding="utf-8").partition("\n")[0]
        if LAYOUT_OF.get(software, software) == layout and "(" not in header:
            yield name, path


def misplaced(table, path, name):
    """How many tensors of a recorded list the table does not place, and how many places it leaves empty."""
    file = recorded(path)
    scanned = scan(table, file)
    return match(scanned, fitted(Architecture.named(name), scanned)).problems


def names_rows(table):
    """The recorded lists of a layout, and the software that wrote them."""
    for name, path in genuine(table.name):
        yield (
            row(name, "names", "float32", misplaced(table, path, name), 0),
            path.read_text(encoding="utf-8").split()[1:3],
        )


def row(name, what, dtype, figure, bound):
    figure = float(figure)
    return Measured(architecture=name, what=what, dtype=dtype, figure=figure, bound=bound, passed=figure <= bound)


def record(layout):
    """Measure one layout and write its card, if there is anything to say."""
    table = Layout.load(layout)
    rows, versions = {}, {"densenet-port": version("densenet-port")}
    for found, (software, number) in names_rows(table):
        rows[found.architecture, "names"] = found
        versions[software] = number
    measurable = table.reference != "numpy" or layout in STAND_INS
    names = zoo.SOFTWARE[layout].architectures if layout in zoo.SOFTWARE else NAMED
    for name in [name for name in names if measurable and support.holds(table, Architecture.named(name))]:
        with TemporaryDirectory() as folder:
            try:
                measured, took_part = logits_rows(table, name, Path(folder))
            except UsageError as error:
                say(f"{layout} {name} cannot be measured: {error}")
                continue
        versions |= took_part
        rows |= {(name, one.what): one for one in measured}
        say(f"{layout} {name} {', '.join(f'{one.what} {one.figure:.1e} of {one.bound:.1e}' for one in measured)}")
    if rows:
        software = table.reference if table.reference != "numpy" else ", ".join([*versions][1:])
        software = STAND_INS[layout].title if layout in STAND_INS else software
        order = [*NAMED, *names]
        write(layout, software, versions, sorted(rows.values(), key=lambda one: order.index(one.architecture)))


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def write(layout, software, versions, rows, command=None):
    """One card, by default of this script."""
    command = command or f"python -m tests.record.cards {layout}"
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    pairs = ", ".join(f'{json.dumps(name)} = "{number}"' for name, number in sorted(versions.items()))
    lines = [
        f"# written by {command.split()[1]}, never by hand",
        f'layout   = "{layout}"',
        f'software = "{software}"',
        f"versions = {{ {pairs} }}",
        f'command  = "{command}"',
        f"date     = {datetime.now(UTC).date().isoformat()}",
        f'system   = "{system}"',
    ]
    for one in rows:
        lines += [
            "",
            "[[measured]]",
            f'architecture = "{one.architecture}"',
            f'what = "{one.what}"',
            f'dtype = "{one.dtype}"',
            f"figure = {float(f'{one.figure:.3g}')!r}",
            f"bound = {float(f'{one.bound:.3g}')!r}",
            f"passed = {str(one.passed).lower()}",
        ]
    CARDS.mkdir(exist_ok=True)
    (CARDS / f"{layout}.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    support.read_card(CARDS / f"{layout}.toml")


if __name__ == "__main__":
    for given in sys.argv[1:] or [layout for layout in layouts() if layout not in ELSEWHERE]:
        if sys.argv[1:]:
            record(given)
        else:
            subprocess.run([sys.executable, "-m", "tests.record.cards", given], check=True)
