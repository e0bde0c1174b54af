"""What is printed and written of an evaluation: all forms say the same, and names of files command nothing."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from densenet_port.evaluation import report, run, sides
from densenet_port.evaluation.run import evaluate
from densenet_port.network.contract import Resize
from densenet_port.work import pool
from tests.support.command import called
from tests.support.evaluations import Here, digits, folder, one_by_one, port, turned_classes

NASTY = "<script>alert(1)</script>\x1b[31m\u202e.png"


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    """Everything in this process, and numpy on both sides."""
    monkeypatch.setattr(sides, "_Process", Here)
    monkeypatch.setattr(pool, "run", one_by_one)
    monkeypatch.setattr(run, "reference_of", lambda *_, **__: run.Reference("numpy"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An original, a port with its classes turned, and pictures, one with a bad name and one that is none."""
    root = tmp_path_factory.mktemp("report")
    pictures = folder(root / "pictures", 40)
    Image.fromarray(digits()[0][50]).save(pictures / "0" / "nasty.png")
    (pictures / "0" / "nasty.png").rename(pictures / "0" / NASTY.replace("/", "⁄"))
    (pictures / "9" / "z.png").write_bytes(b"no picture")
    return port(root / "original.weights.h5"), port(root / "port.weights.h5", turned_classes), pictures


@pytest.fixture(scope="module")
def faulty(files):
    """The evaluation of the faulty port."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sides, "_Process", Here)
        patch.setattr(pool, "run", one_by_one)
        patch.setattr(run, "reference_of", lambda *_, **__: run.Reference("numpy"))
        original, turned, pictures = files
        return evaluate(turned, original, data=pictures, backend="numpy")


def printed(evaluation):
    """What a terminal without colours shows."""
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO(), width=200)
    for part in report.terminal(evaluation):
        console.print(part, markup=False, highlight=False) if isinstance(part, str) else console.print(part)
    return console.file.getvalue()


class Page(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        """Keep it."""
        self.elements.append((tag, dict(attributes)))


def test_json_has_everything(faulty):
    """Strict, and with names for the pictures that are named."""
    plain = json.loads(json.dumps(report.to_json(faulty), allow_nan=False))

    assert [plain["figures"][key] for key in ("pictures", "labelled", "unread")] == [41, 41, 1]
    assert plain["figures"]["sides"]["original"]["top1"]["count"] >= 40
    assert plain["figures"]["pair"]["difference"]["top1"]["port_alone"] == 0
    assert (len(plain["flips"]), plain["flips"][0]["picture"].endswith(".png")) == (41, True)
    assert [(one["picture"], one["why"][:33]) for one in plain["unread"]] == [
        ("9/z.png", "cannot be read as a picture: cann")
    ]
    assert (plain["independent"], plain["dependence"][:26]) == (False, "the reference (numpy) read")
    assert plain["statistics"] == faulty.statistics.to_json()
    assert [*plain["run"]] == ["pictures", "seconds"]


def test_a_terminal_shows_shares_flips_and_what_it_looks_like(faulty):
    text = printed(faulty)

    assert "looks like: the port's classes look like the original's in another order" in text
    assert "not independent: the reference (numpy) read the original by keras" in text
    assert "pictures: 32 of 32 pixels, bilinear (by your word); rgb, scale 255" in text
    assert "pictures that could not be read, and are in no figure: 1" in text
    assert "unread: 9/z.png: cannot be read as a picture" in text
    assert "and 32 more pictures; --report DIR and --json list them all" in text
    assert re.search(r"same answer +0\.00% \(0\.00 to 8\.57\) +41 flips", text)
    assert not set(text) & {"\x1b", "\u202e"}


def test_the_page_stands_alone_and_shows_flips(faulty):
    """No script, nothing from elsewhere; a thumbnail for each flip, and what stands in a name is text."""
    text = report.html(faulty)
    page = Page(text)

    assert {tag for tag, _ in page.elements} & {"script", "iframe", "object"} == set()
    places = [value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "href")]
    assert {place.partition(",")[0] for place in places} == {"data:", "data:image/png;base64"}
    assert sum(tag == "img" for tag, _ in page.elements) == 41
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {"differences-title", "reliability-port-title", "reliability-original-title"} <= set(ids)
    assert "&lt;script&gt;" in text
    assert not set(text) & {"\x1b", "\u202e"}
    assert "prefers-color-scheme: dark" in text


def test_the_same_evaluation_is_the_same_page(faulty, files):
    """But for the seconds that it took."""
    original, turned, pictures = files
    again = evaluate(turned, original, data=pictures, backend="numpy", batch=32)

    pages = [re.sub(r"\d+\.\d s", "", report.html(one)) for one in (faulty, again)]
    assert pages[0] == pages[1]


def test_two_files_are_written(faulty, tmp_path):
    written = report.write(faulty, tmp_path / "new" / "folder")

    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [*sorted(written)]
    assert json.loads(written["evaluation.json"].read_text())["schema"] == "densenet-port/evaluate/1"


def test_of_prepared_floats_no_picture_is_shown(files, tmp_path):
    original, turned, _ = files
    images = np.random.default_rng(0).standard_normal((3, 32, 32, 3)).astype(np.float32)
    np.savez(tmp_path / "x.npz", images=images)

    made = evaluate(turned, original, data=tmp_path / "x.npz", prepared=True, backend="numpy")

    assert "<img" not in report.html(made)
    assert "pictures: prepared by whoever made the file (by your word)" in printed(made)
    assert "top-1" not in {row[0] for row in report._tables(made)[0].rows}


def test_sides_that_prepare_otherwise_are_told_apart(files, tmp_path):
    _, _, pictures = files
    original, other = port(tmp_path / "a.weights.h5"), port(tmp_path / "b.weights.h5", resize=Resize(size=(40, 40)))

    lines = report.cautions(evaluate(other, original, data=pictures, backend="numpy"))

    rest = "pixels, bilinear (by your word); rgb, scale 255, mean 0.485/0.456/0.406, std 0.229/0.224/0.225 (assumed)"
    assert [line for line in lines if line.startswith("pictures of the")] == [
        f"pictures of the port: 40 of 45 {rest}",
        f"pictures of the original: 32 of 32 {rest}",
    ]


def test_a_size_that_is_not_the_contract_s_is_told(files):
    """The user's word counts, for both; what a file says otherwise is not passed over."""
    original, _, pictures = files
    made = evaluate(original, data=pictures, backend="numpy", contract={"resize": Resize(size=(40, 40))})

    note = "note: pictures are not resized as the port's own contract says: 32 of 32 pixels, bilinear"
    assert note in report.cautions(made)


