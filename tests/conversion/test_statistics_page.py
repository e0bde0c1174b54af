"""docs/statistics.md says what its script measures: words and counts, of each file."""

import re

import pytest

from tests.record.statistics import PAGE, faults, inheritance, places, questions, readable

QUICK = 3  # networks, the smallest, in which faults are planted


@pytest.fixture(scope="module")
def networks():
    return dict(sorted(readable().items(), key=lambda named: len(named[1].graph.operations)))


def words(line):
    """A line without decimals: the last of them differ from machine to machine."""
    return re.sub(r"[0-9]+\.[0-9]+×?", "#", line)


@pytest.mark.parametrize(("part", "count"), [(inheritance, None), (questions, None), (places, None), (faults, QUICK)])
def test_the_page_says_what_the_script_measures(networks, part, count):
    """Where files of strangers are not there, of the sample that comes along."""
    page = {words(line) for line in PAGE.read_text(encoding="utf-8").splitlines()}
    told = "\n".join(part(dict([*networks.items()][:count])))

    assert [line for line in map(words, told.splitlines()) if line not in page] == []
