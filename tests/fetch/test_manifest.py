"""A release's manifest: it comes back as written, and one that says what it must not is refused where it says so."""

import hashlib
import json
from dataclasses import fields
from pathlib import Path

import pytest

from densenet_port.errors import CorruptError, DiskError
from densenet_port.fetch import manifest
from densenet_port.fetch.manifest import Document, File, Manifest

DIGEST = "ab" * 32
FILE = File(
    name="densenet121-torchvision.weights.h5",
    size=9,
    sha256=DIGEST,
    network="densenet121-torchvision",
    arch="121",
    top=True,
    container=".weights.h5",
    layout="keras",
    architecture={"layers": [6, 12, 24, 16]},
    contract={"epsilon": 1e-5},
    source={"layout": "torchvision", "url": None, "sha256": DIGEST, "licence": None},
    mappings={"torchvision": DIGEST},
    tensors={"stem_conv/kernel": DIGEST},
    parity={"passed": True},
    golden="densenet121-torchvision.golden.npz",
)
GOLDEN = Document(name="densenet121-torchvision.golden.npz", size=3, sha256=DIGEST)
MANIFEST = Manifest(
    tag="v1", tool="densenet-port 0.1.0", files=(FILE,), documents=(GOLDEN,), defaults={"121": FILE.name}
)


def test_a_manifest_comes_back_as_written(tmp_path):
    """Every value survives the file."""
    path = tmp_path / "manifest.json"
    path.write_bytes(MANIFEST.to_bytes())

    assert manifest.read(path) == MANIFEST


def test_keys_that_a_later_release_adds_are_ignored():
    """A manifest may say more than this version knows."""
    content = json.loads(MANIFEST.to_bytes())
    content["later"] = content["files"][0]["later"] = 1

    assert manifest.parsed(json.dumps(content).encode(), "m") == MANIFEST


def test_digests_of_pieces_in_an_old_manifest_are_ignored():
    """Earlier manifests have them; whatever they say, the whole digest counts."""
    content = json.loads(MANIFEST.to_bytes())
    content["files"][0] |= {"chunk_size": 4, "chunks": ["x", "y"]}

    assert manifest.parsed(json.dumps(content).encode(), "m") == MANIFEST


def test_a_missing_manifest_is_said(tmp_path):
    """The way out is named."""
    with pytest.raises(DiskError, match=r"manifest\.json: cannot be read: No such file"):
        manifest.read(tmp_path / "manifest.json")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("schema",), "densenet-port/release/2", "m: schema: expected densenet-port/release/1, found densenet-port/r"),
        (("tag",), 1, "m: tag: expected a string, found 1"),
        (("files",), {}, "m: files: expected a list, found {}"),
        (("files", 0), "x", "m: files[0]: expected an object, found 'x'"),
        (("files", 0, "name"), "../../etc/passwd", "m: files[0].name: expected letters, digits, '.', '_' and '-', fo"),
        (("files", 0, "name"), ".hidden", "m: files[0].name: expected letters, digits"),
        (("files", 0, "name"), "manifest.json", "m: files: expected every file once, found manifest.json twice"),
        (("files", 0, "size"), -1, "m: files[0].size: expected at least 0, found -1"),
        (("files", 0, "size"), True, "m: files[0].size: expected an integer, found True"),
        (("files", 0, "sha256"), "AB" * 32, "m: files[0].sha256: expected 64 hex digits"),
        (
            ("files", 0, "tensors", "stem_conv/kernel"),
            1,
            "m: files[0].tensors.stem_conv/kernel: expected a string, found 1",
        ),
        (("files", 0, "golden"), "other.npz", "m: documents: expected an entry for other.npz, found none"),
        (("documents", 0, "name"), FILE.name, "m: files: expected every file once, found densenet121-torchvision.wei"),
        (("defaults", "121"), "other.h5", "m: defaults: expected a file of architecture 121, found other.h5"),
        (("defaults", "169"), FILE.name, "m: defaults: expected a file of architecture 169, found densenet121"),
    ],
)
def test_what_a_manifest_must_not_say_is_refused(place, value, message):
    """The place, what was expected, and what was found."""
    content = json.loads(MANIFEST.to_bytes())
    *path, last = place
    inner = content
    for key in path:
        inner = inner[key]
    inner[last] = value

    with pytest.raises(CorruptError) as caught:
        manifest.parsed(json.dumps(content).encode(), "m")

    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("data", [b"", b"<html>", b"\xff\xfe", b"[" * 100_000, b"{}" + b" " * manifest.LIMIT])
def test_what_is_no_json_is_refused(data):
    """Web pages, other encodings, towers of brackets and floods."""
    with pytest.raises(CorruptError, match="m: is no manifest of a release"):
        manifest.parsed(data, "m")


def test_a_manifest_of_millions_of_values_is_refused():
    """Each would take some hundred bytes of memory."""
    with pytest.raises(CorruptError, match="m: is a JSON text of more than 524288 values"):
        manifest.parsed(b"[" + b"{}," * 2**19 + b"1]", "m")


def test_a_missing_key_is_named():
    """Nothing is guessed."""
    content = json.loads(MANIFEST.to_bytes())
    del content["files"][0]["sha256"]

    with pytest.raises(CorruptError, match=r"m: missing key 'files\[0\].sha256'"):
        manifest.parsed(json.dumps(content).encode(), "m")


def test_a_document_is_what_lies_there(tmp_path):
    """Name, bytes and SHA-256."""
    (tmp_path / "f").write_bytes(b"0123456789")

    document = manifest.document(tmp_path / "f")

    assert document == Document(name="f", size=10, sha256=hashlib.sha256(b"0123456789").hexdigest())


def test_the_document_tells_every_key():
    """What a manifest may say stands in docs/release.md."""
    text = (Path(__file__).parents[2] / "docs" / "release.md").read_text(encoding="utf-8")
    keys = {entry.name for kind in (Manifest, File, Document) for entry in fields(kind)}

    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []
