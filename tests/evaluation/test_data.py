"""Pictures as they are decoded, whatever is wrong with them; and labels, from wherever they come."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from densenet_port.errors import CorruptError, DiskError, UsageError
from densenet_port.evaluation.data import open_data
from densenet_port.evaluation.statistics import Unread

NOISE = np.random.default_rng(1).integers(0, 256, (24, 20, 4), np.uint8)
ROTATED = Image.Exif()
ROTATED[274] = 6  # the tag of an orientation, a quarter turn


def saved(mode, ending, **how):
    """A picture of a mode as a file's bytes."""
    file = io.BytesIO()
    made = Image.fromarray(NOISE, "RGBA").convert(mode) if mode != "CMYK" else Image.fromarray(NOISE, "CMYK")
    made.save(file, ending, **how)
    return file.getvalue()


KINDS = {
    "plain.png": saved("RGB", "PNG"),
    "grey.png": saved("L", "PNG"),
    "alpha.png": saved("RGBA", "PNG"),
    "palette.png": saved("P", "PNG"),
    "see-through palette.png": saved("P", "PNG", transparency=3),
    "bits.png": saved("1", "PNG"),
    "grey with alpha.png": saved("LA", "PNG"),
    "plain.jpg": saved("RGB", "JPEG"),
    "progressive.jpg": saved("RGB", "JPEG", progressive=True),
    "cmyk.jpg": saved("CMYK", "JPEG"),
    "rotated.jpg": saved("RGB", "JPEG", exif=ROTATED),
    "lossy.webp": saved("RGB", "WEBP"),
    "cmyk.tif": saved("CMYK", "TIFF"),
    "plain.bmp": saved("RGB", "BMP"),
    "plain.ppm": saved("RGB", "PPM"),
}


