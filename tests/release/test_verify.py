"""Verifying a release: what is whole passes, and whatever was tampered with is found and named."""

import json
import sys
from dataclasses import asdict

import numpy as np
import pytest

from densenet_port.conversion.load import read
from densenet_port.errors import CorruptError, DiskError, UsageError
from densenet_port.fetch import manifest
from densenet_port.network.units import Slot
from densenet_port.release import build as building
from densenet_port.release import sign as signing
from densenet_port.release.sign import check_signature, sign
from densenet_port.release.verify import verify_folder
from tests.support.ports import weights_of, written
from tests.support.releases import FIRST, SECOND, copied

WEIGHTS = f"{FIRST}.weights.h5"
GOLDEN = f"{FIRST}.golden.npz"


@pytest.fixture
def copy(release, tmp_path):
    """A release that the test may damage."""
    return copied(release, tmp_path)


def failed(folder, **more):
    """Name → what is said of each check that fails."""
    return {check.name: check.detail for check in verify_folder(folder, **more).checks if not check.passed}


def damaged(path, at=-1):
    """One bit of a file turned around."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def rewritten(folder, change):
    """The manifest with one of its values changed, and the sums made to agree with it."""
    content = json.loads((folder / "manifest.json").read_bytes())
    change(content)
    building.write_manifest(manifest.parsed(json.dumps(content).encode(), "m"), folder)


def test_a_release_passes(release):
    """Every file, the sums, every tensor of every weight file, and the logits of every network."""
    verdict = verify_folder(release)

    names = [check.name for check in verdict.checks]
    assert (verdict.passed, len([name for name in names if name.endswith(", tensors")])) == (True, 8)
    assert {name.split(",")[0] for name in names if "golden logits" in name} == {WEIGHTS, f"{SECOND}.weights.h5"}
    assert verdict.notes == ("the release is not signed",)


def test_a_stranger_is_told(copy):
    """A file that the manifest does not know is no part of the release, and no harm."""
    (copy / "more.txt").write_text("more")

    assert verify_folder(copy).notes[0] == "not part of the release: more.txt"


@pytest.mark.parametrize(
    "name", [WEIGHTS, f"{SECOND}-notop.safetensors", GOLDEN, f"{FIRST}.card.md", "RELEASE_NOTES.md"]
)
def test_a_turned_bit_is_found(name, copy):
    """In weights, golden logits and documents, by the file's digest."""
    damaged(copy / name)

    failures = failed(copy)

    assert (list(failures), failures[name].startswith("expected SHA-256 ")) == ([name], True)


def test_a_missing_file_is_found(copy):
    """It is named, and the others are judged."""
    (copy / WEIGHTS).unlink()

    assert failed(copy) == {WEIGHTS: f"{copy / WEIGHTS}: cannot be read: No such file or directory"}


def test_a_shortened_file_is_found(copy):
    """By its size."""
    path = copy / WEIGHTS
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-5])

    assert failed(copy) == {WEIGHTS: f"expected {size} bytes, found {size - 5}"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace(text[:64], "0" * 64, 1), "other than the manifest: RELEASE_NOTES.md"),
        (
            lambda text: text.replace("  manifest.json", "  other.json"),
            "other than the manifest: manifest.json, other.js",
        ),
        (lambda text: "".join(text.splitlines(keepends=True)[1:]), "other than the manifest: RELEASE_NOTES.md"),
        (lambda text: text + text.splitlines()[0] + "\n", "other than the manifest: a name twice"),
        (lambda text: text + "nonsense\n", "is no sum"),
    ],
    ids=["digest", "name", "missing", "twice", "nonsense"],
)
def test_tampered_sums_are_found(change, says, copy):
    """Sums that do not say what the manifest says."""
    path = copy / "SHA256SUMS"
    path.write_text(change(path.read_text()))

    failures = failed(copy)

    assert (list(failures), says in failures["SHA256SUMS"]) == (["SHA256SUMS"], True)


def test_missing_sums_are_found(copy):
    """A release without sums is not whole."""
    (copy / "SHA256SUMS").unlink()

    assert list(failed(copy)) == ["SHA256SUMS"]


def test_a_changed_manifest_is_found_by_the_sums(copy):
    """Whatever was changed in it."""
    path = copy / "manifest.json"
    path.write_text(path.read_text().replace('"tag": "v', '"tag": "w'))

    assert failed(copy) == {"SHA256SUMS": "other than the manifest: manifest.json"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda file: file["contract"].update(epsilon=1e-3), "do not have the same contract"),
        (lambda file: file["architecture"].update(growth_rate=5), "do not have the same architecture"),
        (lambda file: file["mappings"].update(keras="0" * 64), "do not have the same mappings"),
        (lambda file: file["tensors"].popitem(), "do not have the same tensors"),
        (lambda file: file["source"].update(sha256="0" * 64), "do not have the same source"),
        (lambda file: file["parity"].update(passed=False), "graded 'proven', passed False"),
        (
            lambda file: file["parity"].update(grade="agrees"),
            "graded 'agrees', passed True: a release takes 'proven' alone",
        ),
        (lambda file: file["parity"].pop("grade"), "graded 'none', passed True"),
        (lambda file: file["parity"]["reference"].update(read_by="table"), "no independent reference"),
    ],
)
def test_a_manifest_that_tells_another_file_is_found(change, says, copy):
    """Even where the sums were made to agree with it: the files say of themselves what they are."""
    rewritten(copy, lambda content: change(content["files"][0]))

    failures = failed(copy)

    assert (list(failures), says in failures[f"{WEIGHTS}, tensors"]) == ([f"{WEIGHTS}, tensors"], True)


