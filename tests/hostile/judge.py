"""How a hostile file is read: what came of it, how long it took, and how much memory."""

import hashlib
import resource
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from densenet_port import formats
from densenet_port.conversion.load import read
from densenet_port.errors import PortError

MEMORY = 256 * 2**20  # bytes that reading may take more, or three times the file
SECONDS = 5  # that reading may take
_FULL = "more memory than there is"  # what a reader says when there is none left


class Verdict(NamedTuple):
    """What came of a file: "read", the kind of an error of ours, "untyped", "hang" or "memory"; the digest of it.

    `detail` is the error's text, `seconds` are those of the processor.
    """

    kind: str
    seconds: float
    detail: str = ""
    digest: str = ""
    recorded: bool = False


class HangError(BaseException):
    """The time is over."""


@contextmanager
def timed(seconds):
    """Stop what takes longer, where Python can."""

    def stop(*_):
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * seconds)  # of the clock: others may want the processor
    signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGALRM, before)


def tensors_of(path: Path) -> None:
    """Every tensor of a file, loaded once."""
    for tensor in formats.read(path).tensors.values():
        tensor.load()


def network_of(path: Path) -> tuple[str, bool]:
    """The digest of all that a file is read as, and whether it carries a record."""
    network = read(path)
    summary = hashlib.sha256(repr((network.architecture, network.contract)).encode())
    for slot, array in network.weights.items():
        summary.update(f"{slot} {array.dtype} {array.shape}".encode() + array.tobytes())
    return summary.hexdigest(), network.checkpoint.record is not None


def judged(path: Path, seconds: float = SECONDS) -> Verdict:
    """Read a file in both ways: tensor by tensor, whatever it is, and as a network."""
    start = time.process_time()
    kind, detail, digest, recorded = "read", "", "", False
    try:
        with timed(seconds):
            tensors_of(path)
            digest, recorded = network_of(path)
    except PortError as error:
        kind, detail = "memory" if _FULL in error.message else error.kind, str(error)
    except HangError:
        kind = "hang"
    except MemoryError:
        kind = "memory"
    except Exception as error:  # noqa: BLE001 (that is what is looked for)
        kind, detail = "untyped", f"{type(error).__name__}: {error}"
    return Verdict(kind, time.process_time() - start, detail[:300], digest, recorded)


def limit(memory: int) -> None:
    """Let this process take so much more address space than it has now."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory, resource.RLIM_INFINITY))


def high_water() -> int:
    """Bytes that this process has taken at most, ever."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
