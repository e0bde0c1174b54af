"""A share of the long runs: mutants of every container, pickles, bombs, escapes; and the judge is judged."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hostile.fuzz import BESIDE
from tests.hostile.isolated import apart
from tests.hostile.judge import MEMORY, Verdict, judged
from tests.hostile.mutants import MUTATORS
from tests.hostile.seeds import READ
from tests.record.reliability.__main__ import PAGE, page

pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # of JAX, where it is there

ROOT = Path(__file__).parents[2]
MUTANTS = 12  # of each container
EVERY = 20  # of the malicious pickles
QUICK = (  # bombs that are quick to make
    *("many_windows", "one_long_name", "side_by_side", "that_overlap", "one_text", "stride", "share_a_heap", "forged"),
    *("one_member", "pieces", "prototxt", "linked", "itself", "ten_thousand_deep", "long.safe", "double"),
)


def script(module, *words):
    """What a script of this folder writes, and its exit code; it is a process of its own, for its limits and hooks."""
    command = [sys.executable, "-m", f"tests.hostile.{module}", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_mutants_are_refused_or_read_as_what_they_say(tmp_path):
    """No signal, no hang, no memory, one family of errors, and nothing against digests or checksums."""
    out = tmp_path / "fuzz.json"

    code, _, errors = script("fuzz", "--count", MUTANTS, "--out", out)

    containers = json.loads(out.read_text())["containers"]
    assert {name: result["wrong"] for name, result in containers.items()} == {name: [] for name in MUTATORS}
    assert (code, errors) == (0, "")


def test_every_container_has_mutators():
    """Whoever adds one to those that are read adds one there."""
    assert set(READ) | set(BESIDE) == set(MUTATORS)


def test_malicious_pickles_do_nothing():
    """Python's audit hook hears of nothing but the file; each is refused, or inert beside a tensor."""
    _, answer, _ = script("pickles", EVERY)

    result = json.loads(answer)
    kinds = {outcome.partition(":")[0] for outcome in result["outcomes"]}
    assert (result["heard"], result["harm"], kinds) == ([], [], {"refused", "inert"})


def test_the_audit_hook_hears_what_a_pickle_does():
    """The same pickles, read by Python."""
    program = (
        "import pickle, tests.hostile.pickles as p; from pathlib import Path\n"
        "watch = p.Watch(); watch.path = Path('x')\n"
        "try: pickle.loads(b'\\x80\\x02' + p.FORMS['GLOBAL REDUCE']('wave', 'open', b')') + b'.')\n"
        "except Exception: pass\n"
        "print([event.partition(' ')[0] for event in watch.heard if 'wave' in event][:2])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.stdout == "['pickle.find_class', 'import']\n"


def test_bombs_are_refused():
    """Under 256 MiB; in less than a second on a quiet machine, which docs/reliability.md says, and no test can."""
    _, answer, errors = script("fuse", "--seconds", 10, "--only", *QUICK)

    lit = [json.loads(line) for line in answer.splitlines()]
    assert ([bomb for bomb in lit if not bomb["refused"]], errors) == ([], "")
    assert len(lit) > 30


def test_nothing_is_read_or_written_outside():
    """External data, members, links, tables, shards, releases and places on the Hub that point elsewhere."""
    _, answer, _ = script("escapes")

    assert json.loads(answer) == {"count": 84, "refused": 84, "inert": [], "outside": [], "untyped": []}


def killed(_):
    os.kill(os.getpid(), signal.SIGTERM)


def endless(path):
    return judged(path, 0.2)


def forever(_):
    while True:
        pass


def greedy(_):
    try:
        return Verdict("read", 0, str(len(bytearray(2 * MEMORY))))
    except MemoryError:
        return Verdict("memory", 0)


def wrong(_):
    raise KeyError("x")


@pytest.mark.parametrize(
    ("reader", "kind"), [(forever, "hang"), (wrong, "untyped"), (killed, "signal"), (greedy, "memory")]
)
def test_the_judge_sees_what_is_planted(reader, kind, tmp_path, monkeypatch):
    """A reader that never ends, one that raises what is not ours, one that dies, one that takes everything."""
    monkeypatch.setattr("tests.hostile.judge.tensors_of", reader)

    began = time.monotonic()
    verdict, _ = apart(tmp_path / "x", MEMORY, read=reader if reader in (killed, greedy) else endless)

    assert (verdict.kind, time.monotonic() - began < 20) == (kind, True)


def test_the_page_is_what_was_measured():
    """`docs/reliability.md` is written by its script, and by nobody else."""
    assert page() == PAGE.read_text()
