"""What becomes of files when a conversion is killed, when its disk breaks, and when it is run again."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from densenet_port.files import file_digest
from tests.record.reliability.part import Part, flowed, table
from tests.support.breaks import ENDINGS

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "weights" / "sample" / "digits.pth"
KILLS, OFFSETS, RUNS = 200, 50, 100
ERRORS = ("EIO", "ENOSPC", "EROFS", "EDQUOT", "EMFILE")
ZONES = ("UTC", "Asia/Kathmandu", "America/St_Johns", "Pacific/Kiritimati")
LOCALES = ("C", "C.utf8", "POSIX", "de_DE.UTF-8")
MASKS = ("022", "077", "002", "000", "027")
WHOLE = {("old",), ("new",), ("old", "old"), ("new", "new")}
ALONE = {("old", "none"), ("new", "none")}  # a .caffemodel, between the renames


class Row(NamedTuple):
    """What was done, how often, and what came of it."""

    what: str
    tried: str
    result: str


def measure(scale: float) -> dict[str, Any]:
    """Everything, with a share of the attempts; each row is told on stderr as it comes."""
    rows = []
    with TemporaryDirectory(prefix="reliability-") as name:
        folder = Path(name)
        for row in (
            lambda: killed(folder / "killed", round(KILLS * scale)),
            lambda: failing(folder / "failing", round(OFFSETS * scale)),
            lambda: limited(folder / "limited", round(OFFSETS * scale)),
            lambda: full(folder / "full", round(OFFSETS * scale)),
            lambda: read_only(folder / "read-only"),
            lambda: again(folder / "again", round(RUNS * scale)),
        ):
            rows.append(row())
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)  # noqa: T201
    return {"rows": rows}


def render(measured: dict[str, Any]) -> str:
    """The rows as a table."""
    words = """The embedded sample, converted into containers that are written, over an older file of the same name: how
        often, and into how many of them, the table says. A process is killed at its steps on the disk (all of the last
        ones, others by chance) and at moments by chance; a step fails; something runs out. *Torn* is what is neither
        the old file nor the new one, or a file beside another's companion. An error is one line and exit code 6. A full
        and a read-only file system are real ones, where the user may mount them. Before each attempt the old file is
        put back, and after it another file is written beside, which must leave no stray."""
    return f"{flowed(words)}\n\n{table(['what', 'how often', 'what came of it'], measured['rows'])}"


def killed(folder: Path, count: int) -> Row:
    """SIGKILL at steps on the disk, all over the conversion and each of the last, and at moments."""
    chance = random.Random(1)  # noqa: S311
    last = min(16, count // 2)
    steps = [*range(-last, 0), *(chance.random() for _ in range(count // 2 - last))]
    results = attempts(folder, {"step": steps, "share": [chance.uniform(0, 1.1) for _ in range(count - len(steps))]})
    died = sum(code == -9 for _, _, code, *_ in results)
    return Row("SIGKILL during convert", f"{count} × {len(ENDINGS)} containers, {died} died", outcome(results))


def failing(folder: Path, count: int) -> Row:
    """A step on the disk that fails, with one of five errors."""
    chance = random.Random(2)  # noqa: S311
    share = -(-count // len(ERRORS))
    plan = {name: [chance.choice([-chance.randint(1, 12), chance.random()]) for _ in range(share)] for name in ERRORS}
    results = attempts(folder, plan)
    return Row(f"{', '.join(ERRORS)} at a step", f"{share * len(ERRORS)} × {len(ENDINGS)}", outcome(results))


def limited(folder: Path, count: int) -> Row:
    """A file that cannot grow beyond an offset, few files that may be open, and little memory."""
    plan = {
        "full": [number / count for number in range(count)],
        "handles": list(range(8)),
        "memory": [0, 0.5, 1, 2, 4, 8, 8.5, 12, 16, 20],
    }
    results = attempts(folder, plan)
    tried = f"{count} offsets, 8 and 10 limits, × {len(ENDINGS)}"
    return Row("RLIMIT_FSIZE, RLIMIT_NOFILE, RLIMIT_AS", tried, outcome(results))


def full(folder: Path, count: int) -> Row:
    """A real file system that has room for a share of the file."""
    folder.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=16m", "tmpfs", folder) as really:
        if not really:
            return Row("a full file system", "0", "nothing was mounted")
        results = attempts(folder, {"space": [number / count for number in range(count)]})
    return Row("a full file system (tmpfs)", f"{count} offsets × {len(ENDINGS)}", outcome(results))


def read_only(folder: Path) -> Row:
    """A real file system that has the old files, and is read-only by then."""
    folder.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=16m", "tmpfs", folder) as really:
        if not really:
            return Row("a read-only file system", "0", "nothing was mounted")
        convert = {
            ending: ["convert", SAMPLE, "--out", folder / f"out{ending}", "--force", "--dst", layout_of(ending)]
            for ending in ENDINGS
        }
        for words in convert.values():
            command("densenet_port", *words, "--no-top")
        old = {path: file_digest(path) for path in folder.iterdir()}
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        ends = Counter()
        for words in convert.values():
            done = command("densenet_port", *words)
            lines = done.stderr.splitlines()
            ends[done.returncode, len(lines), lines[0].rpartition(": ")[2]] += 1
        kept = sum(path.exists() and file_digest(path) == digest for path, digest in old.items())
    result = f"{told(ends)}; {kept} of {len(old)} old files, companions among them, are intact"
    return Row("a read-only file system that has the old files", f"1 × {len(ENDINGS)}", result)


def again(folder: Path, count: int) -> Row:
    """The same input in fresh processes, whose surroundings differ."""
    folder.mkdir()
    written: dict[str, set[str]] = {}
    for number in range(count):
        place = folder / f"{number} ö"
        place.mkdir()
        (place / f"in-{number}").write_bytes(SAMPLE.read_bytes())
        around = {
            "PYTHONHASHSEED": str(number),
            "TZ": ZONES[number % len(ZONES)],
            "LC_ALL": LOCALES[number % len(LOCALES)],
            "OPENBLAS_NUM_THREADS": str(1 + number % 2),
        }
        done = command("tests.support.twice", f"in-{number}", ".", MASKS[number % len(MASKS)], around=around, cwd=place)
        for name, digest in json.loads(done.stdout).items():
            written.setdefault(name, set()).add(digest)
    same = sum(len(digests) == 1 for digests in written.values())
    return Row(
        "the same input, other hash seeds, locales, time zones, umasks, folders, names, threads",
        f"{count} processes × {len(ENDINGS)}",
        f"{same} of {len(written)} files byte-identical in all",
    )


# -- how it is run -----------------------------------------------------------------------------------------------------


def attempts(folder: Path, plan: dict[str, list[float]]) -> list[list]:
    """What `tests.support.breaks` says of a plan, for every container."""
    folder.mkdir(exist_ok=True)
    done = command("tests.support.breaks", SAMPLE, folder, json.dumps(dict.fromkeys(ENDINGS, plan)))
    trials = json.loads(done.stdout)
    assert all(trial["right"] for trial in trials.values())
    return [row for trial in trials.values() for row in trial["results"]]


def outcome(results: list[list]) -> str:
    """How many ended how, what stood there, and what was left."""
    stands = Counter(
        "old"
        if stand[0] == "old" and tuple(stand) in WHOLE
        else "new"
        if tuple(stand) in WHOLE
        else "alone"
        if tuple(stand) in ALONE
        else "torn"
        for _, _, _, stand, *_ in results
    )
    codes = Counter(code for _, _, code, *_ in results if code not in (-9, 0, 6))
    hurt = sum(code == 6 and set(stand) != {"old"} for _, _, code, stand, *_ in results)
    strays = sum(beside + same for *_, beside, same in results)
    return (
        f"{stands['torn']} torn; {stands['old']} old, {stands['new']} new, {stands['alone']} a .caffemodel without its "
        f".prototxt; {sum(code == 6 for _, _, code, *_ in results)} errors of one line with exit code 6, "
        f"{hurt} of them with another file than the old one; {codes.total()} other ends; "
        f"{strays} strays after the next run"
    )


def told(ends: Counter) -> str:
    return "; ".join(f"{count} exit {code}, {lines} line: {text}" for (code, lines, text), count in ends.items())


def layout_of(ending: str) -> str:
    return {".pth": "torchvision", ".caffemodel": "caffe", ".onnx": "onnx"}.get(ending, "keras")


def command(module: str, *words: object, around: dict[str, str] | None = None, cwd: Path = ROOT):
    """A module run in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", **(around or {})}
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, words)],
        env=environment, cwd=cwd, capture_output=True, text=True, check=module != "densenet_port",
    )  # fmt: skip


@contextmanager
def mounted(*words: object) -> Iterator[bool]:
    """A file system for a while; whether it could be mounted. The last word is the folder."""
    really = subprocess.run(["mount", *map(str, words)], capture_output=True, check=False).returncode == 0
    try:
        yield really
    finally:
        if really:
            subprocess.run(["umount", "--lazy", str(words[-1])], check=True)


PARTS = {"writer": Part("Killed, full, read-only, and run again", measure, render)}
