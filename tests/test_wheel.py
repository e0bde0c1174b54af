"""The built wheel alone, in an environment with the core dependencies and no framework."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CALLER = Path(__file__).parent / "data" / "whole_api.py"


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """A fresh environment with the built wheel and the core dependencies alone; not from this source tree."""
    folder = tmp_path_factory.mktemp("bare")
    root = Path(__file__).parents[1]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, root], check=True, timeout=300)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, *pip[1:], "install", next(folder.glob("*.whl"))], check=True, timeout=300)
    return python


def test_a_wheel_in_an_empty_environment_converts(bare, small, tmp_path):
    """Tables and sample travel in the wheel; no framework is there, and none is missed."""
    call = [bare, "-m", "densenet_port"]
    done = subprocess.run(
        [*call, "convert", small, "--out", "o.weights.h5", "--json"], capture_output=True, cwd=tmp_path, check=False
    )
    demo = subprocess.run([*call, "demo", "--json"], capture_output=True, cwd=tmp_path, check=False)
    doctor = subprocess.run([*call, "doctor", "--json"], capture_output=True, cwd=tmp_path, check=True)

    told = json.loads(doctor.stdout)
    assert (done.returncode, demo.returncode, (tmp_path / "o.weights.h5").exists()) == (0, 0, True)
    assert {version for extra in told["extras"].values() for version in extra.values()} == {None}
    assert "site-packages" in told["mappings"]


def test_the_whole_api_is_typed(bare, tmp_path):
    """Mypy, strict, on a file outside of the package that uses all of it, against the wheel alone."""
    caller = shutil.copy(CALLER, tmp_path)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", bare, caller]

    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    assert (done.returncode, done.stdout) == (0, "Success: no issues found in 1 source file\n"), done.stdout