def chunk(kind, data):
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb():
    """A PNG of a few bytes that says it has 40 thousand by 40 thousand pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BROKEN = {
    "bomb.png": (bomb(), "cannot be read as a picture: Image size (1600000000 pixels) exceeds limit of"),
    "cut.jpg": (KINDS["plain.jpg"][:-200], "cannot be read as a picture: "),
    "cut.png": (KINDS["plain.png"][:300], "cannot be read as a picture: "),
    "empty.jpg": (b"", "cannot be read as a picture: cannot identify image file"),
    "text.png": (b"<html>not found</html>", "cannot be read as a picture: cannot identify image file"),
    "floats.tif": (saved("F", "TIFF"), "a picture of mode 'F' has no known range"),
}


def folder(root, contents):
    """A folder of files."""
    root.mkdir(exist_ok=True)
    for name, content in contents.items():
        (root / name).write_bytes(content)
    return root


def opened(place, labels=None, classes=10, **how):
    """A data set."""
    return open_data(str(place), labels, classes, **how)


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_pictures_are_what_torchvision_s_loader_makes_of_them(tmp_path):
    """Its own pil_loader, which leaves orientations and drops what is see-through: the same bits, of every kind."""
    from torchvision.datasets.folder import pil_loader

    data = opened(folder(tmp_path / "kinds", KINDS))

    for number, pixels in enumerate(data.read(0, len(KINDS), 3)):
        name = data.pictures.name(number)
        assert np.array_equal(pixels, np.asarray(pil_loader(str(tmp_path / "kinds" / name)))), name


def test_sixteen_bits_are_not_cut_off(tmp_path):
    """Where torchvision's loader makes white of all above 255, they are divided by 257, as `preprocess` does it."""
    grey = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")

    (pixels,) = opened(folder(tmp_path / "wide", {"wide.png": file.getvalue()})).read(0, 1, 3)

    assert np.array_equal(pixels[..., 0], grey // 257)


def test_pictures_that_cannot_be_read_are_told_by_number(tmp_path):
    """Each by its own reason; those beside them are read. Pillow's limit of pixels is kept, at no cost of memory."""
    contents = {**{name: content for name, (content, _) in BROKEN.items()}, "good.png": KINDS["plain.png"]}
    data = opened(folder(tmp_path / "broken", contents))

    made = {data.pictures.name(n): picture for n, picture in enumerate(data.read(0, len(contents), 3))}

    assert isinstance(made.pop("good.png"), np.ndarray)
    for number, name in enumerate(sorted(BROKEN)):
        assert isinstance(made[name], Unread), name
        assert made[name].why.startswith(BROKEN[name][1]), made[name]
        assert made[name].number == [data.pictures.name(n) for n in range(len(contents))].index(name) >= number - 1


def test_a_picture_that_went_away_is_one_that_cannot_be_read(tmp_path):
    data = opened(folder(tmp_path / "gone", {"a.png": KINDS["plain.png"]}))
    (tmp_path / "gone" / "a.png").unlink()

    assert [*data.read(0, 1, 3)] == [Unread(0, "cannot be read: No such file or directory")]


def test_floats_are_taken_as_they_are(tmp_path):
    images = np.random.default_rng(0).standard_normal((3, 8, 8, 3)).astype(np.float32)
    np.savez(tmp_path / "x.npz", images=images, labels=[1, 2, 3])
    data = opened(tmp_path / "x.npz", prepared=True)

    assert np.array_equal([*data.read(0, 3, 3)], images)
    assert (data.labels, data.prepared) == ((1, 2, 3), True)


# -- labels ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def flat(tmp_path):
    """Three pictures without labels."""
    return folder(tmp_path / "flat", dict.fromkeys(("a.png", "b c.png", "d.png"), KINDS["plain.png"]))


@pytest.fixture
def classes(tmp_path):
    """Two folders of classes."""
    for name in ("n01", "n02"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        (tmp_path / "classes" / name / "a.png").write_bytes(KINDS["plain.png"])
    return tmp_path / "classes"


def written(tmp_path, text):
    """A file of labels."""
    (tmp_path / "labels.txt").write_text(text, encoding="utf-8")
    return tmp_path / "labels.txt"


@pytest.mark.parametrize(
    "text",
    [
        "7\n0\n9\n",
        "\ufeff7\r\n0\r\n9\r\n\r\n",
        "d.png 9\na.png 7\nb c.png 0\n",
        "filename,label\nd.png,9\na.png,7\nb c.png,0\n",
        'a.png\t7\n"b c.png", 0\nd.png,9\n',
    ],
    ids=("numbers", "Windows", "blanks", "commas", "mixed"),
)
def test_labels_of_pictures_stand_in_a_file(flat, tmp_path, text):
    """A number a line in the pictures' order, or names in any order."""
    assert opened(flat, written(tmp_path, text)).labels == (7, 0, 9)


def test_classes_get_other_numbers(classes, tmp_path):
    """By the names of their folders; by the numbers that a source has; or picture by picture."""
    np.savez(tmp_path / "x.npz", images=NOISE[None, ..., :3].repeat(3, 0), labels=[1, 2, 1])

    assert opened(classes, written(tmp_path, "n02 4\nn01 8\nn03 1\n")).labels == (8, 4)
    assert opened(tmp_path / "x.npz", written(tmp_path, "1 0\n2 5\n")).labels == (0, 5, 0)
    assert opened(classes, written(tmp_path, "3\n2\n")).labels == (3, 2)


def test_folders_are_numbered_where_the_network_has_as_many_classes(classes):
    assert opened(classes, classes=2).labels == (0, 1)
    with pytest.raises(UsageError, match="has folders of 2 classes, the network has 10 classes\n  --labels FILE with"):
        opened(classes)


def test_labels_may_be_left_out(classes):
    assert opened(classes, "none").labels is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7\n0\n", "labels.txt: has 2 labels, there are 3 pictures\n  labels.txt has a number a line"),
        ("a.png 7\nd.png 0\n", "labels.txt: has no line for the picture b c.png"),
        ("7\n0 1 2\n9", "labels.txt: expected a number a line"),
        ("a.png,7\nd.png,x\n", "labels.txt: line 2: expected a class's number, found 'x'"),
        ("a.png 7\nd.png 1\na.png 8\n", "labels.txt: names a.png twice"),
        ("7\n10\n9\n", "b c.png: has the label 10, the network's classes are 0 to 9\n  are they numbered from 1"),
        ("7\n-1\n9\n", "b c.png: has the label -1"),
        ("", "labels.txt: expected a number a line"),
    ],
    ids=("few", "unnamed", "ragged", "word", "twice", "beyond", "negative", "empty"),
)
def test_labels_that_do_not_fit_are_refused(flat, tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        opened(flat, written(tmp_path, text))


def test_a_class_without_a_line_is_refused(classes, tmp_path):
    with pytest.raises(UsageError, match="labels.txt: has no line for the class n02"):
        opened(classes, written(tmp_path, "n01 8\n"))


def test_a_file_of_labels_that_is_none_is_refused(flat, tmp_path):
    with pytest.raises(DiskError, match="nothing.txt: cannot be read: No such file"):
        opened(flat, tmp_path / "nothing.txt")
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorruptError, match="labels.txt: not a text in UTF-8"):
        opened(flat, tmp_path / "labels.txt")


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()

    with pytest.raises(UsageError, match="empty: holds no pictures"):
        opened(tmp_path / "empty")


def test_facts_have_labels_and_pictures(flat, tmp_path):
    """Other labels are other facts."""
    one, other = (opened(flat, written(tmp_path, text)).facts() for text in ("1\n2\n3\n", "1\n2\n4\n"))

    assert (one["pictures"], one["sha256"], "labels" in opened(flat).facts()) == (3, other["sha256"], False)
    assert one["labels"] != other["labels"]
