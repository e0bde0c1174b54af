"""Conversions in processes of their own that are killed, or whose disk breaks; forked from one that has imported all.

    python -m tests.support.breaks SOURCE FOLDER PLAN     prints one JSON value

PLAN is JSON: ending → {kind → the numbers to try}. Each attempt finds the old file (the network without its head, and
what goes with it), writes the new one over it, and ends in one of these ways:

    step       killed at its n-th step on the disk          share     killed after this share of the usual time
    EIO …      the n-th step on the disk fails so           full      the file cannot grow beyond this share of its size
    handles    no more than n files open than now           memory    no more than n MiB of address space than now
    space      FOLDER, a small file system of its own, has room for this share of the file

A step that is negative counts from the last one, a fraction is that share of all. Every attempt gives how it ended,
what stands there (`old`, `new`, `none` or `torn`, for the file and its companion), and how many files of the dead there
were, were left once another file was written beside them, and once the same was written again.
"""

import errno
import json
import os
import resource
import signal
import sys
import threading
import time
from contextlib import redirect_stderr
from importlib import import_module
from io import StringIO
from pathlib import Path

from densenet_port import formats
from densenet_port.cli import app
from densenet_port.conversion import convert
from densenet_port.conversion.convert import verify
from densenet_port.conversion.load import read
from densenet_port.conversion.write import plan
from densenet_port.files import file_digest, together, whole
from densenet_port.layouts.layout import Layout
from densenet_port.strays import OLD
from tests.support.lives import TOUCHES, born, ended

LAYOUTS = {".pth": "torchvision", ".caffemodel": "caffe", ".onnx": "onnx"}  # the rest are keras
ENDINGS = (".pth", ".safetensors", ".h5", ".weights.h5", ".keras", ".caffemodel", ".onnx", ".npz")
CHANGES = TOUCHES | {"link", "rename"}
MIB = 1 << 20
FILLER = "filler"
PATIENCE = 60  # seconds


def places(folder, ending):
    """The file that is written, and what goes with it."""
    out = folder / f"out{ending}"
    return [out, *filter(None, [formats.companion(out)])]


def layout_of(out):
    return LAYOUTS.get(out.name.removeprefix("out"), "keras")


def run(source, out, *, no_top=False):
    """The conversion, over whatever stands there."""
    convert.convert(source, out=out, dst=layout_of(out), no_top=no_top, force=True)


def breaking(number, act, work):
    """Do work, and `act` at its n-th step on the disk, once; the number of steps."""
    steps = 0

    def watch(_frame, event, function):
        nonlocal steps
        if event != "c_call" or function.__name__ not in CHANGES or isinstance(function.__self__, str):
            return
        steps += 1
        if steps == number:
            sys.setprofile(None)
            act()

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return steps


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def failing(name):
    """What a system call does that fails."""
    code = getattr(errno, name)

    def act():
        raise OSError(code, os.strerror(code))

    return act


def limited(kind, amount):
    """Have less of something from now on."""
    _, most = resource.getrlimit(kind)
    resource.setrlimit(kind, (amount, most))


def filled(folder, room):
    """Leave so many bytes free in a folder's file system."""
    stat = os.statvfs(folder)
    with (folder / FILLER).open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, stat.f_bavail * stat.f_frsize - room))


