"""The cluster: Ray's head and two nodes on this machine, started once; one is killed in the middle of a run."""

import os
from functools import partial
from importlib.util import find_spec

import pytest

from densenet_port.errors import NetworkError, UsageError
from densenet_port.work.cluster import run
from tests.support.tasks import Task

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray")
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
