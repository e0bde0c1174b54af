"""Optional packages: what the package knows of them agrees with `pyproject.toml`, and each software has its runner."""

import re
import tomllib
from pathlib import Path

import pytest

from densenet_port.extras import EXTRAS, SOFTWARE
from densenet_port.prove.runners import runner

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED = {
    extra: {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}
    for extra, requirements in PROJECT["optional-dependencies"].items()
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_what_it_is_for(extra):
    """As it is declared."""
    assert set(EXTRAS[extra]) <= DECLARED[extra]


@pytest.mark.parametrize("name", SOFTWARE)
def test_each_software_has_a_runner_and_its_packages_an_extra(name):
    """So that a package that is missing can be named with what to install."""
    software = SOFTWARE[name]

    assert callable(runner(name))
    assert set(software.packages) <= set().union(*EXTRAS.values())