def test_of_pictures_none_of_which_can_be_read_there_is_nothing_but_their_names(files, tmp_path):
    (tmp_path / "only.png").write_bytes(b"no picture")

    made = evaluate(files[0], files[1], data=tmp_path, backend="numpy")

    assert made.statistics.counts == {}
    assert "unread: only.png: cannot be read as a picture" in printed(made)
    assert (report.to_json(made)["figures"]["sides"], "only.png" in report.html(made)) == ({}, True)


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_tells_by_its_code_whether_every_picture_was_read(files, tmp_path):
    """1 where one was not, 0 where all were; --json is the report's."""
    original, _, pictures = files
    words = ("evaluate", original, "--backend", "numpy", "--json", "--data")

    partly, wholly = called(*words, pictures), called(*words, folder(tmp_path / "good", 40), "--report", tmp_path / "r")

    assert (partly.returncode, wholly.returncode, partly.stderr) == (1, 0, "")
    plain, kept = json.loads(wholly.stdout), json.loads((tmp_path / "r" / "evaluation.json").read_text())
    assert (plain["schema"], plain["original"], plain["figures"]) == ("densenet-port/evaluate/1", None, kept["figures"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--resume",), "error: --resume goes on with a journal\n  name it: --journal FILE\n"),
        (("--report", "-"), "error: --report -: only a text can go to stdout"),
        (("--backend", "mxnet"), "error: unknown --backend 'mxnet'"),
    ],
    ids=("resume", "report", "backend"),
)
def test_slips_are_answered(files, words, message):
    done = called("evaluate", files[0], "--data", files[2], *words)

    assert (done.returncode, done.stderr.startswith(message)) == (2, True)


def test_quiet_leaves_what_the_result_rests_on(files):
    done = called("evaluate", files[1], "--against", files[0], "--data", files[2], "--backend", "numpy", "--quiet")

    assert (done.returncode, done.stdout) == (1, "")
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == [
        "looks like",
        "not independent",
        "pictures",
        "pictures that could not be read, and are in no figure",
    ]
