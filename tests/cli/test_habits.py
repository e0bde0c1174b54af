"""What people expect of any command line: help, completion, the nearest word, several files, stdout, silence."""

import json
import os
import subprocess
import sys
from typing import get_args

import pytest
import typer

from densenet_port.cli import options, usage
from densenet_port.cli.app import app, register
from densenet_port.conversion.write import DTYPES
from densenet_port.extras import BACKENDS
from densenet_port.network import contract
from tests.cli.test_app import commands
from tests.support.command import called
from tests.support.trained import SAMPLE

ASSUMED = (
    "assumed: input rgb, scale 255, mean 0.485/0.456/0.406, std 0.229/0.224/0.225; the rest as torchvision's software "
    "builds it, which weights alone do not tell"
)


@pytest.fixture(scope="module")
def known():
    """Every command by its full name."""
    register(None)
    return dict(commands(typer.main.get_command(app)))


# -- help and completion -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), ("cache",), ("release",)], ids=" ".join)
def test_a_group_without_a_word_shows_its_help(words):
    done = called(*words)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == called(*words, "--help").stdout.strip()
    assert f"Usage: {' '.join(('densenet-port', *words))} [OPTIONS] COMMAND" in done.stdout


def test_choices_are_those_of_the_library():
    """Told twice, because a command does not import what it only may need: a new one must come to both."""
    assert (set(get_args(options.Dtype)), set(get_args(options.Backend))) == ({*DTYPES}, {"numpy", *BACKENDS})
    for name in ("StemPadding", "StemPool", "Rounding"):
        assert get_args(getattr(options, name)) == get_args(getattr(contract, name))
    assert {*get_args(options.Output)} == {"logits", *get_args(contract.Activation)}
    assert {*options.ContractWords._fields} == {*contract.WORDS, "picture"} - {"input"}


def test_choices_stand_in_the_help():
    """As the value that an option takes."""
    text = called("convert", "--help").stdout

    lines = [" ".join(line.strip("│ ").split()) for line in text.splitlines()]
    assert "--dtype [float32|float16|bfloat16|float64] The floating type to write. [default: float32]" in lines
    assert "--stem-pool [max|blur|none] The stem's pool, likewise." in lines


def test_every_command_can_be_quiet_and_talk_to_scripts(known):
    lacking = [
        name
        for name, command in known.items()
        if not hasattr(command, "commands") and not {"as_json", "quiet"} <= {entry.name for entry in command.params}
    ]

    assert lacking == []


COMPLETED = {
    "densenet-port con": "convert",
    "densenet-port convert x.pth --dst torchv": "torchvision",
    "densenet-port convert --arch 12": "121 121d",
    "densenet-port check x.h5 --stem-pool ": "max blur none",
    "densenet-port fetch titu1994-16": "titu1994-161 titu1994-161-no-top titu1994-169 titu1994-169-no-top",
}
COMPLETE = """
densenet-port --install-completion bash >/dev/null
source ~/.bash_completions/densenet-port.sh
while IFS= read -r line; do
    COMP_WORDS=($line)
    [[ "$line" == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _densenet_port_completion densenet-port
    echo "${COMPREPLY[*]}"
done
"""