def test_a_manifest_without_files_is_no_release(copy):
    """Nothing to find fault with is no proof."""
    rewritten(copy, lambda content: content.update(files=[], defaults={}))

    assert failed(copy) == {"manifest.json": "lists no weight file"}


def test_other_weights_with_digests_to_match_are_found_by_the_logits(copy):
    """A forger who changes a tensor and every digest does not know the reference's logits."""
    network = read(copy / WEIGHTS)
    weights = weights_of(network)
    weights[Slot("block1.layer1.conv1", "kernel")] *= np.float32(1.0001)
    forged = _forged(network, weights, copy / WEIGHTS)

    def change(content):
        content["files"][0].update(asdict(manifest.document(copy / WEIGHTS)), tensors=forged)

    rewritten(copy, change)

    assert {name.split(", ", 1)[1].split(",")[0] for name in failed(copy)} == {"golden logits", "golden activations"}


def _forged(network, weights, path):
    """Write weights with the digests of their own, as the converter would; give the digests."""
    digests: dict[str, str] = written(network, weights, network.contract, path).checkpoint.record["tensors"]
    return digests


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"{}", CorruptError), (b"<html>", CorruptError), (None, DiskError)],
    ids=["empty", "web page", "missing"],
)
def test_without_a_manifest_there_is_nothing_to_verify(content, error, copy):
    """An error of its own kind."""
    path = copy / "manifest.json"
    path.unlink() if content is None else path.write_bytes(content)

    with pytest.raises(error, match="manifest"):
        verify_folder(copy)


# -- signatures --------------------------------------------------------------------------------------------------------


def test_a_signature_is_checked_with_the_public_key(copy, keys):
    """What was signed with the one is known by the other."""
    private, public, *_ = keys
    sign(copy / "manifest.json", private)

    verdict = verify_folder(copy, key=public)

    assert (verdict.passed, verdict.checks[0].detail) == (True, "signs the manifest, by the key ours.pub")


def test_a_signature_that_nobody_asked_for_is_told(copy, keys):
    """Without a key it proves nothing."""
    sign(copy / "manifest.json", keys[0])

    assert verify_folder(copy).notes == ("manifest.json.sig was not checked: no key was given",)


def test_a_forged_manifest_does_not_pass_its_signature(copy, keys):
    """Even with sums that agree."""
    private, public, *_ = keys
    sign(copy / "manifest.json", private)
    signature = (copy / "manifest.json.sig").read_bytes()
    rewritten(copy, lambda content: content.update(tag="v2"))
    (copy / "manifest.json.sig").write_bytes(signature)

    failures = failed(copy, key=public)

    assert list(failures) == ["manifest.json.sig"]
    assert "does not sign manifest.json" in failures["manifest.json.sig"]


@pytest.mark.parametrize("fault", ["another key", "nonsense", "empty", "bit", "missing"])
def test_a_signature_that_is_none_is_found(fault, copy, keys):
    """By another key, of nonsense, damaged, or not there."""
    private, public, other, _ = keys
    place = sign(copy / "manifest.json", other if fault == "another key" else private)
    match fault:
        case "nonsense":
            place.write_text("nonsense")
        case "empty":
            place.write_text("{}")
        case "bit":
            bundle = json.loads(place.read_text())
            bundle["dsseEnvelope"]["signatures"][0]["sig"] = bundle["dsseEnvelope"]["signatures"][0]["sig"][::-1]
            place.write_text(json.dumps(bundle))
        case "missing":
            place.unlink()

    assert list(failed(copy, key=public)) == ["manifest.json.sig"]


def test_a_key_that_is_none_is_said(copy, keys, tmp_path):
    """Of the wrong kind, or nothing that was ever a key; and nothing is left of the attempt."""
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    place = sign(copy / "manifest.json", keys[0])

    with pytest.raises(UsageError, match=r"nonsense\.pem: no public key that can be used"):
        check_signature(copy / "manifest.json", place, nonsense)
    place.unlink()
    with pytest.raises(UsageError, match=r"nonsense\.pem: cannot sign"):
        sign(copy / "manifest.json", nonsense)
    assert [path.name for path in copy.iterdir() if "sig" in path.name] == []


def test_without_model_signing_the_way_to_it_is_said(copy, keys, monkeypatch):
    """It is optional, for signing and for checking."""
    monkeypatch.setitem(sys.modules, "model_signing", None)
    monkeypatch.setitem(sys.modules, "model_signing.signing", None)

    with pytest.raises(UsageError, match="model_signing.signing cannot be imported") as caught:
        signing.sign(copy / "manifest.json", keys[0])

    assert caught.value.hint == 'pip install "densenet-port[sign]"'
