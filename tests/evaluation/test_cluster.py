"""An evaluation on a cluster: the statistics of one process, though a node is killed in the middle of it."""

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from densenet_port.evaluation import run, sides
from densenet_port.evaluation.run import evaluate
from densenet_port.work import pool
from tests.support.evaluations import RESIZE, Here, folder, one_by_one, port
from tests.support.trained import SAMPLE

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray"),
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),  # of JAX, where it is there: Ray forks to start a node
]


def test_a_cluster_that_loses_a_node_gives_the_statistics_of_one_process(nodes, tmp_path, monkeypatch):
    """Two nodes, one of which is killed after the second batch; and the journal has every batch once."""
    monkeypatch.setattr(run, "reference_of", lambda *_, **__: run.Reference("numpy"))
    words = {"data": folder(tmp_path / "pictures", 60), "batch": 6, "contract": {"resize": RESIZE}, "backend": "numpy"}
    right = port(tmp_path / "right.weights.h5")
    second = nodes.add_node(num_cpus=1, object_store_memory=80 * 2**20)

    def killing(done, total):
        if done == 2:
            nodes.remove_node(second, allow_graceful=False)

    journal = tmp_path / "journal"
    spread = evaluate(right, SAMPLE, ray=nodes.address, progress=killing, journal=journal, **words)

    monkeypatch.setattr(sides, "_Process", Here)
    monkeypatch.setattr(pool, "run", one_by_one)
    alone = evaluate(right, SAMPLE, **words)
    assert json.dumps(spread.statistics.to_json()) == json.dumps(alone.statistics.to_json())
    batches = sorted(json.loads(line)["batch"][0] for line in journal.read_text().splitlines()[1:])
    assert batches == [*range(0, 60, 6)]


def test_a_driver_that_is_killed_goes_on_with_the_cluster(nodes, tmp_path, monkeypatch):
    """No batch is done twice, and the statistics are those of one process."""
    pictures, right, journal = (
        folder(tmp_path / "pictures", 60),
        port(tmp_path / "right.weights.h5"),
        tmp_path / "journal",
    )
    words = {"data": pictures, "batch": 6, "backend": "numpy"}
    command = [sys.executable, "-m", "densenet_port", "evaluate", right, "--data", pictures, "--batch", "6"]
    command += ["--backend", "numpy", "--ray", nodes.address, "--journal", journal, "--quiet"]
    with subprocess.Popen(command, cwd=ROOT) as first:
        while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
            assert first.poll() is None
            time.sleep(0.01)
        first.kill()
    kept = journal.read_bytes().count(b"\n")

    spread = evaluate(right, ray=nodes.address, journal=journal, resume=True, **words)

    monkeypatch.setattr(sides, "_Process", Here)
    monkeypatch.setattr(pool, "run", one_by_one)
    assert json.dumps(spread.statistics.to_json()) == json.dumps(evaluate(right, **words).statistics.to_json())
    batches = [json.loads(line)["batch"][0] for line in journal.read_text().splitlines()[1:]]
    assert (sorted(batches), spread.done) == ([*range(0, 60, 6)], 60 - 6 * (kept - 1))