@pytest.mark.skipif(os.name != "posix", reason="bash completes")
def test_bash_completes_commands_layouts_architectures_choices_and_names(tmp_path):
    """The shell's own function, as `--install-completion` leaves it in a new home, asks the command each time."""
    (tmp_path / "densenet-port").write_text(f'#!/bin/sh\nexec {sys.executable} -m densenet_port "$@"\n')
    (tmp_path / "densenet-port").chmod(0o755)
    new = {"HOME": str(tmp_path), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    settings = {**os.environ, **new, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # bash is named
    lines = "".join(f"{line}\n" for line in COMPLETED)

    done = subprocess.run(
        ["bash", "-c", COMPLETE], input=lines, capture_output=True, text=True, env=settings, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == list(COMPLETED.values())


# -- the nearest word --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        ("covert x.pth", "No such command 'covert'\n  did you mean convert? see: densenet-port --help"),
        ("compare a.h5 b.h5", "No such command 'compare'\n  did you mean diff? see: densenet-port --help"),
        ("frobnicate", "No such command 'frobnicate'\n  see: densenet-port --help"),
        ("cache lst", "No such command 'lst'\n  did you mean list? see: densenet-port cache --help"),
        ("convert x --forec", "No such option: --forec\n  did you mean --force? see: densenet-port convert --help"),
        ("convert x -o y.h5", "No such option: -o\n  did you mean --out? see: densenet-port convert --help"),
        (
            "convert --from x.pth",
            (
                "No such option: --from\n"
                "  did you mean CHECKPOINT without an option or --src? see: densenet-port convert --help"
            ),
        ),
        (
            "release build --from x.pth",
            "No such option: --from\n  did you mean --checkpoint or --src? see: densenet-port release build --help",
        ),
        ("layouts --frobnicate", "No such option: --frobnicate\n  see: densenet-port layouts --help"),
        (
            "convert x --kernels tensorflo",
            "unknown --kernels 'tensorflo'\n  did you mean tensorflow? known: theano, tensorflow",
        ),
        ("check x --backend mxnet", "unknown --backend 'mxnet'\n  known: tensorflow, torch, jax, numpy"),
        (
            "convert x --epsilon much",
            "Invalid value for '--epsilon': 'much' is not a valid float.\n  see: densenet-port convert --help",
        ),
    ],
)
def test_a_slip_is_answered_with_the_nearest_word(words, printed):
    """Words of other tools, too; exit 2, and no more than two lines."""
    done = called(*words.split())

    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {printed}\n")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("convert x --dst torchvison", "did you mean torchvision? known: andreasveit, "),
        ("convert x --arch DensNet121", "did you mean densenet121? known: 121, "),
        ("convert x --arch 122", "known: 121, "),  # another number is another network
        ("fetch torchvison-121", "did you mean torchvision-121? registered: torchvision-121, "),
        ("fetch torchvision-122", "registered: torchvision-121, "),
    ],
)
def test_a_slip_in_a_name_is_answered_with_the_nearest_one(words, hint):
    """A layout's, an architecture's, a registered file's: before the list of all."""
    done = called(*words.split())

    assert (done.returncode, done.stderr.splitlines()[1].strip()[: len(hint)]) == (2, hint)


def test_other_tools_words_lead_to_what_there_is(known):
    """Every entry of the tables of synonyms means a command, or an option that some command has."""
    names = {name for command in known.values() for parameter in command.params for name in parameter.opts}

    assert {*usage.COMMANDS.values()} <= known.keys()
    assert not usage.COMMANDS.keys() & known.keys()
    assert {name for meant in usage.OPTIONS.values() for name in meant} <= {usage.FILE, *names}


# -- several files -----------------------------------------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path, files):
    """A folder with two checkpoints, and between them a text that is called one."""
    (tmp_path / "a.pth").write_bytes(files["zip"].read_bytes())
    (tmp_path / "b.pth").write_text("hello")
    (tmp_path / "c.pth").write_bytes(files["half"].read_bytes())
    return tmp_path


def test_one_bad_file_does_not_stop_the_others(desk):
    """Each is told when it is done; the exit code is that of the first that failed."""
    words = ("--dst", "torchvision", "--ending", "safetensors", "--out-dir", "new/out")
    done = called("convert", "a.pth", "b.pth", "c.pth", *words, cwd=desk)

    lines = done.stdout.splitlines()
    assert done.returncode == 4
    assert done.stderr == "error: b.pth: a text, not a checkpoint\n  give the file of the weights\n"
    assert [line.split(":")[0] for line in lines if line[0] != " "] == [
        "a.pth",
        "new/out/a.safetensors",
        "c.pth",
        "new/out/c.safetensors",
        "2 of 3 files converted; not",
    ]
    assert lines[-1] == "2 of 3 files converted; not: b.pth"
    assert sorted(path.name for path in (desk / "new/out").iterdir()) == ["a.safetensors", "c.safetensors"]


