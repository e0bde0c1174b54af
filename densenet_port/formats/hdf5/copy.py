"""HDF5 of forms that our own reader does not know, copied by h5py into a plain file that it does.

libhdf5 hangs or crashes on some damaged files, and reads whatever a file points to. So it runs in a process of its own,
with limits of time and memory, no plugins, and on a copy of the file's bytes in a folder of its own; and it follows
nothing out of the file: soft and external links, data in other files, virtual datasets and references are refused, as
groups within themselves are, and datasets that claim more than the file could hold or were never written.

    python -m densenet_port.formats.hdf5.copy SOURCE TARGET MEMORY SECONDS

copies the groups, the datasets of numbers or texts, and the attributes, and ends with 0; or it prints an error as one
JSON object {"kind", "message", "hint"} and ends with 1. Datasets become contiguous, attributes of texts texts of
variable length, whatever they were.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil, prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from densenet_port.errors import CorruptError, DiskError, MisfitError, PortError, UsageError
from densenet_port.formats.bounds import RATIO, TENSORS, limit_of
from densenet_port.formats.hdf5.read import CHUNKS, DEPTH, METADATA, REPACK
from densenet_port.formats.hdf5.read import RATIO as MOST
from densenet_port.formats.source import AGAIN, Source

SECONDS = 120  # that a copy may take by the clock
LEAST = 5  # seconds of the processor that any may take, and one more for each _SPEED bytes; a DenseNet-121 takes one
MEMORY = 3 * 2**29  # bytes of address space, and some times the file; libhdf5, numpy and Python take half a gibibyte
_SPEED = 2**22
_KINDS: dict[str, type[PortError]] = {kind.kind: kind for kind in (CorruptError, DiskError, MisfitError, UsageError)}
_PIECE = 1 << 23  # bytes copied at a time
_OTHERWISE = "load the file with the software that wrote it, and save it again"


# -- the caller --------------------------------------------------------------------------------------------------------


def plain_copy(source: Source) -> Source:
    """The same file in a form that our reader knows; its bytes are on the disk, and gone with whoever reads them.

    Raises CorruptError, MisfitError, DiskError or UsageError with the file's own path.
    """
    try:
        with TemporaryDirectory(prefix="densenet-port-", ignore_cleanup_errors=True) as folder:
            original, plain = Path(folder) / "original.h5", Path(folder) / "plain.h5"
            _spool(source, original)
            _run(source.path, original, plain)
            return Source.of_file(plain, called=source.path)  # an open file stays, though its name goes
    except OSError as error:
        message = f"{source.path}: its copy cannot be written to the folder for temporary files: {error.strerror}"
        raise DiskError(message, hint="make room there, or set TMPDIR to another folder") from error


def _spool(source: Source, target: Path) -> None:
    """Write a source's bytes to a file."""
    with target.open("wb") as file:
        for start in range(0, source.size, _PIECE):
            file.write(source.data(start, min(_PIECE, source.size - start)))


