"""Zip archives are read as Python's `zipfile` reads them, and what no honest archive has is refused by name."""

import io
import struct
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_port.errors import CorruptError
from densenet_port.formats.source import Source
from densenet_port.formats.zip import first_name, members
from tests.support.containers import peak

PATH = Path("some.zip")


def opened(data):
    """The members of an archive in memory."""
    return members(Source.of_bytes(PATH, data))


def archive(parts, compression=zipfile.ZIP_STORED, comment=b"", *, wide=False):
    """An archive of names and contents, written by Python; `wide` gives each member sizes of 64 bits."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name that comes twice
        for name, data in parts:
            with file.open(name, "w", force_zip64=wide) as member:
                member.write(data)
        file.comment = comment
    return buffer.getvalue()


CONTENT = st.one_of(st.binary(max_size=300), st.integers(0, 5000).map(bytes))
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0\\"), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    parts=st.dictionaries(NAMES, CONTENT, max_size=6),
    compression=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    comment=st.binary(max_size=40).filter(lambda text: b"PK" not in text),
    wide=st.booleans(),
)
def test_every_member_is_read_as_python_reads_it(parts, compression, comment, wide):
    """Whatever it is called and holds, with a comment behind, or sizes of 64 bits."""
    data = archive(parts.items(), compression, comment, wide=wide)

    with zipfile.ZipFile(io.BytesIO(data)) as file:
        expected = {info.filename: file.read(info) for info in file.infolist() if not info.is_dir()}
    assert {name: member.open().all() for name, member in opened(data).items()} == expected


def test_more_members_than_any_checkpoint_has_are_refused():
    """Nobody has twenty thousand tensors."""
    data = archive([(f"{n:x}", b"") for n in range(20_001)])

    with pytest.raises(CorruptError, match="^some.zip: a zip would make more than 20000 members\n"):
        opened(data)


def test_a_part_of_a_member_is_read_without_the_rest():
    """Stored members give their bytes in place, deflated ones are inflated."""
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        source = opened(archive([("a", bytes(range(256)))], compression))["a"].open()

        assert (source.size, source.data(10, 3)) == (256, b"\x0a\x0b\x0c")


def test_a_name_that_is_no_text_is_spelled_with_marks():
    """Nobody asks for such a member."""
    data = edited(PLAIN, ENTRY, 8, "<H", 0x800).replace(b"b", b"\xff")

    assert list(opened(data)) == ["a", "\N{REPLACEMENT CHARACTER}"]


def test_the_first_member_is_known_by_the_head_alone():
    """An archive's first bytes give the name."""
    data = archive([("archive/data.pkl", b"N."), ("b", b"")])

    assert [first_name(head) for head in (data, data[:20], b"", b"PK")] == ["archive/data.pkl", "", "", ""]


def edited(data, signature, offset, form, value):
    """An archive with a field of its last structure of a kind overwritten."""
    changed = bytearray(data)
    struct.pack_into(form, changed, data.rindex(signature) + offset, value)
    return bytes(changed)


PLAIN = archive([("a", b"x" * 100), ("b", b"y")])
DEFLATED = archive([("a", b"x" * 100), ("b", b"y" * 100)], zipfile.ZIP_DEFLATED)
ENTRY, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"
AGAIN = "\n  fetch or copy the file again"
OTHERWISE = "is encrypted, or compressed by other means than deflate\n  unpack it and pack it again, without a password"
HOSTILE = {
    "no name": (PLAIN.replace(b"b", b"\0"), "a member of the zip has no name" + AGAIN),
    "an empty name": (
        edited(edited(PLAIN, ENTRY, 28, "<H", 0), ENTRY, 32, "<H", 1),
        "a member of the zip has no name" + AGAIN,
    ),
    "a name twice": (PLAIN.replace(b"b", b"a"), "two members of the zip are called 'a'"),
    "encrypted": (
        edited(PLAIN, ENTRY, 8, "<H", 1),
        f"member 'b' of the zip {OTHERWISE}",
    ),
    "compressed otherwise": (
        edited(PLAIN, ENTRY, 10, "<H", 12),
        f"member 'b' of the zip {OTHERWISE}",
    ),
    "stored, and of two sizes": (
        edited(PLAIN, ENTRY, 24, "<I", 7),
        "member 'b' of the zip cannot hold 7 bytes in 1" + AGAIN,
    ),
    "more than deflate can": (
        edited(DEFLATED, ENTRY, 24, "<I", 2**30),
        "member 'b' of the zip cannot hold 1073741824 bytes in 6" + AGAIN,
    ),
    "no header": (edited(PLAIN, LOCAL, 0, "<I", 0), "member 'b' of the zip does not begin at byte 131" + AGAIN),
    "a header beyond the file": (
        edited(PLAIN, ENTRY, 42, "<I", 10**6),
        "member 'b' of the zip does not begin at byte 1000000" + AGAIN,
    ),
    "data beyond the file": (
        edited(edited(PLAIN, ENTRY, 20, "<I", 500), ENTRY, 24, "<I", 500),
        "member 'b' of the zip has 500 bytes at byte 162, beyond the file's 279" + AGAIN,
    ),
    "inflates to more": (
        edited(DEFLATED, ENTRY, 24, "<I", 50),
        "member 'b' of the zip inflates to more, expected 50 bytes" + AGAIN,
    ),
    "inflates to less": (
        edited(DEFLATED, ENTRY, 24, "<I", 200),
        "member 'b' of the zip inflates to 100, expected 200 bytes" + AGAIN,
    ),
    "a directory elsewhere": (
        edited(PLAIN, END, 16, "<I", 7),
        "a zip cannot have a directory of 94 bytes at byte 7, before its end at 257" + AGAIN,
    ),
    "a directory of another length": (
        edited(PLAIN, END, 12, "<I", 95),
        "a zip cannot have a directory of 95 bytes at byte 163, before its end at 257" + AGAIN,
    ),
    "something before it": (
        b"#!" + PLAIN,
        "a zip cannot have a directory of 94 bytes at byte 163, before its end at 259" + AGAIN,
    ),
    "no end": (PLAIN[:-22], "a zip without its directory, which is the end of it" + AGAIN),
    "nothing": (b"", "a zip without its directory, which is the end of it" + AGAIN),
    "a broken entry": (PLAIN.replace(ENTRY, b"PK\x01\x03"), "the directory of the zip is broken" + AGAIN),
    "an entry without end": (edited(PLAIN, ENTRY, 32, "<H", 9), "the directory of the zip is broken" + AGAIN),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_by_name(case):
    """What is wrong with which member."""
    data, message = HOSTILE[case]

    with pytest.raises(CorruptError) as caught:
        [member.open().all() for member in opened(data).values()]

    assert str(caught.value) == f"some.zip: {message}"


def test_any_change_of_a_byte_is_read_or_refused():
    """Every byte of an archive, with each of its bits flipped."""
    for data in (PLAIN, DEFLATED, archive([("a", b"x")], wide=True)):
        for place in range(len(data)):
            for bit in range(8):
                changed = bytearray(data)
                changed[place] ^= 1 << bit
                with suppress(CorruptError):
                    [member.open().all() for member in opened(bytes(changed)).values()]


def test_a_member_that_claims_much_takes_no_memory():
    """A thousand times its bytes are let through, and a thousand times a few bytes are not many."""
    zeros = archive([("a", bytes(10**6))], zipfile.ZIP_DEFLATED)
    lying = edited(zeros, ENTRY, 24, "<I", 1_000_999)

    def refused():
        with pytest.raises(CorruptError):
            opened(lying)["a"].open().all()

    assert peak(refused) < 4 * 10**6
