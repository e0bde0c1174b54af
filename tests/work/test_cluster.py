"""The cluster: Ray's head and two nodes on this machine, started once; one is killed in the middle of a run."""

import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from densenet_port.errors import NetworkError, UsageError
from densenet_port.work.cluster import run
from tests.support.tasks import Task

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray"),
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),  # of JAX, where it is there: Ray forks to start a node
]
ROOT = Path(__file__).parents[2]
MANY = 30
STORE = 80 * 2**20  # bytes of a node's object store, about the least that Ray takes


def test_each_item_comes_back_once_though_a_node_is_killed(nodes, capfd):
    """Its items are done by the other; an item that ends its worker is lost at the third, one that raises at once."""
    second = nodes.add_node(num_cpus=1, object_store_memory=STORE)
    items = ["slow", *range(12), "slow 2", "raises", "kill"]
    done = []

    for one in run(items, Task, address=nodes.address):
        done.append(one)
        if len(done) == 3:
            nodes.remove_node(second, allow_graceful=False)

    assert sorted(str(one.item) for one in done) == sorted(map(str, items))
    assert {one.item: one.lost for one in done if one.lost} == {
        "raises": "ValueError: not so",
        "kill": "its worker was lost 3 times (out of memory?)",
    }
    assert {one.item: one.result["twice"] for one in done if isinstance(one.item, int)} == {n: 2 * n for n in range(12)}
    assert os.getpid() not in {one.result["process"] for one in done if isinstance(one.item, int)}
    assert capfd.readouterr().out == ""


def test_what_a_worker_refuses_and_what_a_cluster_lacks_are_errors_of_one_line(nodes):
    with pytest.raises(UsageError, match="^no such table\n  name another$"):
        list(run([1], partial(Task, refused=True), address=nodes.address))
    with pytest.raises(NetworkError) as raised:
        list(run([1], Task, address=nodes.address, cpus=3, patience=0.5))

    assert raised.value.message == "no node of the Ray cluster took a worker for 0.5 s"
    assert list(run([], Task, address="nowhere:1")) == []


def test_no_cluster_at_an_address_is_an_error_of_one_line():
    with pytest.raises(NetworkError) as raised:
        list(run([1], Task, address="127.0.0.1:1"))

    assert raised.value.message == "there is no Ray cluster at 127.0.0.1:1: [Errno 111] Connection refused"


def test_a_batch_goes_on_after_its_driver_was_killed(nodes, small, tmp_path):
    """No result is written twice, and none is missing."""
    for number in range(MANY):
        shutil.copy(small, tmp_path / f"{number}.pth")
    out = tmp_path / "out"
    words = ["batch", str(tmp_path), "--out", str(out), "--ray", nodes.address, "--resume", "--json"]
    command = [sys.executable, "-m", "densenet_port", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as first:
        while not [*out.glob("*.h5")] and first.poll() is None:
            time.sleep(0.01)
        first.kill()
    time.sleep(1)  # its workers are ended by Ray
    before = {file.name: file.stat().st_ino for file in out.glob("*.h5")}

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    told = json.loads(done.stdout)
    assert (done.returncode, done.stderr, told["done"], told["failed"]) == (0, "", MANY, {})
    results = {file.name: file.stat().st_ino for file in out.glob("*.h5")}
    assert results.keys() == {f"{number}.weights.h5" for number in range(MANY)}
    assert before.items() <= results.items()
    lines = [json.loads(line) for line in (out / "batch.jsonl").read_text().splitlines()[1:]]
    assert sorted(Path(line["out"]).name for line in lines) == sorted(results)
