"""Mutants: a file of a container with something changed, by who knows how the container is built.

A `Mutant` is *damage* where bytes were changed behind its writer's back, so that checksums and digests stand as they
were; or *forged*, where the container was taken apart and put together again by someone who makes its checksums anew.
A new container needs an entry in `MUTATORS`: functions of the file's bytes and a random generator.
"""

import io
import json
import pickletools
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from random import Random
from typing import NamedTuple

Mutator = Callable[[bytes, Random], bytes]
LONG = 4096  # bytes of a part that is changed at most
NUMBERS = (
    0,
    1,
    2,
    7,
    8,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**64 - 1,
)
TEXTS = (
    "",
    "0",
    "-1",
    ".",
    "..",
    "/",
    "\0",
    "\n",
    "x" * 5000,
    "9" * 5000,
    "²",
    "1e999",
    "NaN",
    "true",
    "{}",
    "[",
    "\ud7ff",
)


class Mutant(NamedTuple):
    """A changed file, what was done to it, and whether its checksums were made anew."""

    data: bytes
    how: str
    forged: bool


def mutant(container: str, data: bytes, random: Random) -> Mutant:
    """One of the many."""
    kinds = MUTATORS[container]
    if random.random() < 0.4:
        change = random.choice(BYTEWISE)
        return Mutant(repeated(change, data, random), change.__name__, forged=False)
    change = random.choice(kinds)
    return Mutant(change(data, random), change.__name__, forged=change in FORGING)


def repeated(change: Mutator, data: bytes, random: Random) -> bytes:
    """A change, mostly once."""
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        data = change(data, random)
    return data


def place(data: bytes, random: Random) -> int:
    """Somewhere in a file, mostly where its structures stand: at its ends."""
    where = random.random()
    if where < 0.4:
        return random.randrange(min(len(data), LONG) or 1)
    if where < 0.6:
        return len(data) - 1 - random.randrange(min(len(data), LONG) or 1) if data else 0
    return random.randrange(len(data) or 1)


# -- bytes -------------------------------------------------------------------------------------------------------------


def flip(data, random):
    changed = bytearray(data)
    if changed:
        changed[place(data, random)] ^= 1 << random.randrange(8)
    return bytes(changed)


def set_number(data, random):
    """An integer of some width, where one may be."""
    width = random.choice((1, 2, 4, 8))
    at = min(place(data, random), max(0, len(data) - width))
    order = random.choice(("little", "little", "big"))
    value = random.choice(NUMBERS) % 256**width
    return data[:at] + value.to_bytes(width, order) + data[at + width :]


def move_number(data, random):
    """An integer that is a little more or less."""
    width = random.choice((1, 2, 4, 8))
    at = min(place(data, random), max(0, len(data) - width))
    value = int.from_bytes(data[at : at + width], "little") + random.choice((-8, -1, 1, 8, 40))
    return data[:at] + (value % 256**width).to_bytes(width, "little") + data[at + width :]


def cut(data, random):
    return data[: place(data, random)]


def leave_out(data, random):
    at = place(data, random)
    return data[:at] + data[at + random.choice((1, 4, 8, 40, 512)) :]


def double(data, random):
    at, length = place(data, random), random.choice((1, 4, 8, 40, 512))
    return data[: at + length] + data[at:]


def copy_over(data, random):
    """What stands in one place also in another."""
    length = random.choice((1, 2, 4, 8, 40))
    here, there = place(data, random), place(data, random)
    part = data[there : there + length]
    return data[:here] + part + data[here + len(part) :]


def append(data, random):
    return data + random.choice((b"\0", b"\0" * 1024, data[:LONG], b"PK\5\6" + bytes(18), b"."))


def zeros(data, random):
    at, length = place(data, random), random.choice((8, 64, 512, 4096))
    return data[:at] + bytes(len(data[at : at + length])) + data[at + length :]


BYTEWISE: list[Mutator] = [flip, flip, set_number, move_number, cut, leave_out, double, copy_over, append, zeros]


# -- texts -------------------------------------------------------------------------------------------------------------


def in_json(data, random):
    """A value in a JSON text is another, or is missing, or stands twice."""
    try:
        tree = json.loads(data)
    except ValueError:
        return flip(data, random)
    return json.dumps(json_changed(tree, random)).encode()


