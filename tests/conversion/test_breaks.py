"""A conversion that is killed, or whose disk, handles or memory end, leaves the old file or the new one, and no stray.

A share of what `tests/record/reliability/writer.py` measures at length.
"""

import json
import subprocess
import sys
from collections import Counter

import pytest

from tests.support.breaks import ENDINGS

PLAN = {"step": [40, -3], "share": [0.6], "EIO": [-5], "ENOSPC": [60], "full": [0.5], "handles": [2]}
PAIR = ".caffemodel"


@pytest.fixture(scope="module")
def attempts(files, tmp_path_factory):
    """Ending → what its attempts came to."""
    plans = dict.fromkeys(ENDINGS, PLAN) | {PAIR: {**PLAN, "step": [*range(-9, 0)], "memory": [2]}}
    command = [sys.executable, "-m", "tests.support.breaks", files["zip"], tmp_path_factory.mktemp("breaks")]
    done = subprocess.run([*command, json.dumps(plans)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_stands_there_is_old_or_new(attempts, ending):
    """Whole, with its own companion or none; an error has exit code 6 and leaves the old; the dead's files are gone."""
    wrong = [
        row
        for row in attempts[ending]["results"]
        for kind, _, code, stands, left, beside, same in [row]
        if (code, left) not in ({(-9, left)} if kind in ("step", "share") else {(6, 0), (0, left)})
        or tuple(stands) not in ({("old",) * len(stands), ("new",) * len(stands)} | {("old", "none"), ("new", "none")})
        or (code == 6 and set(stands) != {"old"})
        or (beside, same) != (0, 0)
    ]

    assert (wrong, attempts[ending]["right"]) == ([], True)


def test_a_killed_pair_is_without_its_companion_between_the_renames_only(attempts):
    """The last nine steps of a conversion: the old pair, the moment between, the new one."""
    stands = [tuple(row[3]) for row in attempts[PAIR]["results"] if row[0] == "step"]

    assert Counter(stands)["old", "old"] >= 1
    assert [row for index, row in enumerate(stands) if index == 0 or row != stands[index - 1]] == [
        ("old", "old"),
        ("old", "none"),
        ("new", "none"),
        ("new", "new"),
    ]
