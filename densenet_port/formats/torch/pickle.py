"""Pickles, read without running them.

A pickle is a program for a small stack machine. Python's own machine imports and calls whatever the program names; this
one only writes down what it says, as a tree of inert values:

    None, bool, int, float, str, bytes    themselves; Python 2's byte strings become text (latin-1, so nothing is lost)
    tuple, list                           themselves
    Global(module, name)                  a name, never looked up
    Call(maker, args)                     a call, with what its result was given afterwards: the state, the pairs, the
                                          elements. Dicts and sets are calls of their classes.
    Persistent(id)                        what lies outside of the pickle, by its id

Nothing is imported, called or hashed at the file's wish: dicts stay lists of pairs, because a file that chooses its
keys can choose keys that collide, or keys whose hash goes so deep that Python itself dies of it. There is no recursion,
every length is checked against the data before memory is taken, and the number of steps is bounded.

Any other name may be called, by any operation: what comes of it is a token, and the readers above know a few of them.
That is what protects. Two things are refused all the same, because they serve nothing but an attack on whoever loads
the file elsewhere: a name that runs commands or code when it is called (`_RUNNING`, `_RUNNING_BUILTINS`; no such list
is ever complete), and a second state for one object, by which a `__setstate__` that came as the first would be called.

Protocols 0 to 5 are read, without the extension registry and out-of-band buffers, which no file by itself can use. The
operations and their arguments are those of Python's `pickletools`.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from mmap import mmap
from typing import Any, NamedTuple

from densenet_port.errors import CorruptError
from densenet_port.formats.source import AGAIN

_MAX_STEPS = 600_000  # ten times those of a DenseNet-201 with its optimiser; a step takes at most some 200 bytes
_MAX_INT = 1024  # bytes of one integer: turning long ones into digits takes quadratic time
_MAX_ARGS = 64  # of one call: some ways to write a call copy them, however often the same are used
_MAX_WORD = 1000  # characters of a module's or a class's name
_MAX_PROTOCOL = 5
_STOP = ord(".")
# Modules of which a checkpoint needs nothing, and that run commands, load code, or reach out of the process.
_RUNNING = frozenset(
    (
        *("os", "posix", "nt", "subprocess", "pty", "popen2", "sys", "shutil", "socket", "ctypes"),
        *("importlib", "imp", "runpy", "codeop", "webbrowser", "pip"),
    )
)
_RUNNING_BUILTINS = frozenset(["eval", "exec", "execfile", "compile", "open", "__import__", "input", "breakpoint"])
_UINT4, _FLOAT8 = struct.Struct("<I"), struct.Struct(">d")
_BROKEN = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError, struct.error)


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle would have imported."""

    module: str
    name: str

    def __str__(self) -> str:
        """`module.name`."""
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False, repr=False)
class Persistent:
    """Something outside of the pickle, by the id that its writer gave it."""

    id: Any


@dataclass(slots=True, eq=False, repr=False)
class Call:
    """What the pickle would have made by calling `maker` with `args`, and what it was given afterwards."""

    maker: "Global | Persistent | Call"
    args: tuple[Any, ...] = ()
    state: Any = None
    pairs: Sequence[tuple[Any, Any]] = ()
    elements: Sequence[Any] = ()


class Pickled(NamedTuple):
    """A pickle's value, where its bytes end, and everything in it that lies outside, in the order met."""

    value: Any
    end: int
    persistent: list[Persistent]


DICT = Global("builtins", "dict")
_SET = Global("builtins", "set")
_FROZENSET = Global("builtins", "frozenset")
_DILLS_TYPE = Global("dill._dill", "_load_type")  # a function from a type's name to the type
_NEW = {Global(module, name) for module in ("copyreg", "copy_reg") for name in ("__newobj__", "_reconstructor")}


def interpret(data: bytes | mmap, start: int = 0) -> Pickled:
    """The pickle that begins at byte `start`. Raises CorruptError, without a path, for what is no pickle."""
    machine = _Machine(data, start)
    values, actions = _VALUES.get, _ACTIONS.get
    try:
        for _ in range(_MAX_STEPS):
            code = data[machine.at]
            machine.at += 1
            if step := values(code):
                value = step(machine)
                machine.stack.append(value)
            elif code == _STOP:
                return Pickled(machine.stack.pop(), machine.at, machine.persistent)
            else:
                actions(code, _refuse)(machine)
    except _BROKEN as error:
        raise CorruptError(f"broken pickle near byte {machine.at}: {error}", hint=AGAIN) from error
    raise CorruptError(f"a pickle of more than {_MAX_STEPS} steps; no checkpoint needs so many")


_MAKERS = (Global, Persistent, Call)


