"""The journal: whole lines on the disk at once, a torn end cut off, one run at a time, and no other settings."""

import json
import subprocess
import sys

import pytest

from densenet_port.errors import CorruptError, DiskError, UsageError
from densenet_port.work.journal import Journal

HEAD = {"schema": "test/1", "settings": {"dst": "keras", "dtype": "float32"}}
ENTRIES = [{"source": "a.pth"}, {"source": "ü\udcff.pth", "seconds": 0.5}]


@pytest.fixture
def path(tmp_path):
    """A journal with two entries."""
    place = tmp_path / "run" / "journal.jsonl"
    with Journal(place, HEAD, resume=False) as journal:
        for entry in ENTRIES:
            journal.append(entry)
    return place


def entries(path, head=HEAD):
    """What a run that goes on finds."""
    with Journal(path, head, resume=True) as journal:
        return journal.entries


def test_a_line_is_there_when_append_returns(path):
    with Journal(path, HEAD, resume=True) as journal:
        journal.append({"source": "c.pth"})

        assert [json.loads(line) for line in path.read_bytes().splitlines()] == [HEAD, *ENTRIES, {"source": "c.pth"}]


@pytest.mark.parametrize("kept", ["all", "half", "nothing"])
def test_a_torn_end_is_cut_off(path, kept):
    """A line that has no end, after two or none of those that have: what is written then stands on its own."""
    data = path.read_bytes()
    whole = data if kept == "all" else data[: data.index(b"\n") + 1] if kept == "half" else b""
    path.write_bytes(whole + b'{"source": "c')

    with Journal(path, HEAD, resume=True) as journal:
        journal.append({"source": "d.pth"})

    assert entries(path) == [*(ENTRIES if kept == "all" else []), {"source": "d.pth"}]


def test_without_resume_a_journal_that_is_there_is_refused(path):
    before = path.read_bytes()

    with pytest.raises(UsageError) as raised:
        Journal(path, HEAD, resume=False)

    assert str(raised.value) == (
        f"{path}: is there already, of a run that may not be done\n"
        "  pass --resume to go on with it, or name another place"
    )
    assert path.read_bytes() == before


def test_other_settings_are_refused_by_what_differs(path):
    before = path.read_bytes()

    with pytest.raises(UsageError) as raised:
        entries(path, {"schema": "test/1", "settings": {"dst": "onnx", "dtype": "float32", "jobs": 2}})

    assert str(raised.value) == (
        f'{path}: is of other settings: settings.dst was "keras" and is "onnx"; settings.jobs was not there and is 2\n'
        "  give the settings it was begun with, or name another place"
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize("line", [b'{"source": ', b"[1]", b"\x00" * 20, b"[" * 100_000])
def test_a_damaged_line_in_the_middle_is_named_by_its_number(path, line):
    head, *rest = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([head, line, *rest]) + b"\n")

    with pytest.raises(CorruptError, match="line 2"):
        entries(path)


def test_a_second_run_is_refused_while_the_first_lasts(path):
    """Another process, and this one; a process that was killed holds nothing."""
    script = (
        "import sys, pathlib, json; from densenet_port.work.journal import Journal\n"
        "journal = Journal(pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]), resume=True)\n"
        "print('open', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script, str(path), json.dumps(HEAD)], **pipes) as other:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(DiskError, match=f"^{path}: another run is at work on it\n"):
            entries(path)
        other.kill()
        other.wait()

    with Journal(path, HEAD, resume=True), pytest.raises(DiskError, match="another run is at work on it"):
        entries(path)
    assert entries(path) == ENTRIES


def test_a_full_disk_leaves_no_half_line(path, monkeypatch):
    with Journal(path, HEAD, resume=True) as journal:
        file = journal._file

        class Full:
            def write(self, line):
                return file.write(line[:5])

            def __getattr__(self, name):
                return getattr(file, name)

        monkeypatch.setattr(journal, "_file", Full())
        with pytest.raises(DiskError, match="cannot be written: No space left on device"):
            journal.append({"source": "c.pth"})

    assert path.read_bytes().endswith(b"\n")
    assert entries(path) == ENTRIES


def test_a_place_that_cannot_be_is_an_error_of_the_disk(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(DiskError, match="cannot be written"):
        Journal(tmp_path / "file" / "journal.jsonl", HEAD, resume=False)
