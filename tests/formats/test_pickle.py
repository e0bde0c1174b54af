"""Pickles are read without being run: every plain value comes back, everything else is an inert name."""

import pickle
import pickletools
import struct
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_port.errors import CorruptError
from densenet_port.formats.torch.pickle import DICT, Call, Global, Persistent, interpret

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
WHOLE = st.integers(-(2**300), 2**300) | st.integers(-300, 300) | st.sampled_from([2**8, 2**16, 2**31, -(2**31)])
LEAVES = st.none() | st.booleans() | WHOLE | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8"))
KEYS = st.text(st.characters(codec="utf-8")) | st.integers()
VALUES = st.recursive(
    LEAVES | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(KEYS, inner)
        | st.sets(LEAVES)
        | st.frozensets(LEAVES)
    ),
    max_leaves=30,
)


def plain(value):
    """What Python's own machine would have made of a tree of ours."""
    match value:
        case list() | tuple():
            return type(value)(plain(item) for item in value)
        case Call(Global("builtins" | "__builtin__", "set" | "frozenset" as kind), args):
            return {"set": set, "frozenset": frozenset}[kind](map(plain, [*value.elements, *(args[0] if args else ())]))
        case Call(Global("_codecs", "encode"), (text, "latin1")):
            return text.encode("latin-1")
        case Call(Global("builtins" | "__builtin__", "bytes"), ()):
            return b""
        case Call(maker) if maker == DICT:
            return {plain(key): plain(item) for key, item in value.pairs}
    return value


@given(VALUES, st.sampled_from(PROTOCOLS))
def test_any_plain_value_is_read_as_python_reads_it(value, protocol):
    written = pickle.dumps(value, protocol)

    tree = interpret(written).value

    assert plain(tree) == value


def test_dill_says_builtin_types_by_their_names():
    """`torch.save(…, pickle_module=dill)` writes a set as `_load_type("set")([…])`."""
    written = b"\x80\x02cdill._dill\n_load_type\nX\x03\x00\x00\x00set\x85R]K\x01a\x85R."

    assert plain(interpret(written).value) == {1}


@given(VALUES, st.sampled_from(PROTOCOLS))
def test_an_optimised_pickle_says_the_same(value, protocol):
    written = pickletools.optimize(pickle.dumps(value, protocol))

    tree = interpret(written).value

    assert plain(tree) == value


@given(st.binary(max_size=200) | st.lists(st.sampled_from([bytes([code]) for code in range(256)])).map(b"".join))
@settings(max_examples=500)
def test_any_bytes_give_a_value_or_a_corrupt_error(data):
    try:
        interpret(data + b".")
    except CorruptError:
        return


OPERATIONS = [op.code.encode("latin-1") for op in pickletools.opcodes]


@given(st.lists(st.sampled_from(OPERATIONS) | st.binary(max_size=4), max_size=60).map(b"".join))
@settings(max_examples=500)
def test_any_operations_give_a_value_or_a_corrupt_error(program):
    try:
        interpret(program + b".")
    except CorruptError:
        return


class Trap(NamedTuple):
    """Makes a file when it is unpickled: what a hostile pickle would do, and less."""

    path: Path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_call_is_written_down_and_not_made(tmp_path, protocol):
    trap = tmp_path / "sprung"

    interpret(pickle.dumps(Trap(trap), protocol))

    assert not trap.exists()


def test_the_trap_springs_where_python_reads_it(tmp_path):
    trap = tmp_path / "sprung"

    pickle.loads(pickle.dumps(Trap(trap)))

    assert trap.exists()


class Thing:
    """An object that can have state."""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_object_keeps_its_class_and_its_state(protocol):
    thing = Thing()
    thing.weight = 3

    made = interpret(pickle.dumps(thing, protocol)).value

    assert (made.maker, made.state.pairs) == (Global(Thing.__module__, "Thing"), [("weight", 3)])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_ordered_dict_keeps_its_order(protocol):
    made = interpret(pickle.dumps(OrderedDict(b=1, a=2), protocol)).value

    assert (made.maker, made.pairs) == (Global("collections", "OrderedDict"), [("b", 1), ("a", 2)])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_shared_stays_shared(protocol):
    inner = ["x"]

    first, second = interpret(pickle.dumps([inner, inner], protocol)).value

    assert first is second


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_refers_to_itself_does_so_in_the_tree(protocol):
    ring = []
    ring.append(ring)

    tree = interpret(pickle.dumps(ring, protocol)).value

    assert tree[0] is tree


def test_text_of_python_2_is_latin_1():
    written = b"(S'caf\\xe9'\nU\x04caf\xe9T\x04\0\0\0caf\xe9t."  # STRING, SHORT_BINSTRING, BINSTRING

    assert interpret(written).value == ("café", "café", "café")


@pytest.mark.parametrize("written", [b"(cmodule\nname\nI5\no.", b"(I5\nimodule\nname\n."], ids=["OBJ", "INST"])
def test_the_oldest_ways_to_make_an_object_are_known(written):
    made = interpret(written).value

    assert (made.maker, made.args) == (Global("module", "name"), (5,))


