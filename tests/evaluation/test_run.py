"""Evaluations: the sample's real accuracy, faults that are seen, and statistics that no spread of the work changes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from densenet_port.conversion.load import read
from densenet_port.errors import MisfitError, PortError, UsageError
from densenet_port.evaluation import run, sides
from densenet_port.evaluation.figures import figures, hints
from densenet_port.evaluation.run import evaluate
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract, Input, Resize
from densenet_port.work import pool
from tests.support.evaluations import RESIZE, Here, folder, one_by_one, port, turned_classes, wrong_epsilon
from tests.support.ports import write_ours
from tests.support.random_weights import random_weights
from tests.support.trained import SAMPLE

RIGHT = 449  # of the 450 held-out digits: what training recorded, weights/sample/digits.json
FEW = 60  # digits where many are not needed
BY = {"backend": "numpy"}


@pytest.fixture
def here(monkeypatch):
    """Sides and batches in this process."""
    monkeypatch.setattr(sides, "_Process", Here)
    monkeypatch.setattr(pool, "run", one_by_one)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The first digits, in folders of their classes, in a colour."""
    return folder(tmp_path_factory.mktemp("pictures"), FEW, tint=(1, 0.9, 0.8))


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """A port without a fault, that says how pictures are resized."""
    return port(tmp_path_factory.mktemp("right") / "right.weights.h5")


def pair(evaluation):
    """The figures of both sides together."""
    return figures(evaluation.statistics, 10)["pair"]


# -- a real data set ---------------------------------------------------------------------------------------------------


def test_the_sample_and_its_port_are_as_right_as_training_recorded(right, tmp_path):
    """Torch on the original, in processes; every digit is answered alike."""
    found = evaluate(right, SAMPLE, data=folder(tmp_path, 450), batch=50, jobs=1, **BY)

    counts = found.statistics.counts
    assert (counts["port top1"], counts["original top1"], counts["agree"], counts["pictures"]) == (
        RIGHT,
        RIGHT,
        450,
        450,
    )
    assert (found.dependence, found.original["ran"][0]["read_by"], found.is_whole) == (None, "class", True)
    assert 0 < pair(found)["rms"] < 1e-5
    assert hints(found.statistics) == []


def test_onnx_runtime_runs_a_port_that_is_a_graph(right, pictures, tmp_path, here):
    """And torch the original: two softwares, none of them ours."""
    read(right).write(tmp_path / "port.onnx", layout="onnx")

    found = evaluate(tmp_path / "port.onnx", SAMPLE, data=pictures)

    assert [side["name"] for side in (found.port, found.original)] == ["onnxruntime", "torchvision"]
    assert (found.dependence, found.statistics.counts["agree"]) == (None, FEW)
    assert pair(found)["rms"] < 1e-5


def test_of_one_table_s_reading_agreement_is_no_proof(right, pictures, here, monkeypatch):
    """Numpy runs the original, by the port's own table."""
    monkeypatch.setattr(run, "reference_of", lambda *_, **__: run.Reference("numpy"))

    found = evaluate(right, right, data=pictures, **BY)

    assert found.dependence.startswith("the reference (numpy) read the original by keras, the table that the port was")


# -- faults ------------------------------------------------------------------------------------------------------------


def judged(tmp_path, pictures, monkeypatch, change=lambda weights: weights, **contract):
    """A faulty port beside the sample, both by numpy: figures of both, of each side, and what it looks like."""
    monkeypatch.setattr(run, "reference_of", lambda *_, **__: run.Reference("numpy"))
    original = port(tmp_path / "original.weights.h5")
    found = evaluate(port(tmp_path / "port.weights.h5", change, **contract), original, data=pictures, **BY)
    every = figures(found.statistics, 10)
    return (
        every["pair"],
        {side: facts["top1"]["count"] for side, facts in every["sides"].items()},
        hints(found.statistics),
    )


