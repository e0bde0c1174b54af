"""The walk-through in docs/add-a-layout.md, followed to the letter: its table, its commands, and what they print.

The file of the page is made of torchvision's network, whose arrays get the page's names and order of axes by hand, and
not by any table.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from densenet_port.conversion.load import read
from densenet_port.layouts.layout import Layout
from densenet_port.network.architecture import NAMED
from densenet_port.network.numpy import forward
from tests.support.networks import images, torchvision_network

PAGE = (Path(__file__).parents[2] / "docs" / "add-a-layout.md").read_text(encoding="utf-8")
TABLE, WRONG_LINE = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
SESSIONS = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
FULL = 1e-10  # of the logits' deviation
OWN = (  # torchvision's name → the page's
    (r"features\.conv0", "conv1_func._conv"),
    (r"features\.norm0", "conv1_func._batch_norm"),
    (r"features\.norm5", "batch_norm"),
    (r"classifier", "out"),
)


def own_name(name):
    """The page's name of one of torchvision's tensors."""
    for theirs, own in OWN:
        name = re.sub(f"^{theirs}", own, name)
    name = re.sub(r"running_(mean|var)$", lambda hit: {"mean": "_mean", "var": "_variance"}[hit[1]], name)
    if layer := re.match(r"features\.denseblock(\d)\.denselayer(\d+)\.(norm|conv)(\d)\.(.*)", name):
        b, number, kind, place, rest = layer.groups()
        stage, part = int(b) + 1, {"norm": "_batch_norm", "conv": "_conv"}[kind]
        return f"db_stage_{stage}.conv{stage}_{number}.bn_ac_func{place}.{part}.{rest}"
    if between := re.match(r"features\.transition(\d)\.(norm|conv)\.(.*)", name):
        b, kind, rest = between.groups()
        return f"tr_stage{int(b) + 1}_blk.conv_ac_func.{ {'norm': '_batch_norm', 'conv': '_conv'}[kind] }.{rest}"
    return name


def run(command, desk):
    """What a line of the page prints."""
    name, *words = shlex.split(command)
    assert name == "densenet-port"
    done = subprocess.run(
        [sys.executable, "-m", "densenet_port", *words], capture_output=True, text=True, cwd=desk, check=False
    )
    return done.stdout + done.stderr


def plain(text):
    """The lines of a text without what differs from run to run: seconds, sizes, digests, blanks."""
    for changing in (r"\d+\.\d+(?= s\b)", r"[\d,]+(?= bytes\b)", r"\b[0-9a-f]{12}\b"):
        text = re.sub(changing, "#", text)
    return [re.sub(r"\s+", " ", line.rstrip()) for line in text.strip().splitlines()]


@pytest.fixture(scope="module")
def network():
    return torchvision_network("121", seed=0)


@pytest.fixture(scope="module")
def desk(network, tmp_path_factory):
    """A folder with the file and the tables of the page, in which all of its commands have run: command → output."""
    place = tmp_path_factory.mktemp("desk")
    state = {n: value for n, value in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    state["classifier.weight"] = state["classifier.weight"].T.contiguous()
    save_file({own_name(name): value for name, value in state.items()}, place / "mine.safetensors")
    (place / "mine.toml").write_text(TABLE, encoding="utf-8")
    right = re.escape(WRONG_LINE.split("=")[0].strip()) + r" *=.*\n"
    (place / "wrong.toml").write_text(re.sub(right, lambda _: WRONG_LINE, TABLE), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def printed(desk):
    """Every command of the page, run in order: (what it printed, what the page shows)."""
    steps = [step.partition("\n") for text in SESSIONS for step in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]]
    return {command: (plain(run(command, desk)), plain(shown)) for command, _, shown in steps}


def test_every_command_prints_what_the_page_shows(printed):
    """Between the lines that stand for others, all of it."""
    for found, shown in printed.values():
        pattern = "".join(r"(?:.*\n)*" if line == "…" else re.escape(line) + r"\n" for line in shown)
        assert re.fullmatch(pattern, "".join(f"{line}\n" for line in found)), "\n".join(found)


def test_what_is_learned_is_the_table_s_names(printed, desk):
    """The same names, axes and first numbers as those that somebody wrote by hand."""
    learned, by_hand = (Layout.load(desk / name) for name in ("learned.toml", "mine.toml"))

    spelled = [layout.spell(NAMED["121"]) for layout in (learned, by_hand)]
    assert spelled[0] == spelled[1]
    assert (learned.first_numbers, learned.units) == (by_hand.first_numbers, by_hand.units)


def test_the_port_is_the_network(printed, desk, network):
    """Torch's own float64 logits, which know of neither the page's names nor its table."""
    port, pictures = read(desk / "densenet121.weights.h5"), images(2, 64, seed=3)
    truth = network.double()(torch.from_numpy(pictures).double().permute(0, 3, 1, 2)).numpy()

    logits = forward(port.architecture, port.contract, port.weights, pictures)

    assert np.abs(logits - truth).max() / truth.std() <= FULL


def test_the_way_back_gives_the_same_bits(printed, desk):
    """Names, shapes and numbers."""
    before, after = load_file(desk / "mine.safetensors"), load_file(desk / "again.safetensors")

    assert sorted(after) == sorted(before)
    assert [name for name, value in after.items() if not torch.equal(value, before[name])] == []