def address_space():
    """Bytes of this process's address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def attempt(kind, number, usual, work):
    """One attempt, in the process that is to break; one that hangs is killed by SIGALRM."""
    signal.alarm(PATIENCE)
    match kind:
        case "step":
            breaking(step_of(number, usual["steps"]), die, work)
        case "share":
            threading.Timer(number * usual["seconds"], die).start()
            work()
            time.sleep(usual["seconds"] * 2)
        case "full":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            limited(resource.RLIMIT_FSIZE, int(number * usual["bytes"]))
            work()
        case "space":
            filled(Path(usual["folder"]), int(number * usual["bytes"]))
            work()
        case "handles":
            limited(resource.RLIMIT_NOFILE, len(list(Path("/proc/self/fd").iterdir())) - 1 + number)
            work()
        case "memory":
            limited(resource.RLIMIT_AS, address_space() + int(number * MIB))
            work()
        case _:
            breaking(step_of(number, usual["steps"]), failing(kind), work)


def as_a_command(work):
    """Exit with the code that the command line has for what work raises, after one line on stderr."""
    app.app, app.register, sys.argv = (lambda *_, **__: work()), (lambda *_: None), ["densenet-port", "convert"]
    heard = StringIO()
    try:
        with redirect_stderr(heard):
            app.main()
    except SystemExit as end:
        lines = heard.getvalue().splitlines()
        if end.code and (len(lines) > 3 or not lines[0].startswith("error: ")):
            sys.__stderr__.write(heard.getvalue())
            os._exit(99)
        os._exit(end.code)


def state(here, old, new):
    """What stands at each place."""
    kinds = {None: "none"}
    for before, after in zip(old, new, strict=True):
        kinds |= {before: "old", after: "new"}
    found = [file_digest(place) if place.exists() else None for place in here]
    return [kinds.get(digest, "torn") for digest in found]


def unfinished(folder):
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def apart(work):
    """What work gives, in a process of its own: this one starts no thread, which a fork would not have."""
    reader, writer = os.pipe()
    code = ended(born(lambda: os.write(writer, json.dumps(work()).encode())))
    os.close(writer)
    with os.fdopen(reader) as file:
        assert code == 0
        return json.load(file)


def timed(work):
    """Seconds that work takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measured(source, here):
    """Seconds, steps on the disk and bytes of a conversion, by the first in a process, as each attempt is one."""
    seconds = apart(lambda: timed(lambda: run(source, here[0])))
    steps = apart(lambda: breaking(0, die, lambda: run(source, here[0])))
    return {"seconds": seconds, "steps": steps, "bytes": here[0].stat().st_size}


def prepare(source, here):
    """Have everything imported and every table read, so that a fork need not, without a thread."""
    layout = Layout.load(layout_of(here[0]))
    network = read(source)
    formats.ending(here[0])
    blueprint = layout.blueprint(network.architecture, plan(network, layout).contract)
    formats.companion_digest(here[0], blueprint)
    import_module(f"densenet_port.formats.{formats.ENDINGS[formats.ending(here[0])][0]}")


def trial(source, folder, ending, attempts):
    """Every attempt on one container."""
    folder.mkdir()
    here = places(folder, ending)
    prepare(source, here)
    apart(lambda: run(source, here[0], no_top=True))
    old, old_digests = [place.read_bytes() for place in here], list(map(file_digest, here))
    usual = {**measured(source, here), "folder": str(folder)}
    new_digests, results = list(map(file_digest, here)), []
    for kind, numbers in attempts.items():
        for number in numbers:
            for place, content in zip(here, old, strict=True):
                place.write_bytes(content)
            code = ended(born(lambda: as_a_command(lambda: attempt(kind, number, usual, lambda: run(source, here[0])))))  # noqa: B023
            (folder / FILLER).unlink(missing_ok=True)
            results.append([kind, number, code, state(here, old_digests, new_digests), *afterwards(here)])
    apart(lambda: (run(source, here[0]), verify(here[0]), None)[-1])
    right = state(here, old_digests, new_digests) == ["new"] * len(here)
    return {"usual": usual, "results": results, "right": right and not unfinished(folder)}


def step_of(number, steps):
    """Which step a number means."""
    if number < 0:
        return steps + 1 + number
    return max(1, round(number * steps)) if isinstance(number, float) else number


def afterwards(here):
    """Files of the dead: how many there were, how many are left by the next run beside them, and by one on the same."""
    folder = here[0].parent
    left = len(unfinished(folder))
    with whole(folder / "other") as other:
        other.write_bytes(b"")
    (folder / "other").unlink()
    beside = [path.name for path in unfinished(folder) if not path.name.endswith(OLD)]
    with together(*here) as temporaries:
        for place, temporary in zip(here, temporaries, strict=True):
            temporary.write_bytes(place.read_bytes() if place.exists() else b"")
    return left, len(beside), len(unfinished(folder))


if __name__ == "__main__":
    source, folder, plans = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    print(json.dumps({ending: trial(source, folder / ending[1:], ending, plans[ending]) for ending in plans}))  # noqa: T201
