"""Which files a batch is of: folders, patterns, manifests; shards, parts and companions once; and where results go."""

import json
import shutil
from pathlib import Path

import pytest

from densenet_port.batches.sources import listed
from densenet_port.errors import UsageError

ENDING = ".weights.h5"


@pytest.fixture
def tree(tmp_path, small):
    """Networks in folders, beside what is none."""
    for name in ("one.pth", "runs/two.pth", "runs/deep/three.pth", ".hidden/four.pth", "out/five.pth"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(small, tmp_path / name)
    shutil.copy(small, tmp_path / "runs" / "weights.of-mine")
    (tmp_path / "runs" / "notes.txt").write_text("no network")
    (tmp_path / "runs" / "page.pth").write_bytes(b"<html>")
    return tmp_path


def placed(tree, *names, ending=ENDING):
    """Result → source, both relative to the tree."""
    targets = listed(
        [tree / name if isinstance(name, Path) else f"{tree}/{name}" for name in names], tree / "out", ending
    )
    root = tree.absolute()
    return {str(out.relative_to(root / "out")): str(Path(s.path).relative_to(root)) for out, s in targets.items()}


def test_a_folder_is_what_readers_know_by_content_or_ending(tree):
    """Not what is hidden, and not the results of this very batch; each lies as its source does."""
    assert placed(tree, "") == {
        f"one{ENDING}": "one.pth",
        f"runs/page{ENDING}": "runs/page.pth",
        f"runs/two{ENDING}": "runs/two.pth",
        f"runs/weights.of-mine{ENDING}": "runs/weights.of-mine",
        f"runs/deep/three{ENDING}": "runs/deep/three.pth",
    }


def test_a_pattern_lies_below_what_stands_before_its_first_star(tree):
    assert placed(tree, "runs/**/t*.pth") == {
        f"deep/three{ENDING}": "runs/deep/three.pth",
        f"two{ENDING}": "runs/two.pth",
    }
    assert placed(tree, "*/*.of-mine", "one.pth", "one.pth") == {
        f"runs/weights.of-mine{ENDING}": "runs/weights.of-mine",
        f"one{ENDING}": "one.pth",
    }
    with pytest.raises(UsageError, match=r"x\*.pth: no file fits"):
        placed(tree, "x*.pth")


def test_results_of_one_name_keep_the_whole_names_of_their_sources(tree, small):
    shutil.copy(small, tree / "runs" / "two.pt")

    assert placed(tree, "runs/t*") == {f"two.pt{ENDING}": "runs/two.pt", f"two.pth{ENDING}": "runs/two.pth"}


def test_two_results_in_one_place_are_refused_before_anything_is_done(tree):
    (tree / "list.csv").write_text("source,out\none.pth,x.weights.h5\nruns/two.pth,x.weights.h5\n")

    with pytest.raises(UsageError) as raised:
        placed(tree, "list.csv")

    first, second = tree / "one.pth", tree / "runs" / "two.pth"
    assert raised.value.message == f"{first} and {second} would both be written as {tree}/out/x.weights.h5"


def test_a_result_in_the_place_of_a_source_is_refused(tree, small):
    shutil.copy(small, tree / f"six{ENDING}")

    with pytest.raises(UsageError, match="a result would take its place"):
        listed([tree / "one.pth", tree / f"six{ENDING}"], tree, ENDING)


def test_shards_and_folders_of_one_checkpoint_count_once(tree):
    """A folder of the Hub with its shards and copies, an index among other files, TensorFlow's index with its data."""
    index = json.dumps({"weight_map": {"a": "w-1.safetensors", "b": "w-2.safetensors"}})
    for folder, name in (("hub", "model.safetensors.index.json"), ("loose", "w.safetensors.index.json")):
        (tree / folder).mkdir()
        (tree / folder / name).write_text(index)
        for shard in ("w-1.safetensors", "w-2.safetensors"):
            (tree / folder / shard).touch()
    (tree / "hub" / "pytorch_model.bin").touch()
    (tree / "hub" / "epoch1.pth").touch()
    (tree / "loose" / "w.fp16.safetensors.index.json").write_text('{"weight_map": {"a": "f.safetensors"}}')
    (tree / "tf").mkdir()
    for name in ("m.index", "m.data-00000-of-00001", "checkpoint"):
        (tree / "tf" / name).write_bytes(b"\0" * 40 + bytes.fromhex("57fb808b247547db"))

    assert placed(tree, "hub", "loose", "tf") == {
        f"hub{ENDING}": "hub",
        f"epoch1{ENDING}": "hub/epoch1.pth",
        f"w.fp16.safetensors.index.json{ENDING}": "loose/w.fp16.safetensors.index.json",
        f"w.safetensors.index.json{ENDING}": "loose/w.safetensors.index.json",
        f"m.index{ENDING}": "tf/m.index",
    }
    assert placed(tree, "loose/*.safetensors") == {
        f"w.safetensors.index.json{ENDING}": "loose/w.safetensors.index.json"
    }


MANIFESTS = {
    "list.csv": "source,out,arch\none.pth,a/b.weights.h5,121\nruns/two.pth,,\n",
    "list.tsv": "source\tout\tarch\none.pth\ta/b.weights.h5\t121\nruns/two.pth\t\t\n",
    "list.jsonl": '{"source": "one.pth", "out": "a/b.weights.h5", "arch": "121"}\n"runs/two.pth"\n',
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_has_words_for_single_files(tree, name):
    (tree / name).write_text(MANIFESTS[name])

    targets = listed([tree / name], tree / "out", ENDING)

    assert [(str(out.relative_to(tree / "out")), s.path, dict(s.words)) for out, s in targets.items()] == [
        ("a/b.weights.h5", str(tree / "one.pth"), {"arch": "121"}),
        (f"runs/two{ENDING}", str(tree / "runs" / "two.pth"), {}),
    ]


def test_a_plain_list_has_a_path_a_line_and_names(tree):
    (tree / "list.txt").write_text(f"one.pth\n\n{tree}/runs/two.pth\nhf://owner/name\ntorchvision-121\nlost.pth\n")

    targets = listed([tree / "list.txt"], tree / "out", ENDING)

    assert {out.name: source.path for out, source in targets.items()} == {
        f"one{ENDING}": str(tree / "one.pth"),
        f"two{ENDING}": str(tree / "runs" / "two.pth"),
        f"name{ENDING}": "hf://owner/name",
        f"torchvision-121{ENDING}": "torchvision-121",
        f"lost{ENDING}": str(tree / "lost.pth"),
    }


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "source,achr\nx.pth,121\n", "line 2: unknown key 'achr' (known: arch, kernels, out, output_name, "),
        ("a.csv", "out\nx.h5\n", "line 2: missing key 'source'"),
        ("a.csv", "source,out\nx.pth\n", "line 2: expected 2 values"),
        ("a.csv", "source,arch\nx.pth,1x1\n", "1x1"),
        ("a.jsonl", "\n{\n", "line 2: is no JSON"),
        ("a.jsonl", '{"source": 3}', "line 1: source: expected a string, found 3"),
        ("a.jsonl", "[]", "line 1: expected an object, found []"),
        ("a.csv", "source,out\nx.pth,../x.h5\n", "line 2: out: '../x.h5' is not below --out"),
        ("a.txt", "", "there is nothing to convert"),
        ("a.txt", "\udcff", "is no text in UTF-8"),
    ],
)
def test_a_manifest_that_is_none_is_refused_by_its_line(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(UsageError) as raised:
        listed([tmp_path / name], tmp_path / "out", ENDING)

    assert message in raised.value.message
