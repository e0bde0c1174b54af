"""Data sets of each form, as the software that has it reads or writes it."""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from densenet_port.errors import CorruptError, DiskError, UsageError
from densenet_port.evaluation.sources import PICTURE, Tars, find

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 6, 5, 3), np.uint8)


def png(number):
    """A small picture as the bytes of its file."""
    file = io.BytesIO()
    Image.fromarray(PIXELS[number]).save(file, "PNG")
    return file.getvalue()


def found(place, **how):
    """The pictures there, as they are after a way through pickle."""
    return pickle.loads(pickle.dumps(find(str(place), **{"prepared": False, **how})))


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """Classes with names whose order is no dictionary's, pictures in folders of folders, and what is none."""
    names = "b/2.png b/10.png B/x.JPG a/deep/er/1.jpeg a/deep/0.webp a/z.tiff a/notes.txt Ä/ö.bmp Ä/.hidden.png top.png"
    root = tmp_path / "tree"
    for name in names.split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(1))
    (root / "b" / "link").symlink_to("../a/deep", target_is_directory=True)
    return root


def test_a_folder_has_torchvision_s_order_and_numbers(tree):
    """ImageFolder's samples and classes, one by one; links are followed."""
    from torchvision.datasets import ImageFolder

    theirs = ImageFolder(tree)
    ours = found(tree)

    assert [(str(path), label) for path, label in zip(ours.read(0, ours.size), ours.own, strict=True)] == theirs.samples
    assert [*ours.classes] == theirs.classes
    assert ours.size == 10


def test_a_class_without_pictures_is_refused_as_there(tree):
    (tree / ".ipynb_checkpoints").mkdir()

    with pytest.raises(
        UsageError, match=".ipynb_checkpoints: a folder of a class without pictures\n  every folder counts"
    ):
        found(tree)


def test_a_flat_folder_has_no_labels(tmp_path):
    for name in ("b.png", "a.png", "c.txt"):
        (tmp_path / name).write_bytes(png(0))

    pictures = found(tmp_path)

    assert (pictures.names, pictures.own, pictures.classes) == (("a.png", "b.png"), None, None)


def test_what_is_not_there_says_so(tmp_path):
    for place in (tmp_path / "nothing", tmp_path / "*.tar"):
        with pytest.raises(DiskError, match="cannot be read: No such file or directory"):
            found(place)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK")

    with pytest.raises(
        UsageError, match=r"x.zip: no data set of a kind that is known\n  a folder of pictures, .parquet"
    ):
        found(tmp_path / "x.zip")


# -- parquet -----------------------------------------------------------------------------------------------------------


def parquet(path, numbers, *, column="image", labelled=True, group=4):
    """A file as Hugging Face's datasets write one."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    cell = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns = {column: pa.array([{"bytes": png(n), "path": f"{n}.png"} for n in numbers], cell)}
    if labelled:
        columns["label"] = pa.array([n % 3 for n in numbers], pa.int64())
    pq.write_table(pa.table(columns), path, row_group_size=group)


@pytest.fixture
def two_files(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    parquet(root / "validation-00000-of-00002.parquet", range(5), group=2)
    parquet(root / "validation-00001-of-00002.parquet", range(5, 9))
    return root


def test_parquet_files_are_one_data_set(two_files, monkeypatch):
    """Of a folder or a pattern; any stretch of rows, over groups and files, is what it is."""
    monkeypatch.setattr("densenet_port.evaluation.sources._PIECE", 2)

    for place in (two_files, two_files / "validation-*.parquet"):
        pictures = found(place)
        assert (pictures.kind, pictures.size, pictures.own) == ("parquet", 9, tuple(n % 3 for n in range(9)))
        for start in range(9):
            for stop in range(start, 10):
                assert [*pictures.read(start, stop)] == [png(n) for n in range(start, stop)]
    assert [pictures.name(n) for n in (0, 4, 5, 8)] == [
        "validation-00000-of-00002.parquet row 0",
        "validation-00000-of-00002.parquet row 4",
        "validation-00001-of-00002.parquet row 0",
        "validation-00001-of-00002.parquet row 3",
    ]


def test_parquet_without_labels_and_of_another_column_s_name(tmp_path):
    parquet(tmp_path / "test.parquet", range(3), column="img", labelled=False)

    assert (found(tmp_path).own, len([*found(tmp_path).read(0, 3)])) == (None, 3)


def test_parquet_of_no_pictures_is_refused(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet as pq

    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "x.parquet")
    with pytest.raises(UsageError, match="expected one column of pictures, found 0\n  its columns are text, label"):
        found(tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(CorruptError, match="x.parquet: not a parquet file: "):
        found(tmp_path)


def test_a_picture_that_is_only_named_has_no_bytes(tmp_path):
    """It is one that cannot be read, not one that is fetched from somewhere."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    cell = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(
        pa.table({"image": pa.array([{"bytes": None, "path": "/etc/passwd"}], cell)}), tmp_path / "x.parquet"
    )

    assert [*found(tmp_path).read(0, 1)] == [b""]


# -- tar files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path):
    """Two shards that WebDataset wrote."""
    import webdataset

    root = tmp_path / "shards"
    root.mkdir()
    with webdataset.ShardWriter(str(root / "val-%03d.tar"), maxcount=5, verbose=0) as sink:
        for number in range(9):
            sink.write({"__key__": f"part.d/{number:03}", "png": png(number), "cls": number % 4, "json": {"a": 1}})
    return root


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its files open
def test_shards_are_read_as_webdataset_reads_them(shards):
    """Key by key, picture by picture, class by class."""
    import webdataset

    theirs = [
        (sample["__key__"], sample["png"], int(sample["cls"]))
        for shard in sorted(shards.iterdir())
        for sample in webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False)
    ]
    for place in (shards, shards / "val-*.tar"):
        ours = found(place)
        keys = [ours.name(number).partition("/")[2].removesuffix(".png") for number in range(ours.size)]
        assert [*zip(keys, ours.read(0, 9), ours.own, strict=True)] == theirs
        assert [*ours.read(3, 7)] == [png(n) for n in range(3, 7)]