def test_several_conversions_are_one_json_object(desk):
    """A list in the order of the command line: what a single conversion has, or an error."""
    done = called("convert", "b.pth", "a.pth", "--out-dir", "out", "--dry-run", "--json", cwd=desk)

    data = json.loads(done.stdout)
    bad, good = data.pop("files")
    assert (done.returncode, done.stderr) == (4, "")
    assert data == {"schema": "densenet-port/convert-several/1", "converted": 1, "failed": 1}
    assert bad == {
        "source": {"path": "b.pth"},
        "target": {"path": None, "would_be": "out/b.weights.h5"},
        "error": {
            "kind": "corrupt",
            "message": "b.pth: a text, not a checkpoint",
            "hint": "give the file of the weights",
        },
        "seconds": bad["seconds"],
    }
    assert (good["source"]["path"], good["ledger"]["used"], good["target"]["would_be"]) == (
        "a.pth",
        91,
        "out/a.weights.h5",
    )
    assert not (desk / "out").exists()


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (
            "a.pth sub/a.pt --out-dir out",
            "a.pth and sub/a.pt would both be written as out/a.weights.h5\n  convert one of them by itself, with --out",
        ),
        ("a.pth c.pth --out out.h5", "--out out.h5: 2 files cannot be one\n  name a folder: --out-dir DIR"),
        (
            "a.pth --out out.h5 --out-dir out",
            "--out out.h5: says the folder and the ending already\n  leave out --out, or --out-dir and --ending",
        ),
        (
            "a.pth --ending onxx --dst onnx",
            "--ending onxx: onnx does not come as .onxx\n  did you mean .onnx? known: .onnx",
        ),
        (
            "a.pth --out -",
            (
                "--out -: only a text can go to stdout\n"
                "  name a file; without --out its name is that of the checkpoint, with another ending"
            ),
        ),
    ],
)
def test_places_that_cannot_be_are_refused_before_anything_is_written(desk, words, printed):
    before = sorted(desk.iterdir())

    done = called("convert", *words.split(), cwd=desk)

    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {printed}\n")
    assert sorted(desk.iterdir()) == before


# -- stdout and silence ------------------------------------------------------------------------------------------------


def test_a_learned_table_goes_to_stdout(tmp_path):
    """The same bytes as in a file; what is said of it goes to stderr."""
    called("learn", SAMPLE, "--force", "--out", "digits.toml", cwd=tmp_path)

    done = called("learn", SAMPLE, "--force", "--out", "-", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (0, (tmp_path / "digits.toml").read_text("utf-8"))
    assert done.stderr.splitlines()[-2] == (
        "stdout: the table of the layout digits; keep it as digits.toml, for --mapping digits.toml"
    )


def test_a_picture_goes_to_stdout(tmp_path):
    called("inspect", SAMPLE, "--evidence-picture", "means.svg", cwd=tmp_path)

    done = called("inspect", SAMPLE, "--evidence-picture", "-", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (0, (tmp_path / "means.svg").read_text("utf-8"))
    assert done.stderr == called("inspect", SAMPLE).stdout


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (
            "learn x.pth --out - --json",
            "--out -: stdout has the object of --json; write to a file: --out FILE",
        ),
        (
            "check x.h5 --report -",
            (
                "--report -: only a text can go to stdout; "
                "name a folder for its four files; --json prints what report.json has"
            ),
        ),
        (
            "check x.h5 --save-reference -",
            "--save-reference -: only a text can go to stdout; write to a file: --save-reference reference.npz",
        ),
        (
            "record m:f --weights x.pth --out -",
            "--out -: only a text can go to stdout; write to a file: --out reference.npz",
        ),
    ],
)
def test_stdout_takes_one_text(words, printed):
    """Arrays, folders and a second text are refused with the next step, before any work."""
    done = called(*words.split())

    error = json.loads(done.stdout)["error"] if "--json" in words else None
    text = f"{error['message']}; {error['hint']}" if error else "; ".join(done.stderr[7:-1].split("\n  "))
    assert (done.returncode, text) == (2, printed)


def test_quiet_says_what_is_assumed_and_no_more(tmp_path):
    """An assumption is always told, on stderr; whatever else goes well is not."""
    converted = called("convert", SAMPLE, "--out", "digits.h5", "-q", cwd=tmp_path)
    verified = called("verify", "digits.h5", "--quiet", cwd=tmp_path)
    differing = called("diff", "digits.h5", SAMPLE, "-q", cwd=tmp_path)
    failed = called("verify", SAMPLE, "-q")

    assert converted == (0, "", f"{SAMPLE}: {ASSUMED}\n")
    assert (verified, differing) == ((0, "", ""), (0, "", ""))
    assert failed.stderr.startswith(f"error: {SAMPLE}: carries no digests\n")


def test_quiet_leaves_the_object_for_scripts():
    done = called("convert", SAMPLE, "--dry-run", "--quiet", "--json")

    assert (json.loads(done.stdout)["schema"], done.stderr) == ("densenet-port/convert/1", "")
