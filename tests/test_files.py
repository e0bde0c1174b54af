"""A file is written whole, its companions with it: a failure at any step leaves what stood there before."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from densenet_port import files, strays
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
    "the first file's name": ("begin", 1),
    "the second file's name": ("begin", 2),
    "the file's sync": ("fsync", 1),
    "the companion's sync": ("fsync", 2),
    "the old companion's going": ("replace", 1),
    "the file's rename": ("replace", 2),
    "the companion's rename": ("replace", 3),
}


def plant(monkeypatch, step, call):
    """Break the disk at one call of one of the functions that change it."""
    owner = {"fsync": os, "begin": strays}.get(step, Path)
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
    "step", [("begin", 1), ("begin", 2), ("fsync", 1), ("fsync", 2), ("replace", 1), ("replace", 2)]
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


WAITING = """
import sys
from pathlib import Path
from densenet_port import strays
print(strays.begin(Path(sys.argv[1], "out.h5"), 0o666).path.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path):
    """A process that is at work on a file in the folder; and that file's name."""
    command = [sys.executable, "-c", WAITING, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process, process.stdout.readline().strip()
        process.kill()


def test_strays_go_with_their_writer_and_not_before(writer, tmp_path):
    """Whoever writes what, in that folder; a number that another process got since says nothing."""
    process, name = writer
    write(tmp_path, "another.h5")
    while_it_ran = set(stand(tmp_path))

    process.kill()
    process.wait()
    (tmp_path / name).rename(tmp_path / name.replace(str(process.pid), str(os.getpid())))
    write(tmp_path, "another.h5")

    assert (while_it_ran, set(stand(tmp_path))) == ({"another.h5", name}, {"another.h5"})


def test_where_nobody_can_be_asked_age_decides(tmp_path):
    """Files of another machine, of before a restart, or of a system without locks; and what only looks like ours."""
    stays = [
        ".out.h5.89abcdef-1-0123abcd",
        ".out.h5.00000000-1-0123abcd",
        f".out.h5.{strays.kernel()}-1-0123abcd.old",  # what another process put aside, perhaps the last of it
        f".out.h5.{strays.kernel()}-1-notes",
        ".out.h5.backup",
    ]
    goes = [".out.h5.89abcdef-2-0123abcd", ".out.h5.00000000-2-0123abcd", f".other.{strays.kernel()}-1-0123abcd"]
    for name in (*stays, *goes):
        (tmp_path / name).write_text("")
    long_ago = time.time() - strays.ABANDONED - 60
    for name in (*goes[:2], *stays[3:]):
        os.utime(tmp_path / name, (long_ago, long_ago))

    write(tmp_path, "new.h5")

    assert set(stand(tmp_path)) == {*stays, "new.h5"}


def test_a_system_without_locks_is_written_to_alike(tmp_path, monkeypatch):
    """The names say that nobody can be asked, so that nobody takes a file for a dead one's."""
    monkeypatch.setattr(strays.fcntl, "flock", failing(strays.fcntl.flock, 1))

    with files.whole(tmp_path / "out.h5") as temporary:
        temporary.write_text("new")
        write(tmp_path, "another.h5")
        kept = temporary.exists()

    assert (kept, strays.NOBODY in temporary.name, set(stand(tmp_path))) == (True, True, {"out.h5", "another.h5"})


def test_a_file_that_was_taken_for_a_stray_is_begun_again(tmp_path, monkeypatch):
    """Between its first byte and its lock another process may ask for it."""
    answers = iter([False, True])
    monkeypatch.setattr(strays, "_hold", lambda _descriptor: next(answers))

    write(tmp_path, "out.h5")

    assert stand(tmp_path)["out.h5"] == "new out.h5"


def test_a_disk_that_breaks_for_good_says_where_the_old_file_is(tmp_path, monkeypatch):
    """What cannot be put back stays under the other name, and no later run beside it takes it away."""
    write(tmp_path, *PAIR, text="old")
    real, calls = Path.replace, []

    def broken(path, target):
        calls.append(path)
        if len(calls) > 1:
            raise OSError(30, "Read-only file system")
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", broken)
        patch.setattr(Path, "unlink", failing(Path.unlink, 1))
        with pytest.raises(DiskError) as caught:
            write(tmp_path, *PAIR)
    write(tmp_path, "another.h5")

    place = tmp_path / "out.prototxt"
    (kept,) = tmp_path.glob(".out.prototxt.*.old")
    assert caught.value.message.splitlines()[-1] == (
        f"{place}: cannot be put back: Read-only file system; what stood there is in {kept}"
    )
    assert (kept.read_text(), (tmp_path / "out.caffemodel").read_text()) == (OLD["out.prototxt"], OLD["out.caffemodel"])


# -- places ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o027, 0o002])
def test_a_new_file_has_the_rights_that_the_user_gives_and_a_replaced_one_keeps_its_own(mask, tmp_path):
    """A secret stays one, from its first byte on, and what a group could write it still can."""
    rights = {"secret.h5": 0o600, "shared.h5": 0o664}
    for name, mode in rights.items():
        (tmp_path / name).write_text("old")
        (tmp_path / name).chmod(mode)
    before = os.umask(mask)
    try:
        with files.whole(tmp_path / "secret.h5") as temporary:
            unfinished = temporary.stat().st_mode & 0o777
        write(tmp_path, "shared.h5")
        write(tmp_path, "new.h5")
    finally:
        os.umask(before)

    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert (unfinished, modes) == (0o600, {**rights, "new.h5": 0o666 & ~mask})


@pytest.mark.parametrize("error", [ValueError("no reason supplied"), SystemError("error return without exception set")])
def test_openssl_without_memory_says_so(monkeypatch, error):
    """A context of a digest is not made, or not copied; Python calls that a ValueError of no reason, or SystemError."""

    def fails(*_):
        raise error

    monkeypatch.setattr(files.hashlib, "sha256", fails)

    with pytest.raises(MemoryError):
        files.sha256(b"")


def test_a_link_is_written_through(tmp_path):
    """To the file, or to the place where one could be; the link stays."""
    elsewhere = tmp_path / "disk"
    elsewhere.mkdir()
    (elsewhere / "old.h5").write_text("old")
    for link, target in (("old.h5", "disk/old.h5"), ("none.h5", "disk/none.h5"), ("twice.h5", "old.h5")):
        (tmp_path / link).symlink_to(target)

    write(tmp_path, "none.h5")
    write(tmp_path, "twice.h5")

    assert {path.name for path in tmp_path.iterdir() if path.is_symlink()} == {"old.h5", "none.h5", "twice.h5"}
    assert stand(elsewhere) == {"none.h5": "new none.h5", "old.h5": "new twice.h5"}


def test_what_is_no_file_is_refused_before_anything_is_written(tmp_path):
    """A folder, a pipe, a device, a link to itself, a folder that is none: one sentence each."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("link")
    (tmp_path / "file").write_text("")
    device = "a device, a pipe or a socket"
    expected = {
        tmp_path / "folder": "is a directory\n  name a file",
        tmp_path / "pipe": f"is {device}\n  name a file",
        Path("/dev/null"): f"is {device}\n  name a file",
        tmp_path / "link": "Too many levels of symbolic links",
        tmp_path / "gone" / "out.h5": "No such file or directory",
        tmp_path / "file" / "out.h5": "Not a directory",
        tmp_path / ("n" * 256): "File name too long",
    }

    messages = {}
    for place in expected:
        with pytest.raises(DiskError) as caught, files.whole(place):
            raise AssertionError
        messages[place] = str(caught.value)

    assert messages == {place: f"{place}: cannot be written: {why}" for place, why in expected.items()}
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "pipe", "link", "file"}


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    """Unfinished files have names of their own, which are longer."""
    write(tmp_path, "ü" * 127)

    assert stand(tmp_path) == {"ü" * 127: f"new {'ü' * 127}"}