class _Machine:
    """The stack, its marks, the memo, and the place in the data."""

    __slots__ = ("at", "data", "end", "marks", "memo", "persistent", "stack")

    def __init__(self, data: bytes | mmap, at: int) -> None:
        self.data, self.at, self.end = data, at, len(data)
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.persistent: list[Persistent] = []

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        begin, end = self.at, self.at + count
        if not begin <= end <= self.end:
            raise ValueError(f"{count} bytes announced, {self.end - begin} left")
        self.at = end
        return self.data[begin:end]

    def byte(self) -> int:
        """The next byte, as a number."""
        value = self.data[self.at]
        self.at += 1
        return value

    def word4(self) -> int:
        """An unsigned integer of four bytes."""
        value: int = _UINT4.unpack_from(self.data, self.at)[0]
        self.at += 4
        return value

    def number(self, size: int) -> int:
        """An unsigned integer of `size` bytes."""
        return int.from_bytes(self.take(size), "little")

    def signed(self) -> int:
        """A signed integer of four bytes."""
        return int.from_bytes(self.take(4), "little", signed=True)

    def integer(self, size: int) -> int:
        """A signed integer of any size."""
        if size > _MAX_INT:
            raise ValueError(f"an integer of {size} bytes")
        return int.from_bytes(self.take(size), "little", signed=True)

    def text(self, size: int) -> str:
        """UTF-8; what cannot be text is replaced, since it can be no name that we know."""
        return self.take(size).decode("utf-8", "replace")

    def line(self) -> bytes:
        """The bytes up to the next newline, which is skipped."""
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise ValueError("a line without an end")
        line = self.take(end - self.at)
        self.at += 1
        return line

    def word(self) -> str:
        """A line as text."""
        return self.line().decode("utf-8", "replace")

    def keep(self) -> None:
        """Keep the topmost value in the memo, under a number of one byte."""
        self.memo[self.data[self.at]] = self.stack[-1]
        self.at += 1

    def keep4(self) -> None:
        """Keep the topmost value in the memo, under a number of four bytes."""
        self.memo[_UINT4.unpack_from(self.data, self.at)[0]] = self.stack[-1]
        self.at += 4

    def keep_as(self, index: int) -> None:
        """Keep the topmost value in the memo."""
        self.memo[index] = self.stack[-1]

    def outside(self, identifier: Any) -> Persistent:
        """Something outside, noted."""
        self.persistent.append(Persistent(identifier))
        return self.persistent[-1]

    def mark(self) -> None:
        """Begin a new part of the stack."""
        self.marks.append(self.stack)
        self.stack = []

    def items(self) -> list[Any]:
        """Everything above the last mark, which goes with it."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def last(self, count: int) -> tuple[Any, ...]:
        """The topmost `count` values, taken off."""
        if len(self.stack) < count:
            raise ValueError(f"{count} values expected, {len(self.stack)} there")
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        return values


def _call(maker: Any, args: Any) -> Call:
    """A call, written down; the older protocols' ways of saying "new" become that of protocol 2."""
    if not isinstance(args, tuple) or len(args) > _MAX_ARGS:
        raise TypeError("a call whose arguments are no short tuple")
    if isinstance(maker, Global) and maker in _NEW:
        maker, args = args[0], args[1:]
    if isinstance(maker, Call) and maker.maker == _DILLS_TYPE and len(maker.args) == 1:
        maker = _global("builtins", maker.args[0])
    if not isinstance(maker, _MAKERS):
        raise TypeError(f"a call of {type(maker).__name__}")
    return Call(maker, args)


def _call_with_names(maker: Any, args: Any, named: Any) -> Call:
    """A call with named arguments, which stand last."""
    call = _call(maker, args)
    call.args += (named,)
    return call


def _call_of_items(items: list[Any]) -> Call:
    return _call(items[0], tuple(items[1:]))


def _global(module: Any, name: Any) -> Global:
    for word in (module, name):
        if not isinstance(word, str) or len(word) > _MAX_WORD:
            raise TypeError("a name that is no short text")
    builtin = module in ("builtins", "__builtin__")
    if module.partition(".")[0] in _RUNNING or (builtin and name.partition(".")[0] in _RUNNING_BUILTINS):
        raise CorruptError(
            f"a hostile pickle: it names {module}.{name}, to run code where it is loaded (nothing of it ran here)",
            hint="load this file nowhere; get the checkpoint from its makers",
        )
    return Global(module, name)


def _digits(line: bytes) -> int | bool:
    """A decimal number; 00 and 01 are protocol 0's truth values."""
    if line in (b"00", b"01"):
        return line == b"01"
    return int(line.removesuffix(b"L"))


def _pairs(items: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(items[::2], items[1::2], strict=True))


def _extend(machine: _Machine, items: Iterable[Any]) -> None:
    """Elements for the list, or the set, on top of the stack."""
    target = machine.stack[-1]
    if isinstance(target, Call):
        target.elements = target.elements or []
        target = target.elements
    target.extend(items)


def _update(machine: _Machine, items: Sequence[Any]) -> None:
    """Keys and values for the dict on top of the stack."""
    target = machine.stack[-1]
    target.pairs = target.pairs or []
    target.pairs.extend(_pairs(items))


def _build(machine: _Machine, state: Any) -> None:
    """State for what is on top of the stack; only what was made can have one, and only one."""
    target = machine.stack[-1]
    if target.state is not None:
        raise ValueError("a second state for one object")
    target.state = state


def _check_protocol(number: int) -> None:
    if number > _MAX_PROTOCOL:
        raise ValueError(f"protocol {number}")


