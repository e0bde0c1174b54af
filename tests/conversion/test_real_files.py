"""Files of strangers: each is the function that was published, or refused in words, as the page says of it."""

import pytest

from tests.record.real_files import BOUND, PAGE, files, outcome, rows, ways
from tests.support.real import REAL

FILES = files()
CONVERTED = {
    "bc-6-12-24-own-names.pth",
    "bc100-andreasveit-names.pth.tar",
    "bc100-stem-norm.pth",
    "bc100-torchvision-names.pth",
    "keras-by-number-flat-head.h5",
    "kuangliu-names-new-first-flat-head.pth",
    "two-blocks-conv-bias.pth",
}

pytestmark = pytest.mark.skipif(REAL is None, reason="needs files of strangers")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_becomes_another_function(path, tmp_path):
    """Its logits are those beside it, in float64; or it is refused, in at most three lines."""
    result = outcome(path, tmp_path)

    assert (result.network is not None) == (path.name in CONVERTED)
    assert result.apart is None or result.apart <= BOUND
    if result.network is not None:
        assert "assumed: " in result.text
    for words in ways(result.text) if result.network is None else []:
        assert outcome(path, tmp_path, **words).network is not None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_page_says_what_becomes_of_each(path, tmp_path):
    """Word by word; distances are of rounding, and differ from machine to machine."""
    page = [_without_distance(line) for line in PAGE.read_text(encoding="utf-8").splitlines()]

    assert [line for line in map(_without_distance, rows(path, tmp_path)) if line not in page] == []


def _without_distance(line: str) -> str:
    """A line of the page without its column of distances."""
    cells = line.split(" | ")
    return " | ".join([*cells[:3], *cells[4:]]) if line.startswith("| ") else line
