"""Building a release: what passed is laid out, byte for byte the same every time, and nothing is built twice."""

import json
import shutil
import subprocess
from dataclasses import replace
from functools import partial

import pytest

from densenet_port.conversion import convert
from densenet_port.conversion.load import read
from densenet_port.errors import DiskError, MisfitError, UsageError
from densenet_port.fetch import manifest
from densenet_port.fetch.partial import digests_of
from densenet_port.fetch.registry import Registered
from densenet_port.network.architecture import NAMED
from densenet_port.network.units import Slot
from densenet_port.prove import images as probes
from densenet_port.prove import parity
from densenet_port.prove.recording import Settings, plan
from densenet_port.release import build as building
from densenet_port.release import network as networks
from tests.support.networks import checkpoint_file
from tests.support.ports import weights_of, written
from tests.support.releases import FIRST, QUICK, SECOND, SPECS, built, content, copied, sources

FILES = (".weights.h5", ".safetensors", "-notop.weights.h5", "-notop.safetensors")
DOCUMENTS = (".golden.npz", ".card.md", ".parity.json", ".parity.html", ".parity.md", ".parity.xml")


@pytest.fixture(scope="module")
def place(release):
    """The folder in which the release lies, beside the checkpoints that it was made from."""
    return release.parent


@pytest.fixture
def index(release):
    """What its manifest says."""
    return manifest.read(release / "manifest.json")


def test_a_release_has_every_file_once(release):
    """Weights with and without the head in two containers, evidence, and what stands once."""
    expected = {f"{network}{ending}" for network in (FIRST, SECOND) for ending in (*FILES, *DOCUMENTS)}

    names = {path.name for path in release.iterdir() if not path.name.startswith(".")}
    assert names == expected | {"manifest.json", "SHA256SUMS", "RELEASE_NOTES.md"}


def test_sha256sum_accepts_the_sums(release):
    """Every file but the sums themselves, as coreutils reads them."""
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=release, capture_output=True, check=True
    )

    assert len(done.stdout.splitlines()) == 2 * (len(FILES) + len(DOCUMENTS)) + 2


def test_the_manifest_tells_every_file_as_it_is(release, index):
    """Sizes and digests are those of the bytes."""
    assert [manifest.document(release / entry.name) for entry in index.entries()] == list(index.entries())


def test_the_manifest_repeats_what_a_file_says_of_itself(release, index):
    """Architecture, contract, tables and digests are the file's own; the source has two facts more."""
    for file in index.files:
        own = convert.verify(release / file.name).record
        repeated = {key: getattr(file, key) for key in ("layout", "architecture", "contract", "mappings", "tensors")}
        assert (repeated | {"source": {**own["source"], "url": None, "licence": None}}).items() <= {
            **own,
            "source": file.source,
        }.items()


def test_the_default_is_the_keras_file_with_its_head(index):
    """`weights="imagenet"` finds one file an architecture."""
    assert index.defaults == {SPECS[0]: f"{FIRST}.weights.h5", SPECS[1]: f"{SECOND}.weights.h5"}


def test_files_without_a_head_hold_the_other_s_tensors(index):
    """What was measured on the one holds for all; only the whole network's logits can be replayed."""
    whole, _, bare, _ = index.files[:4]

    assert set(whole.tensors.items()) - set(bare.tensors.items()) == {
        (name, whole.tensors[name]) for name in ("head_dense/kernel", "head_dense/bias")
    }
    assert [file.golden for file in index.files[:4]] == [f"{FIRST}.golden.npz"] * 2 + [None] * 2
    assert bare.parity == whole.parity


def test_golden_logits_replay(release):
    """The reference's logits and a few activations are in the golden file, and the port's are the same."""
    checks = parity.replay(release / f"{FIRST}.weights.h5", release / f"{FIRST}.golden.npz")

    assert ([check.passed for check in checks], {check.name.split(",")[0] for check in checks}) == (
        [True] * len(checks),
        {"golden logits", "golden activations"},
    )


def test_the_frameworks_of_a_check_run_on_one_thread(release):
    """On another number of threads they round in another order, and the reports would be other bytes."""
    port = read(release / f"{FIRST}.weights.h5")
    images = probes.make_probes(port, (), 2, None, 0)

    planned = plan(port, "keras", images, Settings(threads=networks.Options().threads))

    assert {job.threads for jobs in planned.jobs.values() for job in jobs} == {1}


def test_nothing_tells_a_path(place, release):
    """A release is the same wherever it is built; how long it took stands nowhere."""
    assert [
        path.name for path in release.iterdir() if path.is_file() and str(place).encode() in path.read_bytes()
    ] == []
    assert json.loads((release / f"{FIRST}.parity.json").read_text())["seconds"] == 0