def _run(path: Path, original: Path, plain: Path) -> None:
    """Copy in a process of its own; `path` is for messages."""
    words = map(str, (original, plain, *_bounds(original.stat().st_size)))
    command = [sys.executable, "-s", "-P", "-m", __name__, *words]
    try:
        done = subprocess.run(  # noqa: S603 (this very module)
            command, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CorruptError(f"{path}: h5py does not come to an end with it in {SECONDS} s", hint=AGAIN) from error
    if done.returncode:
        raise _error(path, done)


def _bounds(size: int) -> tuple[int, int]:
    """Bytes of memory and seconds of the processor that the copy of a file may take."""
    return MEMORY + RATIO * size, min(ceil(SECONDS), LEAST + size // _SPEED)


def _error(path: Path, done: "subprocess.CompletedProcess[bytes]") -> PortError:
    """What the process says of the file, or that it died of it."""
    try:
        answer = json.loads(done.stdout)
        return _KINDS[answer["kind"]](f"{path}: {answer['message']}", hint=answer["hint"])
    except (ValueError, LookupError, TypeError):
        end = f"ended with {done.returncode}" if done.returncode > 0 else f"was stopped by signal {-done.returncode}"
        return CorruptError(f"{path}: h5py {end} while it read the file", hint=AGAIN)


def _environment() -> dict[str, str]:
    """The environment and the packages of this process, without HDF5's plugins and locks, and with one thread."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path),
        "HDF5_PLUGIN_PRELOAD": "::",  # libhdf5's word for none
        "HDF5_USE_FILE_LOCKING": "FALSE",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


# -- the process -------------------------------------------------------------------------------------------------------


def main() -> int:
    """Copy as the command line says; the exit code."""
    original, plain, memory, seconds = sys.argv[1:]
    _limit(int(memory), int(seconds))
    try:
        with _explained():
            copy(Path(original), Path(plain))
    except PortError as error:
        sys.stdout.write(json.dumps({"kind": error.kind, "message": error.message, "hint": error.hint}))
        return 1
    return 0


def _limit(memory: int, seconds: int) -> None:
    """Take no more than this, where the system has such limits."""
    try:
        import resource  # noqa: PLC0415 (Windows has none)
    except ImportError:
        return
    limits = {resource.RLIMIT_AS: memory, resource.RLIMIT_CPU: seconds, resource.RLIMIT_FSIZE: memory}
    for limit, value in {**limits, resource.RLIMIT_CORE: 0}.items():
        _, most = resource.getrlimit(limit)
        resource.setrlimit(limit, (value if most == resource.RLIM_INFINITY else min(value, most), most))


@contextmanager
def _explained() -> Iterator[None]:
    """What h5py and libhdf5 raise, as errors of ours."""
    try:
        yield
    except PortError:
        raise
    except ImportError as error:
        raise UsageError(f"h5py cannot be imported: {error}", hint='pip install "h5py>=3.10"') from error
    except MemoryError as error:
        raise CorruptError("h5py needs more memory for it than it may have", hint=_OTHERWISE) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DiskError(f"its copy cannot be written: {error.strerror}", hint="make room there") from error
        detail = error.args[0] if error.args else type(error).__name__  # a KeyError's text would be quoted
        raise CorruptError(f"h5py cannot read it: {detail}", hint=_OTHERWISE) from error


def copy(original: Path, plain: Path) -> None:
    """Copy a file. Raises CorruptError for what is refused, and whatever h5py does."""
    import h5py  # noqa: PLC0415 (this process alone needs it)

    with h5py.File(original, "r") as source, h5py.File(plain, "w", libver="earliest") as target:
        _Copy(h5py, original.stat().st_size).group(source, target, ())


class _Copy:
    """A copy under way: what it has claimed of its bounds."""

    def __init__(self, h5py: Any, size: int) -> None:
        self.h5py = h5py
        self.size = size
        self.objects = 0
        self.texts = self.chunks = 0
        self.claimed = {False: 0, True: 0}  # packed or not → bytes

    def group(self, source: Any, target: Any, path: tuple[int, ...]) -> None:
        """Copy what is in a group; `path` holds the addresses of the groups it stands in."""
        address = self.h5py.h5o.get_info(source.id).addr
        if address in path or len(path) > DEPTH:
            raise CorruptError(f"{source.name}: groups stand within themselves, or more than {DEPTH} deep")
        self.attributes(source, target)
        for name in source:
            self.objects += 1
            if self.objects > TENSORS:
                raise CorruptError(f"it has more than {TENSORS} groups and datasets")
            link = source.get(name, getlink=True)
            if not isinstance(link, self.h5py.HardLink):
                kind = "external" if isinstance(link, self.h5py.ExternalLink) else "soft"
                raise CorruptError(f"{name!r} is a link of kind {kind!r}, which is refused")
            node = source[name]
            if isinstance(node, self.h5py.Group):
                self.group(node, target.create_group(name), (*path, address))
            elif isinstance(node, self.h5py.Dataset):
                self.dataset(node, target, name)

    def dataset(self, source: Any, target: Any, name: str) -> None:
        """Copy a dataset."""
        self.check_type(source.name, source.dtype)
        if source.external or source.is_virtual:
            raise CorruptError(f"the data of {source.name} stand in another file, which is refused")
        self.claim(source)
        value = self.h5py.Empty(source.dtype) if source.shape is None else source[()]
        self.attributes(source, target.create_dataset(name, data=value, dtype=source.dtype))

    def claim(self, dataset: Any) -> None:
        """Count the bytes of a dataset. Raises CorruptError when they cannot stand in the file, or do not."""
        packed, counts = dataset.chunks is not None, _chunk_counts(dataset)
        chunk = dataset.chunks or dataset.shape or ()
        self.claimed[packed] += prod(counts) * prod(chunk) * dataset.dtype.itemsize
        limit = min(limit_of(self.size), MOST * self.size) if packed else self.size
        if self.claimed[packed] > limit:
            raise CorruptError(f"its datasets claim {self.claimed[packed]} bytes, at most {limit} fit")
        self.chunks += prod(counts)
        if self.chunks > CHUNKS:
            raise CorruptError(f"its datasets have more than {CHUNKS} chunks", hint=REPACK)
        written = dataset.id.get_num_chunks() == prod(counts) if packed else dataset.id.get_storage_size() > 0
        if dataset.size and not written:
            raise CorruptError(f"{dataset.name} lacks some of its data", hint=AGAIN)

    def attributes(self, source: Any, target: Any) -> None:
        """Copy the attributes of a group or a dataset."""
        for name in source.attrs:
            dtype = source.attrs.get_id(name).dtype
            self.check_type(f"the attribute {name!r} of {source.name}", dtype)
            value = source.attrs[name]
            if not isinstance(value, self.h5py.Empty) and (dtype.kind == "S" or self.is_text(dtype)):
                value, dtype = self.texts_of(value), self.h5py.string_dtype()
            target.attrs.create(name, value, dtype=dtype)

    def texts_of(self, value: Any) -> Any:
        """The value of an attribute of texts, as texts of Python. Raises CorruptError where they are too many."""
        array = np.asarray(value, object)
        texts = [text.decode() if isinstance(text, bytes) else text for text in array.ravel()]
        self.texts += sum(map(len, texts))
        if self.texts > METADATA:
            raise CorruptError(f"its attributes have more than {METADATA} characters")
        return np.array([*texts, None], object)[:-1].reshape(array.shape)

    def is_text(self, dtype: Any) -> bool:
        """Whether a type is text of variable length."""
        return self.h5py.check_string_dtype(dtype) is not None

    def check_type(self, name: str, dtype: Any) -> None:
        """Raise CorruptError for what is no number and no text: a reference, a structure, a list of variable length."""
        if not (dtype.kind in "iufbS" or self.is_text(dtype) or dtype == np.dtype("V2")):
            raise CorruptError(f"{name} holds values of type {dtype}, expected numbers or texts")


def _chunk_counts(dataset: Any) -> list[int]:
    """How many chunks a dataset has on each axis; one where it is in one piece."""
    shape = dataset.shape or ()
    return [-(-length // side) for length, side in zip(shape, dataset.chunks, strict=True)] if dataset.chunks else [1]


if __name__ == "__main__":
    sys.exit(main())
