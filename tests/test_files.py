"""A file is written whole, its companions with it: a failure at any step leaves what stood there before."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from densenet_port import files
from densenet_port.errors import DiskError


def stand(folder):
    """What stands in a folder: name → content."""
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def failing(function, call):
    """A function whose `call`-th call finds the disk broken; those before and after it go through."""
    calls = []

    def instead(*args, **options):
        calls.append(args)
        if len(calls) == call:
            raise OSError(5, "Input/output error")
        return function(*args, **options)

    return instead


def write(folder, *names, text="new"):
    """Write files together, each of them saying `text` and its name."""
    with files.together(*(folder / name for name in names)) as temporaries:
        for name, temporary in zip(names, temporaries, strict=True):
            temporary.write_text(f"{text} {name}")


PAIR = ("out.caffemodel", "out.prototxt")
OLD = {name: f"old {name}" for name in PAIR}
NEW = {name: f"new {name}" for name in PAIR}
STEPS = {
    "the first file's name": ("touch", 1),
    "the second file's name": ("touch", 2),
    "the file's sync": ("fsync", 1),
    "the companion's sync": ("fsync", 2),
    "the old companion's going": ("replace", 1),
    "the file's rename": ("replace", 2),
    "the companion's rename": ("replace", 3),
}


def plant(monkeypatch, step, call):
    """Break the disk at one call of one of the functions that change it."""
    owner = os if step == "fsync" else Path
    monkeypatch.setattr(owner, step, failing(getattr(owner, step), call))


@pytest.mark.parametrize("step", STEPS)
def test_a_failure_at_any_step_leaves_the_old_pair(step, tmp_path, monkeypatch):
    """Both of them, and nothing else."""
    write(tmp_path, *PAIR, text="old")

    plant(monkeypatch, *STEPS[step])
    with pytest.raises(DiskError) as caught:
        write(tmp_path, *PAIR)

    names = " and ".join(str(tmp_path / name) for name in PAIR)
    assert str(caught.value) == f"{names}: cannot be written: Input/output error"
    assert stand(tmp_path) == OLD


@pytest.mark.parametrize(
    "step", [("touch", 1), ("touch", 2), ("fsync", 1), ("fsync", 2), ("replace", 1), ("replace", 2)]
)
def test_a_failure_at_any_step_leaves_an_empty_folder_empty(step, tmp_path, monkeypatch):
    """The first file goes again when the second cannot come."""
    plant(monkeypatch, *step)
    with pytest.raises(DiskError):
        write(tmp_path, *PAIR)

    assert stand(tmp_path) == {}


@pytest.mark.parametrize("left", PAIR)
@pytest.mark.parametrize("step", [("fsync", 2), ("replace", 1), ("replace", 2)])
def test_a_failure_leaves_one_old_file_alone(step, left, tmp_path, monkeypatch):
    """A file whose companion was deleted, or a companion whose file was."""
    write(tmp_path, left, text="old")

    plant(monkeypatch, *step)
    with pytest.raises(DiskError):
        write(tmp_path, *PAIR)

    assert stand(tmp_path) == {left: f"old {left}"}


def test_an_interrupt_between_the_renames_leaves_the_old_pair(tmp_path, monkeypatch):
    """Control-C is no error of the disk."""
    write(tmp_path, *PAIR, text="old")
    real, calls = Path.replace, []

    def interrupted(path, target):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(path, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, *PAIR)

    assert stand(tmp_path) == OLD


def test_a_file_system_without_second_names_is_written_to_alike(tmp_path, monkeypatch):
    """The old file is copied, to be there again after a failure."""
    write(tmp_path, *PAIR, text="old")
    monkeypatch.setattr(os, "link", failing(os.link, 1))
    plant(monkeypatch, "replace", 3)

    with pytest.raises(DiskError):
        write(tmp_path, *PAIR)

    assert stand(tmp_path) == OLD


def test_a_pair_replaces_a_pair(tmp_path):
    """And nothing else is left."""
    write(tmp_path, *PAIR, text="old")
    write(tmp_path, *PAIR)

    assert stand(tmp_path) == NEW


KILLED = """
import os, sys
from pathlib import Path
from densenet_port import files
real, calls = Path.replace, []
def killed(path, target):
    calls.append(path)
    if len(calls) == int(sys.argv[2]):
        os._exit(9)
    return real(path, target)
Path.replace = killed
folder = Path(sys.argv[1])
with files.together(folder / "out.caffemodel", folder / "out.prototxt") as (model, text):
    model.write_text("new out.caffemodel")
    text.write_text("new out.prototxt")
"""


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (1, OLD),
        (2, {"out.caffemodel": "old out.caffemodel"}),
        (3, {"out.caffemodel": "new out.caffemodel"}),
    ],
)
def test_a_killed_process_leaves_no_new_file_beside_an_old_one(call, expected, tmp_path):
    """Before each of the renames; what it left under other names, the next writer removes."""
    write(tmp_path, *PAIR, text="old")

    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, str(call)], check=False)
    visible = {name: text for name, text in stand(tmp_path).items() if not name.startswith(".")}
    left = len(list(tmp_path.iterdir())) - len(visible)
    write(tmp_path, *PAIR)

    assert (done.returncode, visible, left > 0, stand(tmp_path)) == (9, expected, True, NEW)


def test_strays_go_and_what_somebody_writes_stays(tmp_path):
    """By the machine and the process in their names, and their age."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here, elsewhere = files._machine(), "00000000"
    strays = {
        f".out.h5.{here}-{gone.pid}-0123abcd": False,
        f".out.h5.{here}-{os.getpid()}-0123abcd": True,
        f".out.h5.{here}-1-0123abcd": True,  # another user's process
        f".out.h5.{elsewhere}-{gone.pid}-0123abcd": True,
        f".out.h5.{elsewhere}-{gone.pid}-89abcdef": False,
        f".other.h5.{here}-{gone.pid}-0123abcd": True,
        f".out.h5.{here}-{gone.pid}-notes": True,
        ".out.h5.backup": True,
    }
    for name in strays:
        (tmp_path / name).write_text("")
    old = time.time() - files.STALE - 60
    os.utime(tmp_path / f".out.h5.{elsewhere}-{gone.pid}-89abcdef", (old, old))

    write(tmp_path, "out.h5")

    assert {name for name, stays in strays.items() if stays} | {"out.h5"} == set(stand(tmp_path))


def test_a_file_has_the_rights_that_the_user_gives(tmp_path):
    """And not those of a secret."""
    mask = os.umask(0o027)
    try:
        write(tmp_path, "out.h5")
    finally:
        os.umask(mask)

    assert (tmp_path / "out.h5").stat().st_mode & 0o777 == 0o640
