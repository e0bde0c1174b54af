"""The command line as scripts and CI see it: exit codes, streams, JSON; in a process of its own where that matters."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from densenet_port.cli.app import COMMANDS, app, register
from densenet_port.cli.base import contract_line
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from tests.support.command import PLAIN, called
from tests.support.trained import SAMPLE

ENVIRONMENT = {**os.environ, **PLAIN}


def run(*words, cwd=None, **environment):
    """One call of the installed command."""
    command = [sys.executable, "-m", "densenet_port", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={**ENVIRONMENT, **environment}, timeout=120, check=False
    )


def test_a_checkpoint_converts_with_no_option(small, tmp_path):
    """Layout and architecture are found out; the output is called after the input."""
    (tmp_path / "net.pth.tar").write_bytes(small.read_bytes())

    done = run("convert", "net.pth.tar", cwd=tmp_path)

    size = (tmp_path / "net.weights.h5").stat().st_size
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[:3] == [
        "net.pth.tar: torchvision layers=2-3-2,growth_rate=8,init_channels=16,classes=7 (pth)",
        "  91 tensors used, 18 ignored by '{unit}.num_batches_tracked'; 91 of 91 slots filled",
        "  7 classes; epsilon 1e-05, symmetric stem padding, rgb input",
    ]
    assert lines[3] == (
        "  assumed: input rgb, scale 255, mean 0.485/0.456/0.406, std 0.229/0.224/0.225; the rest as torchvision's "
        "software builds it, which weights alone do not tell"
    )
    assert lines[4].startswith(f"net.weights.h5: keras, {size:,} bytes, ")


def test_pools_are_told_where_they_are_not_the_original_network_s():
    """A blur pool, and pools that round up."""
    contract = Contract(stem_padding="same", stem_pool="blur", pool_rounding="ceil")

    line = contract_line(Architecture.named("121").without_head(), contract)

    assert line == "no head; epsilon 1e-05, same stem padding, blur pool, pools round up, rgb input"


def test_a_conversion_is_one_json_object(small, tmp_path):
    """Ledger, digests and contract for a script."""
    done = called("convert", small, "--out", tmp_path / "o.safetensors", "--json")

    data = json.loads(done.stdout)
    assert (data["schema"], data["ledger"]["used"], data["ledger"]["slots"]) == ("densenet-port/convert/1", 91, 91)
    assert data["target"]["path"] == str(tmp_path / "o.safetensors")
    assert set(data["tensors"]) > {"stem_conv/kernel", "head_dense/bias"}


@pytest.mark.parametrize(
    ("words", "code", "kind", "message"),
    [
        (["convert"], 2, "usage", "no CHECKPOINT given"),
        (["convert", "FILE", "--src", "mxnet"], 2, "usage", "unknown layout 'mxnet'"),
        (["inspect", "FILE", "--src", "mxnet"], 2, "usage", "unknown layout 'mxnet'"),
        (["inspect", "FILE", "--within", "ema"], 2, "usage", "no tensor's name begins with 'ema.' or 'ema/'"),
        (["convert", "FILE", "--arch", "122"], 2, "usage", "unknown architecture '122'"),
        (["convert", "FILE", "--nonsense"], 2, "usage", "No such option"),
        (["convert", "FILE", "--arch", "121"], 3, "misfit", "does not fit --arch 121"),
        (["convert", "TEXT"], 4, "corrupt", "text.pth: a text, not a checkpoint"),
        (["convert", "none.pth"], 6, "disk", "cannot be read: No such file or directory"),
        (["convert", "FILE", "--out", "none/o.h5"], 6, "disk", "cannot be written: No such file or directory"),
        (["convert", "FILE", "--mapping", "none.toml"], 6, "disk", "none.toml: cannot be read"),
        (["verify", "FILE"], 3, "misfit", "carries no digests"),
        (["frobnicate"], 2, "usage", "No such command"),
    ],
)
def test_each_failure_has_its_code_and_words(small, tmp_path, words, code, kind, message):
    """In text on stderr, and as JSON on stdout; never a traceback, never an output."""
    (tmp_path / "text.pth").write_text("hello")
    words = [{"FILE": str(small), "TEXT": "text.pth"}.get(word, word) for word in words]

    plain, told = called(*words, cwd=tmp_path), called(*words, "--json", cwd=tmp_path)

    assert (plain.returncode, plain.stdout, plain.stderr.startswith("error: ")) == (code, "", True)
    assert message in plain.stderr
    assert "Traceback" not in plain.stderr
    error = json.loads(told.stdout)["error"]
    assert (told.returncode, error["kind"], message in error["message"]) == (code, kind, True)
    assert [path.name for path in tmp_path.iterdir()] == ["text.pth"]


@pytest.fixture
def impatient(monkeypatch):
    """Another try comes at once."""
    monkeypatch.setattr("densenet_port.fetch.http.sleep", lambda _: None)


@pytest.mark.usefixtures("impatient")
def test_offline_without_a_file_says_so_in_a_line(tmp_path):
    """Exit 5, and the way out: bring the file. A proxy on a closed port stands in for a cut cable."""
    done = called(
        *("convert", "--src", "torchvision", "--arch", "121"),
        cwd=tmp_path,
        https_proxy="http://127.0.0.1:9",
        DENSENET_PORT_CACHE=str(tmp_path / "cache"),
    )

    first, second = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (5, "")
    assert first.startswith(
        "error: https://download.pytorch.org/models/densenet121-a639ec97.pth cannot be downloaded ("
    )
    assert second.startswith("  bring the file: `densenet-port cache import densenet121-a639ec97.pth` copies it to ")


@pytest.mark.usefixtures("impatient")
def test_a_registered_file_is_taken_from_the_cache(tmp_path):
    """A file in the cache is used only if it hashes to what is registered: another file by that name is not."""
    (tmp_path / "densenet121-a639ec97.pth").write_bytes(b"not it")

    done = called(
        *("convert", "--src", "torchvision", "--arch", "121"),
        cwd=tmp_path,
        https_proxy="http://127.0.0.1:9",
        DENSENET_PORT_CACHE=str(tmp_path),
    )

    assert done.returncode == 5


def test_inspect_collapses_running_numbers(files):
    """One row for a role of all layers, with both names, and what was left over."""
    done = called("inspect", files["parallel"])

    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert any(
        row.startswith(
            "block{1…3}.layer{1…3}.norm1.scale module.features.denseblock{1…3}.denselayer{1…3}.norm1.weight 7 float32"
        )
        for row in rows
    )
    assert any("num_batches_tracked" in row and "int64 scalar" in row for row in rows)


def test_inspect_shows_a_file_that_fits_no_layout(tmp_path):
    """Its tensors, and why nothing fits."""
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"conv1.weight": np.ones((2, 3), "f4"), "bn1.weight": np.ones(5, "f4")}, tmp_path / "resnet.safetensors")

    done = called("inspect", tmp_path / "resnet.safetensors", "--json")

    data = json.loads(done.stdout)
    assert (done.returncode, data["layout"], len(data["tensors"])) == (0, None, 2)
    assert "it has no convolutions: 0 norms, 1 dense layer, 1 other tensor" in data["misfit"]["message"]


def test_diff_judges_by_its_exit_code(files, small, tmp_path):
    """0 for the same network in another layout, 1 for one in half precision."""
    called("convert", small, "--out", tmp_path / "o.h5")

    same, other = called("diff", small, tmp_path / "o.h5"), called("diff", small, files["half"], "--json")

    assert (same.returncode, "91 tensors identical, 0 differ" in same.stdout) == (0, True)
    assert (other.returncode, json.loads(other.stdout)["same"]) == (1, False)


def test_verify_passes_what_was_written(small, tmp_path):
    """Right after a conversion every digest holds."""
    called("convert", small, "--out", tmp_path / "o.keras")

    done = called("verify", tmp_path / "o.keras")

    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'o.keras'}: 91 tensors, every digest as written\n")


def test_demo_runs_on_core_dependencies():
    """The embedded network is converted and is the same network, by its own figures."""
    data = json.loads(called("demo", "--json").stdout)

    assert (data["accuracy_before"], data["agreeing"]) == (data["accuracy_after"], data["images"])
    assert data["accuracy_after"] >= 0.97
    assert data["relative64"] <= 1e-10


@pytest.mark.parametrize("command", ["layouts", "archs", "doctor"])
def test_every_listing_has_a_schema(command):
    """Scripts can rely on the object."""
    done = called(command, "--json")

    assert json.loads(done.stdout)["schema"] == f"densenet-port/{command}/1"
    assert called(command).returncode == 0


def commands(group, name=""):
    """Every command below a group, and the groups: full name → command."""
    for word, command in group.commands.items():
        yield f"{name} {word}".strip(), command
        yield from commands(command, f"{name} {word}") if hasattr(command, "commands") else ()


def test_every_command_and_option_has_help():
    """A command line explains itself."""
    register(None)
    known = dict(commands(typer.main.get_command(app)))

    unexplained = [
        f"{name} {parameter.name}"
        for name, sub in known.items()
        for parameter in sub.params
        if not getattr(parameter, "help", None)
    ]
    assert ([name for name, sub in known.items() if not sub.help], unexplained) == ([], [])
    assert "cache list" in known


def test_every_command_is_found_in_its_module():
    """What is imported for one word of the command line is what has that command."""
    register(None)
    listed = [name for names in COMMANDS.values() for name in names]
    homes = {
        name: command.callback.__module__
        for name, command in commands(typer.main.get_command(app))
        if not hasattr(command, "commands")
    }

    assert set(listed) == set(typer.main.get_command(app).commands)
    for module, names in COMMANDS.items():
        own = {home for name, home in homes.items() if name.split()[0] in names}
        assert own == {f"densenet_port.cli.{module}"}


def test_output_into_a_closed_pipe_is_quiet(small):
    """`densenet-port inspect … | head -1` shows no traceback."""
    command = f"{sys.executable} -m densenet_port inspect {small} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=ENVIRONMENT, check=False)

    assert done.stderr == ""


def test_colour_is_left_out_where_nobody_sees_it(small):
    """No escape sequences in a file or a pipe."""
    assert "\x1b" not in called("inspect", small).stdout


THREADS = """
import os, sys
from densenet_port.cli import main
try:
    main()
