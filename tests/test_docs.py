"""The documents tell the truth: README's sessions run, links lead somewhere, tables have a script behind them."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from densenet_port.layouts.layout import layouts

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SESSIONS = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("weights/**/*.md")])


def timeless(text):
    """The text without what differs from run to run: seconds, and blanks at the ends of lines."""
    return re.sub(r"\d+\.\d+ s\b", "# s", "\n".join(line.rstrip() for line in text.strip().splitlines()))


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder as a clone's root looks to the commands of README."""
    place = tmp_path_factory.mktemp("desk")
    (place / "weights").symlink_to(ROOT / "weights")
    return place


@pytest.mark.parametrize("session", SESSIONS, ids=range(len(SESSIONS)))
def test_readme_s_sessions_run_as_shown(session, desk):
    """Every command prints what README says it does."""
    for step in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]:
        command, _, shown = step.partition("\n")
        name, *words = shlex.split(command)
        assert name == "densenet-port"
        done = subprocess.run(
            [sys.executable, "-m", "densenet_port", *words], capture_output=True, text=True, cwd=desk, check=False
        )
        assert timeless(done.stdout + done.stderr) == timeless(shown)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    """Every relative link is a file of the repository."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8"))

    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_measured_tables_are_filled_and_have_their_script(document):
    """A table between markers comes from a script that is there, and is not empty."""
    text = document.read_text(encoding="utf-8")

    for name, script, content in re.findall(r"<!-- (\w+): from (\S+) -->\n(.*?)<!-- /\1 -->", text, re.DOTALL):
        assert (ROOT / script).exists(), name
        assert content.count("|") > 10, name


def test_readme_lists_every_layout():
    """A table of `mappings/` that README does not name is not there for its readers."""
    assert [layout for layout in layouts() if f"`{layout}`" not in README] == []