def tar(path, **files):
    """A tar file of some names, in which a dot is written as two underscores."""
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_a_picture_without_a_class_among_others_is_refused(tmp_path):
    tar(tmp_path / "x.tar", a__png=png(0), a__cls=b"1", b__png=png(1))

    with pytest.raises(UsageError, match="x.tar: b.png has no .cls beside it, and others have one"):
        found(tmp_path)


def test_a_class_that_is_no_number_is_refused(tmp_path):
    tar(tmp_path / "x.tar", a__png=png(0), a__cls=b"tench")

    with pytest.raises(CorruptError, match="x.tar: a.cls is no class's number: b'tench'"):
        found(tmp_path)


def test_shards_without_classes_have_no_labels(tmp_path):
    tar(tmp_path / "x.tar", a__png=png(0), b__JPG=png(1))

    assert (found(tmp_path).own, found(tmp_path).size) == (None, 2)


def test_a_tar_file_that_is_none_or_compressed_is_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w:gz") as archive:
        archive.add(__file__, "a.png")

    with pytest.raises(CorruptError, match="x.tar: not a tar file: .*\n  shards are read where they lie, so they must"):
        found(tmp_path)


def test_a_tar_file_that_lost_its_end_is_a_picture_s_error(shards):
    """What is not there any more when it is read."""
    pictures = found(shards)
    path = shards / "val-001.tar"
    path.write_bytes(path.read_bytes()[:700])

    with pytest.raises(CorruptError, match="val-001.tar: "):
        list(pictures.read(5, 9))


def test_a_member_that_is_far_too_large_is_not_read(tmp_path):
    tar(tmp_path / "x.tar", a__png=png(0))
    pictures = Tars(files=(tmp_path / "x.tar",), places=((0, "a.png", 512, PICTURE + 1),), own=None)

    assert [*pictures.read(0, 1)] == [b""]


# -- arrays ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "save",
    [
        np.savez,
        np.savez_compressed,
        lambda path, **a: np.savez(path, **{**a, "images": np.asfortranarray(a["images"])}),
    ],
    ids=("stored", "deflated", "fortran"),
)
def test_arrays_are_read_row_by_row(tmp_path, save):
    """However they are stored."""
    save(tmp_path / "x.npz", images=PIXELS, labels=np.arange(9, dtype=np.uint8)[:, None])
    pictures = found(tmp_path / "x.npz")

    assert (pictures.size, pictures.own, pictures.name(3)) == (9, tuple(range(9)), "picture 3")
    for start, stop in ((0, 9), (2, 5), (8, 9), (4, 4)):
        assert np.array_equal(np.array([*pictures.read(start, stop)]).reshape(-1, 6, 5, 3), PIXELS[start:stop])


def test_grey_arrays_get_their_channel(tmp_path):
    np.savez(tmp_path / "x.npz", images=PIXELS[..., 0])

    assert [picture.shape for picture in found(tmp_path / "x.npz").read(0, 2)] == [(6, 5, 1)] * 2


@pytest.mark.parametrize(
    ("arrays", "prepared", "message"),
    [
        ({"x": PIXELS}, False, "has no array called images\n  it has x; name them images"),
        (
            {"images": PIXELS / 255},
            False,
            "images are float64, which are no pixels unless somebody says so\n  --prepared",
        ),
        ({"images": PIXELS}, True, "images are uint8, which no network takes as they are\n  leave out --prepared"),
        ({"images": PIXELS.astype(int)}, False, "images are int64: expected uint8, or floats that are prepared"),
        ({"images": PIXELS[0, 0]}, False, r"images have the shape \(5, 3\): expected n h w c"),
        ({"images": PIXELS, "labels": np.zeros(9)}, False, r"labels are float64 of shape \(9,\) for 9 images"),
        ({"images": PIXELS, "labels": np.zeros(8, int)}, False, r"labels are int64 of shape \(8,\) for 9 images"),
    ],
    ids=("unnamed", "floats", "pixels", "integers", "shape", "fractions", "too few"),
)
def test_arrays_that_do_not_say_what_they_are_are_refused(tmp_path, arrays, prepared, message):
    np.savez(tmp_path / "x.npz", **arrays)

    with pytest.raises(UsageError, match=message):
        found(tmp_path / "x.npz", prepared=prepared)


def test_only_arrays_are_prepared(tmp_path):
    (tmp_path / "a.png").write_bytes(png(0))

    with pytest.raises(UsageError, match="--prepared is for arrays in an .npz"):
        found(tmp_path, prepared=True)


# -- what says that it is the same -------------------------------------------------------------------------------------


def test_the_facts_of_a_data_set_do_not_depend_on_its_place(tree, two_files, shards, tmp_path):
    """They are the same after a move, and others after a change of a size."""
    for place in (tree, two_files, shards):
        before = json.dumps(found(place).facts())
        moved = place.rename(place.with_name(f"{place.name} moved"))
        assert json.dumps(found(moved).facts()) == before
        moved.rename(place)
    (tree / "b" / "2.png").write_bytes(png(1) + b"x")
    assert json.dumps(found(tree).facts()) != before
