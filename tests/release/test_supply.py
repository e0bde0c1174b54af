"""What a release of the package is made of: the same bytes from any clone, by what is pinned by digest."""

import hashlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.support.releases import FIRST, SPECS, content

ROOT = Path(__file__).parents[2]
LOCKS, RELEASE = ROOT / ".github" / "locks", ROOT / ".github" / "workflows" / "release.yml"
HERE = {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1"}
THERE = {"TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2"}
BUILT = """
import sys
from pathlib import Path
from tests.support.releases import SPECS, built
built(Path(sys.argv[1]), [Path(sys.argv[2])], SPECS[0], out="again")
"""


def distributions(place, around, mask):
    """Name → digest of sdist and wheel, built from a clone in another folder."""
    subprocess.run(["git", "clone", "--quiet", ROOT, place], check=True, umask=mask)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", **around}
    command = [sys.executable, "-m", "hatchling", "build"]
    subprocess.run(command, cwd=place, env=environment, check=True, capture_output=True, umask=mask)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (place / "dist").iterdir()}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no clone, from which clones could be made")
def test_two_clones_give_the_same_sdist_and_wheel(tmp_path):
    """In folders, time zones, locales and with hash seeds and umasks of their own."""
    one = distributions(tmp_path / "one", HERE, 0o022)
    other = distributions(tmp_path / "the other, ü", THERE, 0o077)

    assert (one, sorted(name.rpartition("-")[2].partition(".")[2] for name in one)) == (other, ["1.0.tar.gz", "whl"])


def test_weights_are_released_as_the_same_bytes_in_other_surroundings(release, tmp_path):
    """Another process, folder, time zone, locale and hash seed; weights, figures, pages, golden files."""
    source = tmp_path / "elsewhere.pth"
    checkpoint = next(path for path in release.parent.glob("*.pth") if SPECS[0] in path.name)
    source.write_bytes(checkpoint.read_bytes())

    environment = {**os.environ, "PYTHONPATH": str(ROOT), **THERE}
    subprocess.run([sys.executable, "-c", BUILT, tmp_path, source], cwd=tmp_path, env=environment, check=True)

    again, before = content(tmp_path / "again"), content(release)
    once = {"manifest.json", "SHA256SUMS", "RELEASE_NOTES.md"}  # they tell of all networks
    assert {name: again[name] for name in again if name not in once} == {
        name: before[name] for name in before if FIRST in name
    }


@pytest.mark.parametrize("lock", ["build", "core", "sbom"])
def test_every_requirement_is_pinned_by_digest(lock):
    """Name, version and SHA-256 of each file; of no index of somebody's own."""
    text = (LOCKS / f"{lock}.txt").read_text().replace("\\\n", "")

    assert [
        line for line in text.splitlines() if not re.fullmatch(r"[\w.-]+==\S+( +--hash=sha256:[0-9a-f]{64})+", line)
    ] == []


def test_the_locks_have_what_the_project_asks_for():
    """Every core dependency, and what builds it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = {"core": project["project"]["dependencies"], "build": project["build-system"]["requires"]}

    for lock, requirements in asked.items():
        pinned = re.findall(r"^([\w.-]+)==", (LOCKS / f"{lock}.txt").read_text(), re.MULTILINE)
        assert {re.match(r"[\w.-]+", requirement)[0] for requirement in requirements} <= set(pinned)


def test_the_workflow_runs_what_is_pinned_and_may_no_more_than_it_needs():
    """Actions by commit; nothing by itself, one right a job that has any."""
    workflow = yaml.safe_load(RELEASE.read_text())
    uses = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]

    assert [action for action in uses if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action)] == []
    assert (workflow["permissions"], {name: job["permissions"] for name, job in workflow["jobs"].items()}) == (
        {},
        {
            "build": {"contents": "read"},
            "attest": {"id-token": "write", "attestations": "write"},
            "draft": {"contents": "write"},
        },
    )