def _refuse(_: _Machine) -> None:
    raise ValueError("no operation that a file may use")


# Operations that put one value on the stack, by their code; the names are those of `pickletools`.
_VALUES: dict[int, Callable[[_Machine], Any]] = {
    ord("N"): lambda _: None,  # NONE
    0x88: lambda _: True,  # NEWTRUE
    0x89: lambda _: False,  # NEWFALSE
    ord("I"): lambda m: _digits(m.line()),  # INT
    ord("L"): lambda m: _digits(m.line()),  # LONG
    ord("J"): lambda m: m.signed(),  # BININT
    ord("K"): _Machine.byte,  # BININT1
    ord("M"): lambda m: m.number(2),  # BININT2
    0x8A: lambda m: m.integer(m.byte()),  # LONG1
    0x8B: lambda m: m.integer(m.signed()),  # LONG4
    ord("F"): lambda m: float(m.line()),  # FLOAT
    ord("G"): lambda m: _FLOAT8.unpack(m.take(8))[0],  # BINFLOAT
    ord("S"): lambda m: m.line()[1:-1].decode("unicode_escape"),  # STRING
    ord("T"): lambda m: m.take(m.signed()).decode("latin-1"),  # BINSTRING
    ord("U"): lambda m: m.take(m.byte()).decode("latin-1"),  # SHORT_BINSTRING
    ord("V"): lambda m: m.line().decode("raw_unicode_escape"),  # UNICODE
    ord("X"): lambda m: m.text(m.word4()),  # BINUNICODE
    0x8C: lambda m: m.text(m.byte()),  # SHORT_BINUNICODE
    0x8D: lambda m: m.text(m.number(8)),  # BINUNICODE8
    ord("B"): lambda m: m.take(m.word4()),  # BINBYTES
    ord("C"): lambda m: m.take(m.byte()),  # SHORT_BINBYTES
    0x8E: lambda m: m.take(m.number(8)),  # BINBYTES8
    0x96: lambda m: m.take(m.number(8)),  # BYTEARRAY8
    ord(")"): lambda _: (),  # EMPTY_TUPLE
    ord("]"): lambda _: [],  # EMPTY_LIST
    ord("}"): lambda _: Call(DICT),  # EMPTY_DICT
    0x8F: lambda _: Call(_SET),  # EMPTY_SET
    ord("t"): lambda m: tuple(m.items()),  # TUPLE
    0x85: lambda m: m.last(1),  # TUPLE1
    0x86: lambda m: m.last(2),  # TUPLE2
    0x87: lambda m: m.last(3),  # TUPLE3
    ord("l"): lambda m: m.items(),  # LIST
    ord("d"): lambda m: Call(DICT, pairs=_pairs(m.items())),  # DICT
    0x91: lambda m: Call(_FROZENSET, elements=m.items()),  # FROZENSET
    ord("c"): lambda m: _global(m.word(), m.word()),  # GLOBAL
    0x93: lambda m: _global(*m.last(2)),  # STACK_GLOBAL
    ord("R"): lambda m: _call(*m.last(2)),  # REDUCE
    0x81: lambda m: _call(*m.last(2)),  # NEWOBJ
    0x92: lambda m: _call_with_names(*m.last(3)),  # NEWOBJ_EX
    ord("i"): lambda m: _call(_global(m.word(), m.word()), tuple(m.items())),  # INST
    ord("o"): lambda m: _call_of_items(m.items()),  # OBJ
    ord("P"): lambda m: m.outside(m.word()),  # PERSID
    ord("Q"): lambda m: m.outside(m.stack.pop()),  # BINPERSID
    ord("2"): lambda m: m.stack[-1],  # DUP
    ord("g"): lambda m: m.memo[int(m.line())],  # GET
    ord("h"): lambda m: m.memo[m.byte()],  # BINGET
    ord("j"): lambda m: m.memo[m.word4()],  # LONG_BINGET
}

# Operations that only move or change what is there.
_ACTIONS: dict[int, Callable[[_Machine], object]] = {
    0x80: lambda m: _check_protocol(m.byte()),  # PROTO
    0x95: lambda m: m.number(8),  # FRAME
    ord("("): lambda m: m.mark(),  # MARK
    ord("0"): lambda m: m.stack.pop() if m.stack else m.items(),  # POP
    ord("1"): lambda m: m.items(),  # POP_MARK
    ord("p"): lambda m: m.keep_as(int(m.line())),  # PUT
    ord("q"): _Machine.keep,  # BINPUT
    ord("r"): _Machine.keep4,  # LONG_BINPUT
    0x94: lambda m: m.keep_as(len(m.memo)),  # MEMOIZE
    ord("a"): lambda m: _extend(m, m.last(1)),  # APPEND
    ord("e"): lambda m: _extend(m, m.items()),  # APPENDS
    0x90: lambda m: _extend(m, m.items()),  # ADDITEMS
    ord("s"): lambda m: _update(m, m.last(2)),  # SETITEM
    ord("u"): lambda m: _update(m, m.items()),  # SETITEMS
    ord("b"): lambda m: _build(m, m.stack.pop()),  # BUILD
}