def test_a_port_without_a_fault_is_no_fault(tmp_path, pictures, here, monkeypatch):
    both, right, looks = judged(tmp_path, pictures, monkeypatch)

    assert (both["flips"], both["equal"], right, looks) == (0, 600, {"port": FEW, "original": FEW}, [])


def test_classes_in_each_other_s_places_are_seen_and_named(tmp_path, pictures, here, monkeypatch):
    both, right, looks = judged(tmp_path, pictures, monkeypatch, turned_classes)

    assert (both["flips"], right) == (FEW, {"port": 0, "original": FEW})
    assert both["difference"]["top1"]["p"] < 1e-9
    assert looks[0].startswith("the port's classes look like the original's in another order: ")


def test_another_order_of_colours_is_seen(tmp_path, pictures, here, monkeypatch):
    """In the logits of every picture, whether answers change or not."""
    both, _, _ = judged(tmp_path, pictures, monkeypatch, input=Input(order="bgr"))

    assert both["rms"] > 0.01
    assert both["equal"] < 6


def test_another_size_is_seen(tmp_path, pictures, here, monkeypatch):
    both, right, _ = judged(tmp_path, pictures, monkeypatch, resize=Resize(size=(32, 32), crop=0.6))

    assert right["port"] < right["original"] == FEW
    assert both["flips"] >= right["original"] - right["port"]


def test_a_small_epsilon_is_seen_where_no_answer_changes(tmp_path, pictures, here, monkeypatch):
    """Far above the rounding of float32, of which the right port has none by the same software."""
    both, right, _ = judged(tmp_path, pictures, monkeypatch, wrong_epsilon)

    assert (both["flips"], right["port"]) == (0, FEW)
    assert both["histogram"][-1][0] > -12
    assert both["equal"] < 60


# -- how the work is spread --------------------------------------------------------------------------------------------


def text(evaluation):
    """The statistics as the bytes of their JSON."""
    return json.dumps(evaluation.statistics.to_json())


@pytest.fixture
def expected(right, pictures, here, monkeypatch):
    """The statistics of one process, this one; the originals of what was replaced are back when it is made."""
    monkeypatch.setattr(run, "reference_of", lambda *_, **__: run.Reference("numpy"))
    made = text(evaluate(right, SAMPLE, data=pictures, batch=8, contract={"resize": RESIZE}, **BY))
    monkeypatch.undo()
    monkeypatch.setattr(run, "reference_of", lambda *_, **__: run.Reference("numpy"))
    return made


def test_four_processes_give_the_statistics_of_one(right, pictures, expected):
    """To the last bit, in whatever order batches come back."""
    progress = []
    found = evaluate(
        *(right, SAMPLE),
        data=pictures,
        batch=8,
        jobs=4,
        contract={"resize": RESIZE},
        progress=lambda *done: progress.append(done),
        **BY,
    )

    assert text(found) == expected
    assert progress == [(done, 8) for done in range(1, 9)]


def test_a_driver_that_is_killed_goes_on(right, pictures, tmp_path, here):
    """By the journal: what is there is not done again, and the statistics are those of a run that nobody killed."""
    words = ("evaluate", right, "--data", pictures, "--batch", "4", "--backend", "numpy", "--jobs", "1")
    journal = tmp_path / "journal.jsonl"
    command = [sys.executable, "-m", "densenet_port", *map(str, words), "--journal", str(journal), "--quiet"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = journal.read_bytes()
    lines = kept.count(b"\n")

    found = evaluate(right, data=pictures, batch=4, journal=journal, resume=True, **BY)

    assert (found.done, lines < 16) == (FEW - 4 * (lines - 1), True)
    assert journal.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    assert text(found) == text(evaluate(right, data=pictures, batch=4, **BY))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"batch": 16}, "batch was 8 and is 16"),
        ({"threads": 2}, "threads was 1 and is 2"),
        ({"labels": "none"}, "data.labels was"),
        ({"contract": {"resize": Resize(size=(32, 32), crop=0.9)}}, "port.resize.crop was 1.0 and is 0.9"),
    ],
    ids=("batch", "threads", "labels", "resize"),
)
def test_a_journal_of_other_settings_is_refused(right, pictures, tmp_path, here, other, message):
    """Whatever statistics depend on."""
    evaluate(right, data=pictures, batch=8, journal=tmp_path / "journal", **BY)

    with pytest.raises(UsageError, match=message):
        evaluate(right, data=pictures, journal=tmp_path / "journal", resume=True, **{"batch": 8, **BY, **other})


