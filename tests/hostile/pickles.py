"""Malicious pickles: every name that is known to do harm, called in every way that a pickle has, in every container.

Each would write a file of the name `HARM` beside where it is loaded, or worse. `audited` reads them under an audit
hook, which Python tells of imports, calls of `exec`, of processes, of sockets, and of files that are opened.
"""

import io
import json
import pickle
import struct
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from densenet_port import formats
from densenet_port.errors import PortError
from densenet_port.files import resource
from tests.hostile.bombs import ORDERED, storage, text, view

NAMES = [
    tuple(line.split()) for line in Path(__file__).with_name("names.txt").read_text().splitlines() if line[0] != "#"
]
HARM = "harm-was-done"
ARGUMENTS = (b"X" + struct.pack("<I", len(HARM) + 6) + b"touch " + HARM.encode() + b"\x85", b")", b"N\x85", b"}\x85")
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def short(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def called(module: str, name: str, arguments: bytes) -> bytes:
    """A name of protocol 0, called."""
    return named(module, name) + arguments + b"R"


def stacked(module: str, name: str) -> bytes:
    """A name of protocol 4."""
    return short(module) + short(name) + b"\x93"


def within(maker: bytes, inner: bytes) -> bytes:
    """A call that reads another pickle."""
    data = b"\x80\x02" + inner + b"."
    return maker + b"B" + struct.pack("<I", len(data)) + data + b"\x85R"


def of_kind(kind: bytes) -> bytes:
    """A tensor whose storage is of some class."""
    return b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + kind + text("0") + text("cpu") + REST


def old(word: str) -> bytes:
    """A text of Python 2."""
    return b"U" + bytes([len(word)]) + word.encode()


OBJECT = named("builtins", "object")
EXTENSION = named("copyreg", "add_extension") + b"("
REST = b"K\x01tQK\x00K\x01\x85K\x01\x85\x89)tR"
TENSOR = view(storage("0", 1), [1], [1]).removesuffix(b"tR").removesuffix(ORDERED)  # without its hooks
SETSTATE = b"}" + text("__setstate__")
Form = Callable[[str, str, bytes], bytes]
FORMS: dict[str, Form] = {
    # protocol 0 to 2: by lines
    "GLOBAL REDUCE": called,
    "INST": lambda m, n, _: b"(S'" + HARM.encode() + f"'\ni{m}\n{n}\n".encode(),
    "OBJ": lambda m, n, _: b"(" + named(m, n) + text(HARM) + b"o",
    "NEWOBJ": lambda m, n, a: named(m, n) + a + b"\x81",
    "BUILD": lambda m, n, a: called(m, n, a) + SETSTATE + named(m, n) + b"sb",
    "BUILD twice": lambda m, n, _: b"cx\nY\n)\x81" + SETSTATE + named(m, n) + b"sb" + text(HARM) + b"b",
    "hidden by POP": lambda m, n, a: called(m, n, a) + b"0N",
    "in a persistent id": lambda m, n, a: called(m, n, a) + b"Q",
    "a list of": lambda m, n, a: b"](" + called(m, n, a) * 3 + b"e",
    "_reconstructor": lambda m, n, _: named("copy_reg", "_reconstructor") + b"(" + named(m, n) + OBJECT + b"NtR",
    "partial": lambda m, n, _: named("functools", "partial") + b"(" + named(m, n) + text(HARM) + b"tR)R",
    "appended": lambda m, n, a: called(m, n, a) + text(HARM) + b"a",
    "a key": lambda m, n, a: b"}" + called(m, n, a) + b"Ns",
    # protocol 4 and 5: from the stack
    "STACK_GLOBAL": lambda m, n, a: stacked(m, n) + a + b"R",
    "STACK_GLOBAL of the memo": lambda m, n, a: short(m) + b"\x940" + short(n) + b"\x940h\x00h\x01\x93" + a + b"R",
    "STACK_GLOBAL of bytes": lambda m, n, a: old(m) + old(n) + b"\x93" + a + b"R",
    "STACK_GLOBAL in lines": lambda m, n, a: f"V{m}\nV{n}\n".encode() + b"\x93" + a + b"R",
    "NEWOBJ_EX": lambda m, n, a: stacked(m, n) + a + b"}\x92",
    "FRAME": lambda m, n, a: b"\x95" + struct.pack("<Q", 9) + stacked(m, n) + a + b"R",
    "a set of": lambda m, n, a: b"\x8f(" + stacked(m, n) + a + b"R\x90",
    "a frozenset of": lambda m, n, a: b"(" + stacked(m, n) + a + b"R\x91",
    # within and behind
    "nested": lambda m, n, a: within(named("pickle", "loads"), called(m, n, a)),
    "nested in a stream": lambda m, n, a: within(named("torch.storage", "_load_from_bytes"), called(m, n, a)),
    "a tensor's hook": lambda m, n, a: TENSOR + called(m, n, a) + b"tR",
    "a storage's class": lambda m, n, _: of_kind(named(m, n)),
    "a tensor's type": lambda m, n, _: b"ctorch._tensor\n_rebuild_from_type_v2\n(" + named(m, n) * 2 + b"))tR",
    "a second pickle": lambda m, n, a: b"}.\x80\x02" + called(m, n, a),
    "truncated": lambda m, n, a: called(m, n, a) + b"X\xff\xff\x00\x00",
    "an extension": lambda m, n, a: EXTENSION + text(m) + text(n) + b"K\x01tR0\x82\x01" + a + b"R",
    "out of band": lambda m, n, _: named(m, n) + b"\x97\x98\x85R",
}


def zipped(path: Path, program: bytes, protocol: int) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", bytes([0x80, protocol]) + program + b".")
        archive.writestr("x/data/0", bytes(4))


def streamed(path: Path, program: bytes, protocol: int) -> None:
    head = b"".join(pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, {}))
    tail = pickle.dumps(["0"], 2) + struct.pack("<q", 1) + bytes(4)
    path.write_bytes(head + bytes([0x80, protocol]) + program + b"." + tail)


