"""A batch: a bad file stops no other, and a run that is killed at any moment goes on, no file twice, none missing."""

import json
import random
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import densenet_port as dp
from densenet_port.batches import task
from densenet_port.batches.task import Converter, Job, Settings
from densenet_port.errors import DiskError, UsageError
from densenet_port.files import file_digest
from densenet_port.formats.record import DIGEST
from densenet_port.prove import parity
from densenet_port.work import pool
from densenet_port.work.journal import Journal
from tests.support.command import called
from tests.support.sweep import swept

ROOT = Path(__file__).parents[2]
MANY, KILLS = 16, 20


@pytest.fixture
def folder(tmp_path, small):
    """Two networks, a file that is none, and one that has no place for what it names."""
    for name in ("a.pth", "b/a.pth"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(small, tmp_path / "in" / name)
    (tmp_path / "in" / "page.pth").write_bytes(b"<html>")
    return tmp_path


def run(folder, *more, **words):
    """A batch of the folder, in one process."""
    return dp.batch([folder / "in", *more], out=folder / "out", jobs=1, **words)


def lines(folder):
    """The journal's lines behind its head."""
    return [json.loads(line) for line in (folder / "out" / "batch.jsonl").read_text().splitlines()[1:]]


def recorded(out):
    """The digest of a file's record."""
    return dp.verify(out).record[DIGEST]


def told(result):
    """Result → digest of its record, or kind of error."""
    return {
        Path(one.out).relative_to(result.journal.parent).as_posix(): one.error["kind"] if one.error else one.out_record
        for one in result.outcomes
    }


def in_this_process(monkeypatch, before=lambda job: None):
    """Have the worker's work done here; `before` may fail."""

    def done(items, make, **_):
        from densenet_port.work.pool import Done

        converter = make()
        for job in items:
            before(job)
            yield Done(job, converter(job), None)

    monkeypatch.setattr("densenet_port.work.pool.run", done)


def test_a_bad_file_stops_no_other(folder, small):
    """The bytes are those of a single conversion, each where its source lies; the journal tells of all."""
    result = run(folder)

    dp.convert(small, out=folder / "alone.weights.h5")
    digest = recorded(folder / "alone.weights.h5")
    assert told(result) == {"a.weights.h5": digest, "b/a.weights.h5": digest, "page.weights.h5": "corrupt"}
    assert (folder / "out" / "b" / "a.weights.h5").read_bytes() == (folder / "alone.weights.h5").read_bytes()
    assert (result.exit_code, result.before) == (4, 0)
    assert {line["source"]: line for line in lines(folder)} == {
        one.source: json.loads(json.dumps(one.to_json())) for one in result.outcomes
    }
    first = result.outcomes[0]
    assert (first.layout, first.architecture, first.sha256) == (
        "torchvision",
        dp.read(small).architecture.name,
        file_digest(small),
    )
    assert result.outcomes[1].error == {
        "kind": "corrupt",
        "exit_code": 4,
        "message": f"{folder}/in/page.pth: a web page, not a checkpoint",
        "hint": "the download went wrong: get the file itself",
    }


def test_what_is_done_and_what_is_bad_is_not_tried_again(folder, small, monkeypatch):
    """Until it changes; what was the machine's fault is."""
    run(folder)
    tried = []
    in_this_process(monkeypatch, lambda job: tried.append(Path(job.source).name))

    assert told(run(folder, resume=True))["page.weights.h5"] == "corrupt"
    assert tried == []
    shutil.copy(small, folder / "in" / "page.pth")
    (folder / "out" / "a.weights.h5").unlink()
    for _ in range(2):
        result = run(folder, folder / "gone.pth", resume=True)

    assert tried == ["a.pth", "page.pth", "gone.pth", "gone.pth"]
    assert told(result)["gone.weights.h5"] == "disk"
    assert (result.exit_code, result.before, len(lines(folder))) == (6, 3, 7)


def test_a_source_that_changed_has_its_result_replaced(folder, files):
    """As nobody else's file would be."""
    before = told(run(folder))
    shutil.copy(files["half"], folder / "in" / "a.pth")
    (folder / "out" / "page.weights.h5").write_bytes(b"somebody's")
    shutil.copy(files["half"], folder / "in" / "page.pth")

    after = run(folder, resume=True)

    assert told(after)["b/a.weights.h5"] == before["b/a.weights.h5"]
    assert told(after)["a.weights.h5"] == recorded(folder / "out" / "a.weights.h5") != before["a.weights.h5"]
    assert told(after)["page.weights.h5"] == "usage"
    assert (folder / "out" / "page.weights.h5").read_bytes() == b"somebody's"


@pytest.mark.parametrize(
    ("other", "adopted"),
    [({}, True), ({"dtype": "float16"}, False), ({"no_top": True}, False), ({"contract": {"epsilon": 1e-3}}, False)],
)
def test_a_result_is_adopted_if_it_is_of_this_source_and_these_settings(small, tmp_path, other, adopted):
    """Killed between the file and its line; another is what it is for `convert`, an error without --force."""
    out = tmp_path / "a.weights.h5"
    dp.convert(small, out=out, **other)
    inode = out.stat().st_ino

    line = Converter(Settings())(Job(source=str(small), out=str(out), words={}))

    assert (line["adopted"], out.stat().st_ino == inode) == (adopted, True)
    assert (line["error"] or {}).get("message") == (None if adopted else f"{out}: exists already")
    assert line["out_record"] == (recorded(out) if adopted else None)


def test_a_damaged_result_is_not_adopted(small, tmp_path):
    out = tmp_path / "a.weights.h5"
    dp.convert(small, out=out)
    data = bytearray(out.read_bytes())
    data[len(data) // 2] ^= 1
    out.write_bytes(data)

    assert Converter(Settings())(Job(source=str(small), out=str(out), words={}))["error"]["kind"] == "usage"


def test_a_run_that_ends_between_a_result_and_its_line_goes_on(folder, monkeypatch):
    in_this_process(monkeypatch)
    append = Journal.append

    def broken(journal, entry):
        if "out" in entry:
            raise KeyboardInterrupt
        append(journal, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", broken)
        with pytest.raises(KeyboardInterrupt):
            run(folder)
    assert [*(folder / "out").glob("*.h5")] == [folder / "out" / "a.weights.h5"]

    result = run(folder, resume=True)

    assert [one.adopted for one in result.outcomes] == [True, False, False]
    assert len(lines(folder)) == 3


def test_other_settings_and_a_second_run_are_refused(folder):
    run(folder)

    with pytest.raises(UsageError, match="pass --resume to go on with it"):
        run(folder)
    with pytest.raises(UsageError) as raised:
        run(folder, resume=True, dtype="float16")
    assert raised.value.message.endswith('settings.dtype was "float32" and is "float16"')
    head = json.loads((folder / "out" / "batch.jsonl").read_text().splitlines()[0])
    with Journal(folder / "out" / "batch.jsonl", head, resume=True), pytest.raises(DiskError, match="another run"):
        run(folder, resume=True)


def test_words_of_a_manifest_are_for_their_file(folder, small):
    (folder / "list.csv").write_text("source,arch\nin/a.pth,121\nin/b/a.pth,\n")

    result = dp.batch([folder / "list.csv"], out=folder / "out", jobs=1, dst="torchvision", ending="safetensors")

    assert {Path(one.out).relative_to(folder).as_posix(): one.exit_code for one in result.outcomes} == {
        "out/in/a.safetensors": 3,
        "out/in/b/a.safetensors": 0,
    }
    assert dp.diff(folder / "out/in/b/a.safetensors", small).same


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (MemoryError(), "disk", 6),
        (OSError(28, "No space left on device", "x.h5"), "disk", 6),
        (ZeroDivisionError("by\nzero"), "internal", 70),
    ],
)
def test_what_nobody_foresaw_is_one_line(small, tmp_path, monkeypatch, error, kind, code):
    def failing(*_, **__):
        raise error

    monkeypatch.setattr(task, "convert", failing)

    line = Converter(Settings())(Job(source=str(small), out=str(tmp_path / "x.h5"), words={}))

    assert (line["error"]["kind"], line["error"]["exit_code"], "\n" in line["error"]["message"]) == (kind, code, False)


def test_a_worker_that_is_lost_is_its_file_alone(folder, monkeypatch):
    """It is tried again."""
    from densenet_port.work.pool import Done

    with monkeypatch.context() as patch:
        patch.setattr("densenet_port.work.pool.run", lambda items, *_, **__: [Done(job, None, "gone") for job in items])
        result = run(folder)

    assert {one.error["message"] for one in result.outcomes} == {"gone"}
    assert (result.exit_code, set(told(result).values())) == (6, {"lost"})
    assert run(folder, resume=True).exit_code == 4


# -- proof -------------------------------------------------------------------------------------------------------------


def test_a_check_gives_each_port_its_grade(folder, monkeypatch):
    """Of the source's own software; a port that is not proven is exit code 1 if nothing is worse."""
    in_this_process(monkeypatch)
    started, start = [], pool.Process
    monkeypatch.setattr(pool, "Process", lambda surroundings: started.append(start(surroundings)) or started[-1])
    monkeypatch.setattr(parity, "check", partial(parity.check, sizes=(32,)))  # as it is, but soon done
    (folder / "in" / "page.pth").unlink()

    result = run(folder, check=True, backend="numpy")

    evidence = result.outcomes[0].evidence
    assert (evidence["grade"], evidence["reference"], result.exit_code) == ("proven", "torchvision", 0)
    assert len(started) == 2  # torch and numpy, for all files
    monkeypatch.setattr(Converter, "_evidence", lambda *_: {**evidence, "grade": "differs", "says": "float64"})
    (folder / "out" / "batch.jsonl").unlink()
    assert run(folder, check=True, backend="numpy", resume=True).exit_code == 1


# -- killed ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(files, tmp_path_factory):
    """Many small networks."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(MANY):
        shutil.copy(files["zip"], folder / f"{number}.pth")
    return folder


@pytest.mark.parametrize("kill", swept(range(KILLS), 10))
def test_a_run_that_is_killed_at_any_moment_goes_on(many, tmp_path, kill):
    """No result is written twice, none is missing, each has one line, and nothing else is left."""
    chance, out = random.Random(kill), tmp_path / "out"  # noqa: S311 (any moment)
    command = [sys.executable, "-m", "densenet_port", "batch", str(many), "--out", str(out), "--jobs", "2", "--resume"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as first:
        while len([*out.glob("*.h5")]) < chance.randrange(MANY) and first.poll() is None:
            time.sleep(0.001)
        time.sleep(chance.random() / 20)
        first.kill()
    time.sleep(0.3)  # its workers notice
    before = {file.name: file.stat().st_ino for file in out.glob("*.h5")}

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    results = {file.name: file.stat().st_ino for file in out.glob("*.h5")}
    assert results.keys() == {f"{number}.weights.h5" for number in range(MANY)}
    assert before.items() <= results.items()
    told = [json.loads(line) for line in (out / "batch.jsonl").read_text().splitlines()[1:]]
    assert sorted(Path(line["out"]).name for line in told) == sorted(results)
    assert {line["out_record"] for line in told} == {recorded(out / "0.weights.h5")}
    assert len({file_digest(file) for file in out.glob("*.h5")}) == 1
    assert len([*out.iterdir()]) == MANY + 2


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_tells_what_is_not_done(folder):
    """A table of the failed, one JSON object, or lines on stderr; the code is the highest."""
    words = ("batch", folder / "in", "--out", folder / "out", "--jobs", 2)
    assumed = "2 files: assumed: input rgb, scale 255, mean 0.485/0.456/0.406, std 0.229/0.224/0.225; the rest as"

    done = called(*words)

    assert (done.returncode, done.stderr) == (4, "")
    text = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert text[:2] == ["2 of 3 files done, 1 corrupt", f"{folder}/out/batch.jsonl: a line for each file"]
    assert text[2].startswith(assumed)
    assert text[4:] == [
        "not done kind why",
        f"{folder}/in/page.pth corrupt a web page, not a checkpoint",
    ]
    done = called(*words, "--resume", "--json")
    found = json.loads(done.stdout)
    assert (found["schema"], found["done"], found["failed"]) == ("densenet-port/batch/1", 2, {"corrupt": 1})
    assert (found["before"], len(found["files"]), done.returncode) == (3, 3, 4)
    done = called(*words, "--resume", "--quiet", cwd=folder)
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == "in/page.pth: corrupt: a web page, not a checkpoint"


@pytest.mark.parametrize("words", [("--jobs", "0"), ("--ending", ".zip"), ("--dst", "nobody"), ("--arch", "1x")])
def test_what_no_file_can_be_done_with_is_refused_first(folder, words):
    done = called("batch", folder / "in", "--out", folder / "out", *words)

    assert (done.returncode, done.stdout, (folder / "out").exists()) == (2, "", False)
    assert done.stderr.startswith("error: ")
