"""The forms in which people bring DenseNets: none becomes another function untold, and what is said of each works."""

import re

import pytest

from tests.record.inputs import BOUND, GROUPS, PAGE, line, outcome
from tests.support.inputs import written

UNKNOWABLE = {"state_dict_without_pool"}  # nothing in the file tells; what is assumed is wrong there


@pytest.fixture(scope="module", params=GROUPS)
def brought(request, tmp_path_factory):
    """The forms of one group, with what becomes of each, and the folder that they stand in."""
    folder = tmp_path_factory.mktemp("brought")
    return [(form, outcome(form.path, folder)) for form in written(request.param, folder)], folder


def test_no_form_becomes_another_function_untold(brought):
    """Refused, or the framework's own function; where the file cannot tell, the assumption is said."""
    forms, _ = brought

    silent = []
    for form, result in forms:
        wrong = result.is_converted and result.apart is not None and not result.apart <= BOUND
        if wrong and not (form.name in UNKNOWABLE and result.text.startswith("assumed: ")):
            silent.append((form.name, result))

    assert silent == []


def test_the_page_says_what_becomes_of_each(brought):
    """Word by word."""
    forms, _ = brought
    page = PAGE.read_text(encoding="utf-8").splitlines()

    assert [row for form, result in forms if (row := line(form, result)) not in page] == []


def test_a_way_that_a_refusal_names_works(brought):
    """The body or the network within converts, and is the framework's own."""
    forms, folder = brought

    tried = 0
    for form, result in forms:
        within = re.search(r"--within (\S+)", result.text)
        words = {"within": within[1]} if within else {}
        if "--no-top" in result.text:
            words["no_top"] = True
        if words and not result.is_converted:
            tried += 1
            way = outcome(form.path, folder, **words)
            assert way.is_converted, (form.name, words, way.text)
            assert way.apart is None or way.apart <= BOUND, (form.name, way)

    assert tried > 0