def plain(path: Path, program: bytes, protocol: int) -> None:
    path.write_bytes(bytes([0x80, max(2, protocol)]) + program + b".")


def behind_flags(path: Path, program: bytes, protocol: int) -> None:
    """A zip whose own header of the member says that it is encrypted, and not the directory."""
    zipped(path, program, protocol)
    data = bytearray(path.read_bytes())
    data[6] |= 0x21
    path.write_bytes(data)


def behind_another_name(path: Path, program: bytes, protocol: int) -> None:
    """A zip whose directory calls the member otherwise than its own header does."""
    zipped(path, program, protocol)
    path.write_bytes(path.read_bytes().replace(b"x/data.pkl", b"x/data.pkI", 1))


def behind_a_checksum(path: Path, program: bytes, protocol: int) -> None:
    """A zip whose directory has another checksum, at which scanners stop."""
    zipped(path, program, protocol)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 16] ^= 1
    path.write_bytes(data)


def in_an_array(path: Path, program: bytes, protocol: int) -> None:
    """An array of objects in an `.npz`."""
    header = io.BytesIO()
    header.write(
        b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", header.getvalue() + bytes([0x80, protocol]) + program + b".")


CONTAINERS = {"zip": zipped, "stream": streamed, "plain": plain, "flags": behind_flags, "name": behind_another_name,
              "checksum": behind_a_checksum, "array": in_an_array}  # fmt: skip


class Malicious(NamedTuple):
    """A pickle: its container, form and name."""

    container: str
    form: str
    name: str
    program: bytes
    protocol: int


def malicious() -> Iterator[Malicious]:
    """All of them: each name in each form, containers and protocols in turn, alone and beside a tensor in turn."""
    place = 0
    for module, name in NAMES:
        for form, make in FORMS.items():
            place += 1
            program = make(module, name, ARGUMENTS[place % len(ARGUMENTS)])
            if place % 3 == 0:
                program = b"}(" + text("fc.weight") + view(storage("0", 1), [1], [1]) + text("harm") + program + b"u"
            container = [*CONTAINERS][place % len(CONTAINERS)]
            yield Malicious(container, form, f"{module}.{name}", program, (place // 7) % 6)


TABLES = str(resource("mappings"))
QUIET = (  # what happens in any Python, and does nothing
    *("object.__getattr__", "object.__setattr__", "gc.", "sys._getframe", "sys.excepthook", "builtins.id"),
    *("mmap.__new__", "array.", "code.__new__", "signal.", "os.listdir", "os.scandir"),
)


class Watch:
    """An audit hook, which cannot be taken away again: what it hears while `path` is set."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.heard: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        """Hear an event; the file itself and our own tables may be opened to be read."""
        if self.path is None or event.startswith(QUIET):
            return
        if event == "open" and arguments[1] in ("r", "rb") and str(arguments[0]).startswith((str(self.path), TABLES)):
            return
        self.heard.append(f"{event} {str(arguments)[:80]}")


def audited(every: int = 1) -> dict:
    """Read them all, or every so-and-so-many-th; how many were refused, read as inert data, and did anything."""
    outcomes: Counter = Counter()
    heard: list[str] = []
    watch = Watch()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "x")
        for turn in (1, 2):  # the first time lets modules and tables be loaded that are loaded once
            for place, item in enumerate(malicious()):
                if place % every or (turn == 1 and place >= 40 * len(FORMS)):
                    continue
                CONTAINERS[item.container](path, item.program, item.protocol)
                watch.path = path if turn == 2 else None
                try:
                    formats.read(path)
                    outcome = "inert"
                except PortError as error:
                    outcome = f"refused: {error.kind}"
                except Exception as error:  # noqa: BLE001 (that is what is looked for)
                    outcome = f"untyped: {type(error).__name__} {item.form} {item.container}"
                watch.path = None
                if turn == 2:
                    outcomes[outcome] += 1
                    heard += [f"{item.container}, {item.form}, {item.name}: {event}" for event in watch.heard]
                watch.heard.clear()
        harm = [str(found) for found in (Path(HARM), Path(name, HARM)) if found.exists()]
    return {"count": outcomes.total(), "outcomes": dict(outcomes), "heard": heard[:20], "harm": harm,
            "names": len(NAMES), "forms": len(FORMS), "containers": len(CONTAINERS)}  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(json.dumps(audited(int(sys.argv[1]) if len(sys.argv) > 1 else 1)))