def test_arguments_with_names_stand_last():
    made = interpret(b"\x80\x04cm\nn\nK\x01\x85}\x92.").value

    assert (made.args[0], made.args[1].maker) == (1, DICT)


def test_what_lies_outside_is_listed_in_order():
    found = interpret(b"(Pfirst\nU\x06secondQl.")

    assert [type(item) for item in found.value] == [Persistent, Persistent]
    assert [item.id for item in found.persistent] == ["first", "second"]


def test_a_pickle_ends_where_it_says():
    """Several pickles may follow one another."""
    first, second = pickle.dumps("first"), pickle.dumps("second")

    end = interpret(first + second).end

    assert interpret(first + second, end).value == "second"


def test_a_bad_text_is_replaced():
    assert interpret(b"X\x02\0\0\0\xed\xa0.").value == "��"


BROKEN = {
    "nothing": b"",
    "no end": b"N",
    "an empty stack": b".",
    "an unknown operation": b"\xff.",
    "the registry": b"\x82\x01.",
    "a buffer out of band": b"\x97.",
    "a protocol to come": b"\x80\x06N.",
    "a text longer than the file": b"X\xff\xff\xff\xffabc.",
    "a text of 2**64 bytes": b"\x8d" + b"\xff" * 8 + b"abc.",
    "bytes of 2**62": b"\x8e" + struct.pack("<Q", 2**62) + b"abc.",
    "a text of negative length": b"T" + struct.pack("<i", -5) + b"abc.",
    "an integer of negative length": b"\x8b" + struct.pack("<i", -5) + b"abc.",
    "an integer of a megabyte": b"\x8b" + struct.pack("<i", 2**20) + bytes(2**20) + b".",
    "digits without end": b"I" + b"9" * 5000 + b"\n.",
    "no digits": b"Ix\n.",
    "a line without end": b"cmodule",
    "an empty memo": b"h\x05.",
    "a mark too few": b"Nt.",
    "a value too few": b"N\x86.",
    "a call of a text": b"U\x01a)R.",
    "a call with no tuple": b"cm\nn\nNR.",
    "a new object of nothing": b"ccopyreg\n__newobj__\n)R.",
    "a name of a megabyte": b"c" + b"m" * 2**20 + b"\nn\n.",
    "a name of a megabyte by parts": b"U\x01mX" + struct.pack("<I", 2**20) + b"n" * 2**20 + b"\x93.",
    "a call with a thousand arguments": b"cm\nn\n(" + b"N" * 1000 + b"tR.",
    "a new object with a thousand arguments": b"ccopyreg\n__newobj__\n(cm\nn\n" + b"N" * 1000 + b"tR.",
    "a thousand arguments and a name": b"cm\nn\n(" + b"N" * 1000 + b"t}\x92.",
    "a name of numbers": b"K\x01K\x02\x93.",
    "state for a list": b"]}b.",
    "state for a name": b"cm\nn\nNb.",
    "pairs for a list": b"](NNu.",
    "an odd number of pairs": b"}(NNNu.",
    "elements for a text": b"U\x01a(NNe.",
}


@pytest.mark.parametrize("written", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_pickle_is_a_corrupt_error(written):
    with pytest.raises(CorruptError):
        interpret(written)


def test_a_broken_pickle_says_where_and_what():
    with pytest.raises(CorruptError) as caught:
        interpret(b"NX\xff\0\0\0abc.")

    assert str(caught.value) == (
        "broken pickle near byte 6: 255 bytes announced, 4 left\n  fetch or copy the file again"
    )


DEEP = 150_000
NESTED = {
    "tuples": b"(" * DEEP + b"t" * DEEP,
    "lists": b"(" * DEEP + b"l" * DEEP,
    "calls": b"cm\nn\n" + b")R" * DEEP,
    "arguments": b"cm\nn\nq\0" + b"h\0" * DEEP + b")" + b"R\x85" * DEEP,
    "ids": b"N" + b"Q" * DEEP,
    "states": b"}" * DEEP + b"b" * (DEEP - 1),
    "values": b"}K\0" * DEEP + b"N" + b"s" * DEEP,
    "keys": b"})" + b"\x85" * DEEP + b"Ns",
}


@pytest.mark.parametrize("program", NESTED.values(), ids=NESTED.keys())
def test_nesting_however_deep_is_read_and_dropped_again(program):
    """Nothing recurses: neither in reading, nor when Python takes the tree apart."""
    end = interpret(program + b".").end

    assert end == len(program) + 1


def test_steps_are_bounded():
    with pytest.raises(CorruptError, match="more than 600000 steps"):
        interpret(b"N0" * 1_500_000 + b".")


@pytest.mark.parametrize(
    "written",
    [
        b"\x8d" + struct.pack("<Q", 2**40) + b"abc.",
        b"B" + struct.pack("<I", 2**31) + b"abc.",
        b"Nr\xff\xff\xff\xff.",
        b"p4294967295\n.",
    ],
    ids=["text", "bytes", "memo", "memo in digits"],
)
def test_announced_sizes_take_no_memory(written):
    tracemalloc.start()
    try:
        interpret(written)
    except CorruptError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert peak < 100_000
