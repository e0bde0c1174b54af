"""One policy of retries: pauses that double, waits that a server asks for, and an end to both."""

import pytest

from densenet_port.errors import NetworkError
from densenet_port.fetch.http import Retries, RetryableError, RetryPolicy

POLICY = RetryPolicy(tries=4, backoff=0.5, longest_wait=60)


@pytest.fixture
def pauses(monkeypatch):
    """The pauses between tries, which are counted and not made."""
    seconds = []
    monkeypatch.setattr("densenet_port.fetch.http.sleep", seconds.append)
    return seconds


def outcome(*failures):
    """What becomes of work that fails in these ways and then is done: its result, or the error."""
    left = list(failures)

    def work():
        if left:
            raise left.pop(0)
        return "done"

    try:
        return Retries(POLICY, "it failed", hint="later").run(work)
    except NetworkError as error:
        return error.message, error.hint


@pytest.mark.parametrize(
    ("failures", "expected", "waited"),
    [
        ([], "done", []),
        ([RetryableError("broken")] * 3, "done", [0.5, 1, 2]),
        ([RetryableError("broken")] * 4, ("it failed (broken; tried 4 times)", "later"), [0.5, 1, 2]),
        ([RetryableError("busy", wait=7), RetryableError("broken")], "done", [7, 1]),
        ([RetryableError("busy", wait=0)], "done", [0]),
        ([RetryableError("busy", wait=61)], ("it failed (busy)", "try again in 61 s"), []),
        ([RetryableError("busy", wait=40)] * 2, ("it failed (busy)", "try again in 40 s"), [40]),
        ([RetryableError("busy", wait=15, doubling=True)] * 3, ("it failed (busy)", "try again in 60 s"), [15, 30]),
        ([RetryableError("busy", wait=1)] * 4, ("it failed (busy; tried 4 times)", "try again in 1 s"), [1, 1, 1]),
    ],
    ids=["none", "three", "four", "asked", "at once", "too long", "too long in all", "longer each time", "too often"],
)
def test_work_is_tried_again_until_it_is_no_use(failures, expected, waited, pauses):
    """The result, or an error that says how often it was tried and when to come back."""
    result = outcome(*failures)

    assert (result, pauses) == (expected, waited)


def test_what_no_other_try_mends_is_not_tried_again(pauses):
    """It is raised as it is."""
    assert outcome(NetworkError("gone", hint="elsewhere")) == ("gone", "elsewhere")
    assert pauses == []
