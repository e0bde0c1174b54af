"""Nothing that the tool writes, reads or computes has changed since `record/golden.py` recorded it."""

import json
import re
import shutil
import sys

import numpy as np
import pytest

from densenet_port import formats
from tests.record import golden
from tests.support.sweep import WHOLE

RECORD = json.loads(golden.DATA.read_text(encoding="utf-8"))
ONE_OF_EACH_CONTAINER = [
    ("keras", ".weights.h5"),
    ("keras", ".h5"),
    ("keras", ".keras"),
    ("keras", ".safetensors"),
    ("torchvision", ".pth"),
    ("onnx", ".onnx"),
    ("caffe", ".caffemodel"),
]
EACH_CONTAINER = pytest.mark.parametrize(
    ("layout", "ending"), ONE_OF_EACH_CONTAINER, ids=[f"{layout} {ending}" for layout, ending in ONE_OF_EACH_CONTAINER]
)


def differences(recorded, measured, place=""):
    """A line for each entry that is not the recorded one: where it stands, what was recorded and what is measured."""
    if not isinstance(recorded, dict) or not isinstance(measured, dict):
        return [] if recorded == measured else [f"{place}: recorded {recorded}, now {measured}"]
    keys = sorted({*recorded, *measured})
    return [
        line
        for key in keys
        for line in differences(recorded.get(key, "nothing"), measured.get(key, "nothing"), f"{place} {key}".strip())
    ]


def plain_case(layout, ending):
    """The first case of a container, with nothing special about it."""
    return next(case for case in golden.cases(layout) if case.ending == ending)


def apart(measured, recorded):
    """The largest difference of two sets of logits, in deviations of the recorded ones."""
    return float(np.abs(np.subtract(measured, recorded)).max() / np.std(recorded))


# -- what is the same --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", sorted(RECORD["files"]))
def test_every_file_is_written_and_read_back_as_recorded(layout, tmp_path):
    """Byte by byte what is written, bit by bit what is read back, in every container and of every small network.

    Every network in every container is asked of a sweep.
    """
    chosen, recorded = golden.cases if WHOLE else golden.unlike, RECORD["files"][layout]
    names = {str(case) for case in chosen(layout)}

    lines = differences(
        {name: recorded.get(name, "nothing") for name in names}, golden.files_of(layout, tmp_path, chosen)
    )

    assert lines == [], "\n".join(lines)
    assert sorted(map(str, golden.cases(layout))) == sorted(recorded)


@pytest.mark.parametrize("layout", sorted(RECORD["names"]))
def test_every_published_network_has_the_names_recorded(layout):
    """Each tensor in its place, too."""
    assert differences(RECORD["names"][layout], golden.names_of(layout)) == []


@pytest.mark.parametrize("spec", sorted(RECORD["logits"]))
def test_every_network_has_the_logits_recorded(spec, tmp_path):
    """Under each contract, up to the order of sums."""
    recorded, measured = RECORD["logits"][spec], golden.logits_of(spec, tmp_path)

    assert list(recorded) == sorted(measured)
    assert [name for name in recorded if not apart(measured[name], recorded[name]) <= golden.bound(spec)] == []


def test_every_layout_is_recorded():
    """And every one that was recorded is still there."""
    assert sorted(RECORD["files"]) == sorted(RECORD["names"]) == sorted(golden.layouts())


# -- what may change ---------------------------------------------------------------------------------------------------


@EACH_CONTAINER
def test_a_comment_in_a_table_is_no_difference(layout, ending, tmp_path):
    """The table's digest in the file is another, and nothing else."""
    case, table = plain_case(layout, ending), tmp_path / f"{layout}.toml"
    shutil.copy(golden.table_of(layout), table)
    table.write_text(table.read_text(encoding="utf-8") + "\n# one more line\n", encoding="utf-8")

    usual = golden.converted(case, tmp_path).read_bytes()
    measured = golden.outcome(case._replace(layout=table), tmp_path)

    assert usual != (tmp_path / f"out{ending}").read_bytes()
    assert differences(RECORD["files"][layout][str(case)], measured) == []


@EACH_CONTAINER
def test_another_version_of_the_tool_is_no_difference(layout, ending, tmp_path, monkeypatch):
    """Of the same length, wherever in the package it stands."""
    case = plain_case(layout, ending)
    usual = golden.converted(case, tmp_path).read_bytes()
    for name in [name for name in sys.modules if name.partition(".")[0] == "densenet_port"]:
        for word in {"__version__", "TOOL"} & vars(sys.modules[name]).keys():
            monkeypatch.setattr(sys.modules[name], word, re.sub("[0-9.]", "9", vars(sys.modules[name])[word]))

    measured = golden.outcome(case, tmp_path)

    assert usual != (tmp_path / f"out{ending}").read_bytes()
    assert differences(RECORD["files"][layout][str(case)], measured) == []


# -- what is noticed ---------------------------------------------------------------------------------------------------


def damaged(path, place):
    """A file with one bit of one byte changed."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    return path


@EACH_CONTAINER
def test_a_changed_byte_is_named(layout, ending, tmp_path, monkeypatch):
    """A byte in the middle of one file, which is some tensor's: each line begins with the case, the file's is there."""
    case, convert = plain_case(layout, ending), golden.converted
    monkeypatch.setattr(
        golden, "converted", lambda *given: damaged(convert(*given), convert(*given).stat().st_size // 2)
    )

    lines = differences(RECORD["files"][layout], RECORD["files"][layout] | {str(case): golden.outcome(case, tmp_path)})

    assert {line.split(":")[0] for line in lines} >= {f"{case} file"}
    assert all(line.startswith(f"{case} ") for line in lines)


def test_a_changed_byte_beside_a_file_is_named(tmp_path, monkeypatch):
    """The .prototxt, and nothing else."""
    case, convert = plain_case("caffe", ".caffemodel"), golden.converted
    monkeypatch.setattr(formats, "with_its_own", lambda checkpoint: checkpoint)  # which would refuse it

    def with_another_companion(*given):
        damaged(convert(*given).with_suffix(".prototxt"), -1)
        return tmp_path / "out.caffemodel"

    monkeypatch.setattr(golden, "converted", with_another_companion)

    lines = differences({str(case): RECORD["files"]["caffe"][str(case)]}, {str(case): golden.outcome(case, tmp_path)})

    assert [line.split(":")[0] for line in lines] == [f"{case} companion"]


def test_a_lost_row_and_a_new_one_are_named():
    """A case that nobody measures any more is a difference."""
    lines = differences({"a.pth": {"file": "1"}}, {"b.pth": {"file": "1"}})

    assert lines == ["a.pth: recorded {'file': '1'}, now nothing", "b.pth: recorded nothing, now {'file': '1'}"]


@pytest.mark.parametrize("spec", sorted(RECORD["logits"]))
def test_a_logit_that_is_a_little_off_is_noticed(spec):
    """By a hundredth of what a check of two networks allows."""
    for logits in RECORD["logits"][spec].values():
        changed = np.array(logits)
        changed[0, 0] += 1e-11 * changed.std()

        assert apart(changed, logits) > golden.bound(spec)
