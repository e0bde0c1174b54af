"""Downloads in processes of their own, which are killed; forked from one that has imported all, so fifty are cheap.

    python lives.py KIND FOLDER     with what is known of a file on stdin; prints one JSON value

`steps` kills one at its first step that touches the disk, one at its second …, and lets another finish each time.
`moments` kills fifty, one after the other: after some milliseconds, or some bytes. `together` starts eight at once;
`heirs` kills one that is under way while the others wait. `readonly` has someone without rights use the cache.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import filelock  # noqa: F401 (before the fork, as the next)
import urllib3  # noqa: F401

from densenet_port.errors import DiskError
from densenet_port.fetch import cache
from densenet_port.fetch.http import RetryPolicy
from densenet_port.fetch.partial import Expected

POLICY = RetryPolicy(connect=5, read=5, tries=3, backoff=0.01)
cache.LOCK = 30
TOUCHES = {"open", "write", "truncate", "replace", "unlink", "fsync", "mkdir", "touch", "flock", "chmod"}


def born(work):
    """A process that does some work and ends."""
    if child := os.fork():
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 (told, and the code says it)
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child):
    """Its exit code; minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dying(step, work, touches=TOUCHES):
    """Work that is killed as it takes its `step`-th step on the disk, of these kinds."""
    left = iter(range(step - 1))

    def watch(_frame, event, function):
        if event != "c_call" or function.__name__ not in touches or isinstance(function.__self__, str):
            return  # a string's `replace` touches no disk
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)
    work()
    sys.setprofile(None)


def _file(known, name):
    return Expected(**{**known, "url": f"{known['url']}/{name}.h5"})


def size_of_partial(folder):
    return max((path.stat().st_size for path in folder.glob(".*.part")), default=0)


def grown(folder, size):
    """Wait until the unfinished file has so many bytes."""
    while size_of_partial(folder) < size:
        time.sleep(0.001)


def steps(known, folder):
    """For each step: how the first life ended, what it left, how the second ended, and what lies there then."""
    results = []
    for step in range(1, 300):
        place = folder / str(step)
        file = _file(known, step)

        def work(file=file, place=place):
            cache.obtain(file, place / "w.h5", policy=POLICY)

        first = ended(born(lambda step=step, work=work: dying(step, work)))
        kept = size_of_partial(place) if place.exists() else 0
        done = (place / "w.h5").exists()
        results.append([first, kept, done, ended(born(work)), sorted(path.name for path in place.iterdir())])
        if first == 0:
            break
    return results


def moments(known, folder):
    """What each of fifty lives left, then how one more ends that is let live, and the files then."""
    chance, left = random.Random(1), []  # noqa: S311
    for life in range(50):
        child = born(lambda life=life: cache.obtain(_file(known, life), folder / "w.h5", policy=POLICY))
        if life % 2:
            time.sleep(chance.uniform(0.0, 0.05))
        else:
            grown(folder, size_of_partial(folder) + chance.randint(1, 8000))
        os.kill(child, signal.SIGKILL)
        ended(child)
        left.append(size_of_partial(folder))
    last = ended(born(lambda: cache.obtain(_file(known, "last"), folder / "w.h5", policy=POLICY)))
    return {"left": left, "last": last, "files": sorted(path.name for path in folder.iterdir())}


def together(known, folder):
    """How eight processes end that start at once."""
    file = _file(known, "w")
    return [
        ended(child) for child in [born(lambda: cache.obtain(file, folder / "w.h5", policy=POLICY)) for _ in range(8)]
    ]


def heirs(known, folder):
    """How seven processes end that wait for an eighth, which is killed in the middle."""
    file = _file(known, "w")
    first = born(lambda: cache.obtain(file, folder / "w.h5", policy=POLICY))
    grown(folder, 1)
    waiting = [born(lambda: cache.obtain(file, folder / "w.h5", policy=POLICY)) for _ in range(7)]
    time.sleep(0.2)
    os.kill(first, signal.SIGKILL)
    return [ended(child) for child in [first, *waiting]]


def readonly(known, folder):
    """0 where a file that is there is used, then 0 where one that is not there is an error of the disk."""
    file = _file(known, "w")
    cache.obtain(file, folder / "w.h5", policy=POLICY)
    (folder / ".w.h5.json").unlink()
    os.chdir(folder)  # the folders above it are closed to the other user
    folder.chmod(0o555)

    def used():
        _lose_rights()
        cache.obtain(file, Path("w.h5"), policy=POLICY)

    def refused():
        _lose_rights()
        try:
            cache.obtain(file, Path("other.h5"), policy=POLICY)
        except DiskError:
            return
        raise AssertionError

    codes = [ended(born(used)), ended(born(refused))]
    folder.chmod(0o755)
    return codes, sorted(path.name for path in folder.iterdir())


def _lose_rights():
    if os.geteuid() == 0:
        os.setuid(65534)


if __name__ == "__main__":
    kind, folder = sys.argv[1:]
    known = json.load(sys.stdin)
    print(json.dumps(globals()[kind](known, Path(folder))))  # noqa: T201