def test_a_journal_of_another_port_is_refused(right, pictures, tmp_path, here):
    evaluate(right, data=pictures, journal=tmp_path / "journal", **BY)
    other = port(tmp_path / "other.weights.h5", wrong_epsilon)

    with pytest.raises(UsageError, match="port.sha256 was"):
        evaluate(other, data=pictures, journal=tmp_path / "journal", resume=True, **BY)


def test_batches_that_are_lost_are_done_again_and_at_last_an_error(right, pictures, here, monkeypatch):
    """One that was lost twice is there; those that are lost three times end the run."""
    lost = []

    def losing(times):
        def run_some(items, make, **how):
            for done in one_by_one(items, make, **how):
                again = done.item[0] == 8 and len(lost) < times
                lost.extend([done.item] * again)
                yield pool.Done(done.item, None, "its process was ended by signal 9") if again else done

        return run_some

    whole = text(evaluate(right, data=pictures, batch=8, **BY))
    monkeypatch.setattr(pool, "run", losing(2))
    assert text(evaluate(right, data=pictures, batch=8, **BY)) == whole
    lost.clear()
    monkeypatch.setattr(pool, "run", losing(9))
    with pytest.raises(
        PortError, match="batches that could not be done, 3 times: 1; its process was ended by signal 9"
    ):
        evaluate(right, data=pictures, batch=8, **BY)


def test_a_side_whose_process_dies_is_started_again(right, pictures, monkeypatch):
    """Once; a process that cannot begin is an error with the line that it printed."""
    evaluator = evaluator_of(right, pictures, monkeypatch)
    task = evaluator()
    process = task.__closure__[1].cell_contents["port"]
    first = task((0, 8))
    process._process.kill()

    assert task((0, 8)) == first
    monkeypatch.setattr(sides, "environment", lambda *_: {**os.environ, "PYTHONHOME": "/nowhere"})
    process._process.kill()
    kind, message, _ = task((0, 8))["error"]
    assert (kind, message.startswith("numpy in float32 ended with exit code 1: ")) == ("error", True)


def evaluator_of(path, pictures, monkeypatch):
    """What the processes of an evaluation get."""
    kept = []
    monkeypatch.setattr(pool, "run", lambda items, make, **_: kept.append(make) or ())
    evaluate(path, data=pictures, batch=8, **BY)
    return kept[0]


# -- what does not go together -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"batch": 0}, "--batch must be at least 1, found 0"),
        ({"jobs": 0}, "--jobs must be at least 1, found 0"),
        ({"backend": "mxnet"}, "unknown --backend 'mxnet'"),
    ],
    ids=("batch", "jobs", "backend"),
)
def test_what_cannot_be_is_refused(right, pictures, how, message):
    with pytest.raises(UsageError, match=message):
        evaluate(right, data=pictures, **{**BY, **how})


def test_networks_of_other_classes_are_refused(right, pictures, tmp_path):
    small = Architecture.named("layers=1-1,growth_rate=4,init_channels=8,classes=7")
    write_ours(tmp_path / "small.safetensors", small, Contract(), random_weights(small))

    with pytest.raises(MisfitError, match="the port has 10 classes, the original 7"):
        evaluate(right, tmp_path / "small.safetensors", data=pictures, **BY)