def json_changed(tree, random):
    """A JSON value with a change in one of its places."""
    if not isinstance(tree, dict | list) or not tree or random.random() < 0.05:
        values = (None, True, -1, 0, 1, 2**40, 10**30, 1.5, 1e308, "", "x", [], {}, [1], ["x"], [[]], {"a": 1})
        if isinstance(tree, int | float) and random.random() < 0.5:
            return tree + random.choice((-1, 1, 4, 8))
        return random.choice(values)
    key = random.choice([*tree] if isinstance(tree, dict) else range(len(tree)))
    copied = tree.copy()
    how = random.random()
    if how < 0.1:
        del copied[key]
    elif how < 0.2 and isinstance(tree, list):
        copied.insert(key, tree[random.randrange(len(tree))])
    elif how < 0.2:
        copied[random.choice(TEXTS)] = copied.pop(key)
    else:
        copied[key] = json_changed(tree[key], random)
    return copied


def in_words(data, random):
    """A word of a text is another, stands twice, or is missing."""
    words = re.split(rb"(\s+)", data)
    at = random.randrange(len(words))
    how = random.choice(("other", "number", "twice", "out", "brace"))
    match how:
        case "other":
            words[at] = words[random.randrange(len(words))]
        case "number":
            words[at] = re.sub(rb"\d+", str(random.choice(NUMBERS)).encode(), words[at])
        case "twice":
            words[at] += b" " + words[at]
        case "out":
            del words[at]
        case _:
            words[at] += random.choice((b"{", b"}", b":", b"[", b'"', b"#", b"<"))
    return b"".join(words)


# -- pickles -----------------------------------------------------------------------------------------------------------

CODES = [operation.code.encode("latin-1") for operation in pickletools.opcodes]


def in_pickle(data, random):
    """An operation of a pickle is left out, stands twice, elsewhere, is another, or has another argument."""
    try:
        starts = [at for _, _, at in pickletools.genops(data)]
    except Exception:  # noqa: BLE001 (a mutant of a mutant)
        return flip(data, random)
    end = starts[-1] + 1
    steps = [data[at:after] for at, after in zip(starts, [*starts[1:], end], strict=True)]
    at, other = random.randrange(len(steps)), random.randrange(len(steps))
    match random.choice(("out", "twice", "swap", "other", "argument", "insert")):
        case "out":
            del steps[at]
        case "twice":
            steps.insert(at, steps[at])
        case "swap":
            steps[at], steps[other] = steps[other], steps[at]
        case "other":
            steps[at] = random.choice(CODES) + steps[at][1:]
        case "insert":
            steps.insert(at, random.choice(CODES))
        case _:
            argument = bytearray(steps[at][1:])
            if argument:
                argument[random.randrange(len(argument))] = random.choice((0, 1, 2, 127, 128, 255, 48, 57, 10))
            steps[at] = steps[at][:1] + bytes(argument)
    return b"".join(steps) + data[end:]


def in_a_pickle_of_a_stream(data, random):
    """As above, in one of the pickles that follow each other."""
    starts = [0]
    for _ in range(4):
        _, _, end = [*pickletools.genops(data[starts[-1] :])][-1]
        starts.append(starts[-1] + end + 1)
    which = random.choice((0, 1, 2, 3, 3, 3, 3, 4))
    after = starts[which + 1] if which < len(starts) - 1 else len(data)
    return data[: starts[which]] + in_pickle(data[starts[which] : after], random) + data[after:]


# -- zips --------------------------------------------------------------------------------------------------------------


def in_directory(data, random):
    """A field of an entry in the directory, of the end, or of a member's own header."""
    spots = [match.start() for match in re.finditer(rb"PK(\x01\x02|\x03\x04|\x05\x06|\x06\x06|\x06\x07)", data)]
    at = random.choice(spots or [0]) + random.randrange(4, 46)
    return set_number_at(data, at, random)