def test_what_was_built_from_the_same_inputs_is_kept(place, release, tmp_path, monkeypatch):
    """Neither converted nor checked again; another tag is another manifest only."""
    monkeypatch.setattr(building, "convert_and_check", None)
    shutil.copytree(release, tmp_path / "release")

    done = built(tmp_path, sources(place, *SPECS), *SPECS, tag="v2")

    assert [network.kept for network in done.networks] == [True, True]
    assert manifest.read(tmp_path / "release" / "manifest.json").tag == "v2"


@pytest.mark.parametrize("change", ["file", "missing", "record", "options", "table", "tool", "source"])
def test_what_changed_is_built_again(change, place, release, tmp_path, monkeypatch):
    """A damaged or missing file, a broken record, other options, tables, tool or source."""
    shutil.copytree(release, tmp_path / "release")
    weights, record = (tmp_path / "release" / name for name in (f"{FIRST}.weights.h5", f".build/{FIRST}.json"))
    spec, paths, asked, more = SPECS[0], sources(place, SPECS[0]), [], {}
    match change:
        case "file":
            weights.write_bytes(weights.read_bytes()[:-1] + b"?")
        case "missing":
            weights.unlink()
        case "record":
            record.write_text("{")
        case "options":
            more["options"] = networks.Options(backend="numpy", sizes=(65,))
        case "table":
            record.write_text(record.read_text().replace(building.Table.load("keras").digest, "00" * 32))
        case "tool":
            monkeypatch.setattr(building, "TOOL", "densenet-port 0.0.9")
        case "source":
            paths = [checkpoint_file(tmp_path, spec, "zip", seed=1)]
    monkeypatch.setattr(
        building, "convert_and_check", lambda source, *_: asked.append(source.network) or _failed(source)
    )

    built(tmp_path, paths, spec, **more)

    assert asked == [FIRST]


def _failed(source):
    return networks.BuiltNetwork(name=source.network, arch=source.architecture.name, failed=("a check",))


def test_a_network_that_fails_its_check_is_not_in_the_release(place, release, tmp_path, monkeypatch):
    """The others are; its report stays in the workspace."""
    plain = networks.convert

    def mistaken(path, *, out, **more):
        done = plain(path, out=out, **more)
        network = read(out)
        if FIRST in out.name and network.architecture.classes:
            weights = weights_of(network)
            weights[Slot("transition1.conv", "kernel")] *= -1
            written(network, weights, network.contract, out)
        return done

    monkeypatch.setattr(networks, "convert", mistaken)
    monkeypatch.setattr(networks, "verify", lambda _path: None)
    copy = copied(release, tmp_path)
    (copy / ".build" / f"{FIRST}.json").unlink()

    done = built(tmp_path, sources(place, *SPECS), *SPECS, out="copy")

    failed, passed = done.networks
    assert (done.passed, passed.passed, failed.failed[0]) == (False, True, "written tensors, in ULP of the exact ones")
    assert json.loads((failed.report / f"{FIRST}.parity.json").read_text())["where"] == "transition1.conv"
    assert {file.network for file in manifest.read(copy / "manifest.json").files} == {SECOND}


def test_a_network_that_nothing_independent_proves_is_not_in_the_release(place, tmp_path, monkeypatch):
    """Its numbers agree, and that is not enough."""
    plain = parity.check
    monkeypatch.setattr(parity, "check", lambda *a, **k: replace(plain(*a, **k), independent=False))

    done = built(tmp_path, sources(place, SPECS[0]), SPECS[0])

    assert (done.passed, done.manifest, done.networks[0].failed) == (
        False,
        None,
        ("the verdict is 'agrees': a release takes 'proven' alone",),
    )


def test_a_network_that_fails_later_leaves_the_release(place, release, tmp_path, monkeypatch):
    """Its old files go; without any network there is no release."""
    copy = copied(release, tmp_path)
    (copy / "manifest.json.sig").write_text("a signature")
    monkeypatch.setattr(building, "convert_and_check", lambda source, *_: _failed(source))
    options = networks.Options(backend="numpy", sizes=(65,))

    done = built(tmp_path, sources(place, *SPECS), *SPECS, out="copy", options=options)

    assert (done.manifest, [path.name for path in copy.iterdir()]) == (None, [".build"])