finally:
    sys.stderr.write(str(len(os.listdir("/proc/self/task"))))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted where Linux lists them")
def test_commands_that_multiply_no_matrices_start_no_threads_for_it(small):
    """They would spin for up to a third of the CPU time; `inspect` has none of its own that could linger."""
    command = [sys.executable, "-c", THREADS, "inspect", small]
    unbound = {name: value for name, value in ENVIRONMENT.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(command, capture_output=True, text=True, env=unbound, check=False)

    assert (done.returncode, done.stderr) == (0, "1")


@pytest.fixture
def unforeseen(monkeypatch):
    """A call of the command line whose conversion raises what nobody foresaw."""
    from densenet_port.conversion import convert

    def broken(*_, **__):
        raise ZeroDivisionError("a fault\nof ours")

    monkeypatch.setattr(convert, "convert", broken)
    return lambda *words: called("convert", "x.pth", *words)


def test_what_nobody_foresaw_is_one_line_and_exit_70(unforeseen):
    """Never 1, which means "not the same network"; and never a traceback."""
    done = unforeseen()

    assert (done.returncode, done.stdout) == (70, "")
    assert done.stderr == (
        "error: ZeroDivisionError: a fault of ours\n"
        "  this is a fault of densenet-port's: please report it, with the command and what --traceback shows\n"
    )


def test_the_traceback_of_what_nobody_foresaw_is_shown_where_asked_for(unforeseen):
    """Before the line, wherever the option stands."""
    done = unforeseen("--traceback")

    assert done.returncode == 70
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert "in broken" in done.stderr
    assert "error: ZeroDivisionError: a fault of ours\n" in done.stderr


def test_what_nobody_foresaw_is_json_where_asked_for(unforeseen):
    done = unforeseen("--json")

    error = json.loads(done.stdout)["error"]
    assert (done.returncode, done.stderr) == (70, "")
    assert (error["kind"], error["message"]) == ("internal", "ZeroDivisionError: a fault of ours")


@pytest.fixture(scope="module")
def proven(files, tmp_path_factory):
    """A port, the reference's saved run laid beside it as golden, a report, and a damaged copy of the port."""
    from densenet_port.conversion.load import read
    from densenet_port.network.units import Slot
    from tests.support.ports import weights_of, written

    place = tmp_path_factory.mktemp("proven")
    port = place / "port.weights.h5"
    called("convert", files["zip"], "--out", port)
    golden = f"{port}.golden.npz"
    words = ("check", port, "--against", files["zip"], "--backend", "numpy", "--size", 65)
    done = called(*words, "--save-reference", golden, "--report", place / "report", "--json")
    weights = weights_of(read(port))
    weights[Slot("transition1.conv", "kernel")] *= -1
    wrong = written(read(port), weights, read(port).contract, place / "wrong.weights.h5").checkpoint.path
    return done, port, Path(golden), wrong, place / "report"


def test_check_passes_and_leaves_evidence(proven):
    """Exit 0, one JSON object, and a report in four forms."""
    done, _, golden, _, report = proven

    data = json.loads(done.stdout)
    assert (done.returncode, data["passed"], data["schema"]) == (0, True, "densenet-port/check/1")
    assert golden.exists()
    assert sorted(path.name for path in report.iterdir()) == ["junit.xml", "report.html", "report.json", "summary.md"]


def test_check_fails_with_exit_code_one(proven):
    """A wrong port is not the same network; a saved reference suffices to say so, and says where."""
    _, _, golden, wrong, _ = proven

    done = called("check", wrong, "--reference", golden, "--backend", "numpy", "--json")

    data = json.loads(done.stdout)
    assert (done.returncode, data["passed"], data["where"]) == (1, False, "transition1.conv")


@pytest.fixture(scope="module")
def unowned(files, tmp_path_factory):
    """A checkpoint of a layout that no installed software runs: numpy is its reference, by this project's own table."""
    path = tmp_path_factory.mktemp("unowned") / "unowned.pth"
    called("convert", files["zip"], "--dst", "gpleiss", "--out", path)
    return path


def test_a_check_that_is_not_independent_exits_with_one(unowned, tmp_path):
    """The numbers agree; this project's own tables read both files."""
    copied = tmp_path / "copied.safetensors"
    called("convert", unowned, "--src", "gpleiss", "--out", copied)

    words = ("--against", unowned, "--src", "gpleiss", "--backend", "numpy", "--size", 65)
    done = called("check", copied, *words, "--json")

    data = json.loads(done.stdout)
    assert (done.returncode, data["passed"], data["independent"], data["grade"]) == (1, True, False, "agrees")


def test_check_and_diagnose_take_the_user_s_word_on_the_original(unowned, tmp_path):
    """A port with another pool than the class has agrees with that word, and differs without it."""
    port = tmp_path / "port.safetensors"
    called("convert", unowned, "--src", "gpleiss", "--out", port, "--stem-pool", "none")

    words = ("--against", unowned, "--src", "gpleiss", "--backend", "numpy", "--json")
    told, untold = (called("check", port, *words, "--size", 65, *more) for more in (("--stem-pool", "none"), ()))
    explained = called("diagnose", port, *words, "--stem-pool", "none")

    grades = [json.loads(done.stdout)["grade"] for done in (told, untold, explained)]
    assert (grades, explained.returncode) == (["agrees", "differs", "agrees"], 0)


def test_diagnose_names_the_unit(proven):
    """Exit 1 with a finding, exit 0 without."""
    _, port, golden, wrong, _ = proven

    bad, good = (called("diagnose", file, "--reference", golden) for file in (wrong, port))

    assert (bad.returncode, "transition1.conv" in bad.stdout) == (1, True)
    assert (good.returncode, good.stdout) == (0, "the same network: nothing to explain\n")


def test_verify_replays_golden_logits(proven, tmp_path):
    """The golden file beside a port is found; a port that fails it exits 1."""
    _, port, golden, wrong, _ = proven

    good, bad = called("verify", port), called("verify", port.with_name(wrong.name), "--golden", golden)

    lines = good.stdout.splitlines()
    assert (good.returncode, lines[0]) == (0, f"{port}: 91 tensors, every digest as written")
    assert len(lines) > 3
    assert all(line.endswith("  ok") for line in lines[1:])
    assert bad.returncode == 1


def test_convert_and_verify_tell_the_wiring(tmp_path):
    """In a line each, and with all that the statistics say in their JSON."""
    line = "wiring: 15 of 15 norms inherit 1,596 of 1,596 numbers, old channels first"
    out = tmp_path / "digits.weights.h5"

    converted = called("convert", SAMPLE, "--out", out)
    verified = called("verify", out)
    told = json.loads(called("verify", out, "--json").stdout)["statistics"]

    assert f"  {line}" in converted.stdout.splitlines()
    assert f"  {line}" in verified.stdout.splitlines()
    assert (told["verdict"], told["equal"], told["contradictions"]) == ("evidence", 1596, [])


def test_inspect_shows_the_evidence(tmp_path):
    """A table of questions, and a picture of each unit's mean."""
    done = called("inspect", SAMPLE, "--evidence", "--evidence-picture", tmp_path / "means.svg")

    assert re.search(r"activation +relu +0\.020 +gelu +0\.170 +8\.\d× +supported", done.stdout)
    assert re.search(r"stem pool +max +0\.094 +none +0\.640 +6\.8× +supported", done.stdout)
    picture = (tmp_path / "means.svg").read_text("utf-8")
    assert picture.startswith("<svg")
    assert picture.count("<rect") == 1 + 33  # the square, and every norm but the first two


def test_statistics_without_evidence_are_said_once(tmp_path):
    """By inspect, and not by convert; and there is nothing to draw."""
    from tests.support.networks import checkpoint_file

    path = checkpoint_file(tmp_path, "layers=2-2,growth_rate=8,init_channels=16,classes=10", "zip")

    assert "wiring: no evidence" in called("inspect", path).stdout
    assert "wiring" not in called("convert", path, "--dry-run").stdout
    drawn = called("inspect", path, "--evidence-picture", tmp_path / "means.svg")
    assert (drawn.returncode, drawn.stderr) == (
        2,
        "error: --evidence-picture: no evidence in its running statistics, and nothing to draw\n",
    )


def test_a_damaged_file_is_refused_and_can_be_taken(tmp_path):
    """A changed bit in an inherited number: three lines, exit 3; with --ignore-inheritance a note."""
    import torch

    state = torch.load(SAMPLE, weights_only=True)
    state["features.denseblock2.denselayer3.norm1.running_var"].numpy().view(np.uint32)[2] ^= 1 << 20
    torch.save(state, tmp_path / "damaged.pth")

    refused = called("convert", tmp_path / "damaged.pth", "--dry-run")
    taken = called("convert", tmp_path / "damaged.pth", "--dry-run", "--ignore-inheritance")
    shown = called("inspect", tmp_path / "damaged.pth")

    told = "block2.layer3.norm1: 1 of 42 channels differs from block2.layer2.norm1's: 2"
    assert (refused.returncode, len(refused.stderr.splitlines())) == (3, 3)
    assert told in refused.stderr
    assert taken.returncode == 0
    assert f"contradiction: {told}" in shown.stdout


STREAMS = {  # what the shell does to a command → what it ends with, and what it says on stderr
    "layouts --json >/dev/full": (6, "error: No space left on device\n"),
    "archs >&-": (0, ""),
    "inspect none.pth 2>/dev/full": (6, ""),
    "inspect none.pth >&- 2>&-": (6, ""),
}


def test_a_stream_that_is_full_or_closed_is_no_fault_of_ours(tmp_path):
    """One line where it can still be read, and the code in any case; no traceback, and none at the very end."""
    ends = {}
    for words in STREAMS:
        command = f"exec {sys.executable} -m densenet_port {words}"
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)  # noqa: PLW1510
        ends[words] = (done.returncode, done.stderr)

    assert ends == STREAMS


@pytest.mark.parametrize(
    "lack",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        SystemError("error return without exception set"),
        OSError(24, "Too many open files"),
    ],
)
def test_what_the_machine_lacks_is_one_line(lack, monkeypatch):
    """Exit code 6, as for a full disk."""

    def lacking(*_words, **_more):
        raise lack

    monkeypatch.setattr("densenet_port.cli.app.app", lacking)
    memory = "there is not enough memory; nothing was left half written"

    expected = "Too many open files" if isinstance(lack, OSError) else memory
    assert called("archs") == (6, "", f"error: {expected}\n")