def set_number_at(data, at, random):
    """An integer at a place that is another."""
    width = random.choice((1, 2, 4, 8))
    before = int.from_bytes(data[at : at + width], "little")
    value = random.choice((*NUMBERS, before + 1, before - 1, before * 2, before // 2)) % 256**width
    return data[:at] + value.to_bytes(width, "little") + data[at + width :]


def in_member(data, random):
    """What a member holds, by who knows what that is; the archive is made anew."""
    members = unpacked(data)
    name = random.choice([name for name, part in members if len(part) < LONG * 16] or [members[0][0]])
    return packed([(other, changed_member(other, part, random) if other == name else part) for other, part in members])


def changed_member(name, data, random):
    """A member's content with a change that fits its name."""
    if name.endswith(".json"):
        return in_json(data, random)
    if name.endswith(".pkl"):
        return in_pickle(data, random)
    if name.endswith(".h5"):
        return in_hdf5(data, random)
    return repeated(random.choice(BYTEWISE), data, random)


def among_members(data, random):
    """A member is missing, called otherwise, called as another, stands twice, or elsewhere."""
    members = unpacked(data)
    at, other = random.randrange(len(members)), random.randrange(len(members))
    name, part = members[at]
    match random.choice(("out", "renamed", "as another", "twice", "swap", "deflated")):
        case "out":
            del members[at]
        case "renamed":
            members[at] = (
                random.choice(("../", "/", "x/", "C:\\", "")) + name + random.choice(("", "\0", "/", " ")),
                part,
            )
        case "as another":
            members[at] = (members[other][0], part)
        case "twice":
            members.insert(other, (name + "_", part))
        case "swap":
            members[at], members[other] = (name, members[other][1]), (members[other][0], part)
        case _:
            return packed(members, zipfile.ZIP_DEFLATED)
    return packed(members)


def unpacked(data):
    """Name and content of each member."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def packed(members, compression=zipfile.ZIP_STORED):
    """A zip of names and contents."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, part in members:
            if name not in archive.namelist():
                archive.writestr(zipfile.ZipInfo(name or "x"), part, compression)
    return buffer.getvalue()


# -- HDF5 --------------------------------------------------------------------------------------------------------------

_STRUCTURES = re.compile(
    rb"TREE|SNOD|HEAP|GCOL|\x89HDF|OHDR|\x01\x00..\x01\x00\x00\x00|[\x01\x03\x05\x08\x0b\x0c\x10\x11]\x00..[\x00\x01]\x00\x00\x00"
)


def in_hdf5(data, random):
    """A number in or behind one of the structures; addresses are taken from elsewhere in the file."""
    spots = [match.start() for match in _STRUCTURES.finditer(data[:200_000])] or [0]
    at = random.choice(spots) + random.choice((0, 4, 5, 6, 8, 10, 12, 16, 24, 32, 40, 48))
    if random.random() < 0.4:
        target = random.choice(spots)
        return data[:at] + struct.pack("<Q", target) + data[at + 8 :]
    return set_number_at(data, at, random)


# -- protobuf ----------------------------------------------------------------------------------------------------------


def fields_of(data):
    """Start and end of each field of a message, and where the content of a LEN begins; ValueError for what is none."""
    at, fields = 0, []
    while at < len(data):
        start = at
        tag, at = varint_of(data, at)
        wire, inner = tag & 7, None
        if wire == 0:
            _, at = varint_of(data, at)
        elif wire == 2:
            size, at = varint_of(data, at)
            inner, at = at, at + size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError(wire)
        if at > len(data) or not tag >> 3:
            raise ValueError(at)
        fields.append((start, at, inner))
    return fields


def varint_of(data, at):
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError(at)
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise ValueError(at)


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def in_protobuf(data, random, depth=0):  # noqa: PLR0911 (a way of changing it each)
    """A field is missing, stands twice or elsewhere, has another number, type, length or value; at any depth."""
    try:
        fields = fields_of(data)
    except ValueError:
        return set_number(data, random) if data else b"\x08"
    if not fields:
        return varint(random.randrange(1, 2000)) + b"\1"
    start, end, inner = random.choice(fields)
    if inner is not None and depth < 6 and random.random() < 0.75:
        changed = in_protobuf(data[inner:end], random, depth + 1)
        tag, _ = varint_of(data, start)
        length = len(changed) if random.random() < 0.95 else random.choice(NUMBERS)
        return data[:start] + varint(tag) + varint(length) + changed + data[end:]
    other = random.choice(fields)
    match random.choice(("out", "twice", "elsewhere", "number", "value")):
        case "out":
            return data[:start] + data[end:]
        case "twice":
            return data[:end] + data[start:end] + data[end:]
        case "elsewhere":
            return data[: other[0]] + data[start:end] + data[other[0] :]
        case "number":
            tag, after = varint_of(data, start)
            wire = random.choice((tag & 7, tag & 7, 0, 2, 5))
            number = random.choice((tag >> 3, (tag >> 3) + 1, random.randrange(1, 200), 2**29 - 1))
            return data[:start] + varint(number << 3 | wire) + data[after:end] + data[end:]
        case _:
            tag, after = varint_of(data, start)
            return (
                data[:after] + varint(random.choice(NUMBERS)) + data[end:]
                if tag & 7 == 0
                else set_number_at(data, after, random)
            )


# -- others ------------------------------------------------------------------------------------------------------------


def in_header(data, random):
    """The JSON header of safetensors, with its length as it is then, or as it was."""
    (length,) = struct.unpack_from("<Q", data)
    text = in_json(data[8 : 8 + length], random)
    said = len(text) if random.random() < 0.9 else random.choice(NUMBERS)
    return struct.pack("<Q", said) + text + data[8 + length :]


def in_tar(data, random):
    """A field of a header, or an operation of a pickle in it."""
    if random.random() < 0.5:
        headers = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
        at = random.choice(headers or [0]) + random.choice((0, 100, 124, 130, 135, 148, 156, 257))
        return data[:at] + random.choice((b"\0", b"7777777777777", b"-1", b"../", b" ", b"\x80")) + data[at + 8 :]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = random.choice([member for member in archive.getmembers() if member.isfile()])
        start = member.offset_data
    return (
        data[:start] + in_pickle(data[start : start + member.size], random)[: member.size] + data[start + member.size :]
    )


def in_array(data, random):
    """The header of one of NumPy's arrays."""
    members = unpacked(data)
    at = random.randrange(len(members))
    name, part = members[at]
    header = part[:128]
    words = (b"'<f4'", b"'<f8'", b"'|O'", b"False", b"True", b"(", b"8", b"-1", b"4, 4", b"9" * 5000, b"'>f4'")
    old = random.choice([*re.findall(rb"'<f4'|False|\d+|\(", header)] or [b"N"])
    members[at] = (name, header.replace(old, random.choice(words), 1) + part[128:])
    return packed(members)


def in_caffe_text(data, random):
    """A `.prototxt`: its words, or its bytes."""
    return in_words(data, random) if random.random() < 0.7 else repeated(random.choice(BYTEWISE), data, random)


def in_numbers(data, random):
    """A number at a multiple of four."""
    return set_number_at(data, place(data, random) & ~3, random)


def in_table(data, random):
    """An entry of a table of LevelDB's, whose blocks get their checksums anew; the footer stays."""
    from densenet_port.formats.tensorflow.crc32c import crc32c, masked

    size = data.index(struct.pack("<2I", 0, 1) + b"\0") + 8
    changed = repeated(random.choice((flip, set_number, move_number, copy_over)), data[:size], random)[:size]
    changed = changed.ljust(size, b"\0") + b"\0"
    return changed + struct.pack("<I", masked(crc32c(changed))) + data[size + 5 :]


ZIP: list[Mutator] = [in_directory, in_member, in_member, among_members]
FORGING = {in_table, in_member, among_members, in_array, in_header, in_protobuf, in_caffe_text}
MUTATORS: dict[str, list[Mutator]] = {
    ".pth": ZIP,
    "packed.pth": ZIP,
    "stream.pth": [in_a_pickle_of_a_stream],
    "tar.pth": [in_tar],
    "plain.pkl": [in_pickle],
    ".h5": [in_hdf5],
    ".weights.h5": [in_hdf5],
    ".caffemodel.h5": [in_hdf5],
    ".keras": [*ZIP, in_hdf5],
    "packed.keras": ZIP,
    ".caffemodel": [in_protobuf],
    ".onnx": [in_protobuf],
    ".safetensors": [in_header],
    ".prototxt": [in_caffe_text],
    ".npz": [*ZIP, in_array],
    "numpy.npz": [*ZIP, in_array],
    ".params": [in_numbers],
    ".index": [in_table],
    ".data-00000-of-00001": [in_numbers],
    "packed.npz": [*ZIP, in_array],
}