def test_a_signature_lasts_as_long_as_its_manifest(place, release, tmp_path):
    """The same manifest keeps it, another one removes it."""
    copy = copied(release, tmp_path)
    signature = copy / "manifest.json.sig"
    signature.write_text("a signature")

    built(tmp_path, sources(place, *SPECS), *SPECS, out="copy")
    kept = signature.exists()
    built(tmp_path, sources(place, *SPECS), *SPECS, out="copy", tag="v2")

    assert (kept, signature.exists()) == (True, False)


@pytest.mark.parametrize("step", range(1, 6))
def test_a_build_that_was_cut_short_goes_on(step, place, release, tmp_path, monkeypatch):
    """Cut short before anything of its own writing (two records, notes, manifest, sums), it ends the same."""
    plain, steps = building.write_text, []

    def crashing(path, text):
        steps.append(path.name)
        if len(steps) == step:
            raise KeyboardInterrupt
        return plain(path, text)

    monkeypatch.setattr(building, "convert_and_check", partial(_made_before, release))
    monkeypatch.setattr(building, "write_text", crashing)
    with pytest.raises(KeyboardInterrupt):
        built(tmp_path, sources(place, *SPECS), *SPECS)
    monkeypatch.setattr(building, "write_text", plain)

    done = built(tmp_path, sources(place, *SPECS), *SPECS)

    assert [network.kept for network in done.networks] == [step > 1, step > 2]
    assert content(tmp_path / "release") == content(release)


def _made_before(release, source, work, _options, _limit):
    """The files of a network as another build made them."""
    index = manifest.read(release / ".build" / f"{source.network}.json")
    for entry in index.entries():
        shutil.copy(release / entry.name, work)
    return networks.BuiltNetwork(
        name=source.network, arch=source.architecture.name, files=index.files, documents=index.documents
    )


@pytest.mark.parametrize("by", ["sha256", "md5"])
def test_the_registered_source_has_url_and_licence(monkeypatch, place, by):
    """They are said of the very file that is registered, by whatever digest, and of no other."""
    (path,) = sources(place, SPECS[0])
    digests, url = digests_of(path, with_md5=True), "https://example.org/densenet.pth"
    entry = Registered(url=url, **{by: {"sha256": digests.sha256[:8], "md5": digests.md5}[by]})
    arch = building.Architecture.named(SPECS[0])
    monkeypatch.setattr(building, "registry", lambda: {("torchvision", arch.name): entry})

    known = building._source("torchvision", arch, path, None)
    other = building._source("torchvision", arch, checkpoint_file(place, SPECS[0], "zip", seed=1), "CC0-1.0")

    assert (known.url, "ImageNet" in known.licence) == (url, True)
    assert (other.url, other.licence) == (None, "CC0-1.0")
    assert not building._is_registered(Registered(url=url), path)  # a digest that nobody knows is no digest that fits


def test_a_network_with_other_classes_is_no_default(release, index):
    """`weights="imagenet"` never means a network whose head was replaced."""
    file = index.files[0]
    numbers = NAMED["121"].to_json()
    kinds = [{"classes": 1000}, {"classes": 7}, {"classes": None}, {"channels": 1}]

    standard = [building._is_standard(replace(file, arch="121", architecture={**numbers, **kind})) for kind in kinds]

    assert standard == [True, False, False, False]


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"checkpoints": ["a.pth", "b.pth"]}, UsageError, "1 architectures and 2 checkpoints"),
        ({"archs": []}, UsageError, "at least one architecture"),
        ({"archs": [NAMED["121"], NAMED["121"]]}, UsageError, "each once"),
        ({"tag": "../v1"}, UsageError, "cannot be a release's tag"),
        ({"tag": "v1."}, UsageError, "cannot be a release's tag"),
        ({"tag": ""}, UsageError, "cannot be a release's tag"),
        ({"archs": [NAMED["264"]]}, UsageError, "no weight file is registered for torchvision 264"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(more, error, message, tmp_path):
    """Before any work."""
    with pytest.raises(error, match=message):
        building.build(tmp_path, **{"src": "torchvision", "archs": [NAMED["121"]], "options": QUICK, **more})


def test_a_checkpoint_of_another_architecture_is_refused(place, tmp_path):
    """A pair in the wrong order is no release."""
    with pytest.raises(MisfitError, match=r"does not fit --arch|misfits"):
        built(tmp_path, sources(place, SPECS[1]), SPECS[0])


def test_a_folder_that_cannot_be_made_is_said(place, tmp_path):
    """The disk's word."""
    (tmp_path / "release").write_text("in the way")

    with pytest.raises(DiskError, match="cannot be made"):
        built(tmp_path, sources(place, SPECS[0]), SPECS[0])
