"""The checker passes what is right, catches what is wrong, and refuses what shows nothing."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.errors import CorruptError, DiskError, MisfitError, PortError, UsageError
from densenet_port.files import resource
from densenet_port.layouts.layout import Layout as Table
from densenet_port.network.numpy import forward
from densenet_port.network.units import Slot
from densenet_port.prove.images import make_probes
from densenet_port.prove.job import PRECISIONS
from densenet_port.prove.parity import check, judge, replay
from densenet_port.prove.recording import Recording, Settings, run_port, run_reference
from tests.conftest import SMALL
from tests.support.networks import checkpoint_file, torchvision_network
from tests.support.ports import recordings, weights_of, written
from tests.support.sweep import WHOLE

SAMPLE = resource("weights") / "sample" / "digits.pth"
SEEDS = 50 if WHOLE else 6


@pytest.fixture(scope="module")
def port(tmp_path_factory, small):
    """A right port of the small network."""
    out = tmp_path_factory.mktemp("port") / "port.weights.h5"
    convert(small, out=out)
    return read(out)


@pytest.fixture(scope="module")
def small(files):
    return files["zip"]


@pytest.fixture(scope="module")
def reference(small):
    """Torch's run of the small network, at an even and an odd size."""
    source = read(small)
    return run_reference(source, make_probes(source, (65,), 2, None, 0))


def by_numpy(port, reference):
    """The port's run in numpy on the reference's images."""
    return run_port(port, reference.probes, Settings(backend="numpy"))


def failed(result):
    return [check.name for check in result.checks if not check.passed]


@pytest.mark.parametrize("backend", ["tensorflow", "torch", "jax", "numpy"])
def test_a_right_port_passes(port, small, backend):
    """The trained sample's little sister, on every backend, photographs included."""
    result = check(port.checkpoint.path, against=small, backend=backend, sizes=(65,))

    exact = [figure.largest for figure in result.figures if figure.precision == "float64"]
    assert (result.passed, failed(result), result.where, result.off) == (True, [], None, None)
    assert (result.proven, result.independent, result.dependence) == (True, True, None)
    assert (len(exact), max(exact) < 1e-12, {figure.top1 for figure in result.figures}) == (3, True, {1.0})
    assert [row.unit for row in result.units] == list(port.architecture.units)
    assert max(max(row.free, row.local) for row in result.units) < 1e-12


def test_a_trained_network_passes(tmp_path):
    """Real weights, not random ones."""
    convert(SAMPLE, out=tmp_path / "digits.weights.h5")

    assert check(tmp_path / "digits.weights.h5", against=SAMPLE, backend="numpy", sizes=(32, 64)).passed


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Six networks, fifty in a sweep, with inputs of their own: ports, sources, and torch's runs."""
    place = tmp_path_factory.mktemp("seeds")
    sources, ports, probes = [], [], []
    for seed in range(SEEDS):
        source = checkpoint_file(place, SMALL, "zip", seed=seed)
        convert(source, out=place / f"{seed}.weights.h5")
        sources.append(read(source))
        ports.append(read(place / f"{seed}.weights.h5"))
        probes.append(make_probes(sources[-1], (), 2, None, 10 * seed)[:1])
    return ports, sources, recordings(sources, probes, "torchvision"), probes


@pytest.mark.parametrize("backend", ["tensorflow", "torch", "numpy"])
def test_a_right_port_never_fails(many, backend):
    """Six times no false alarm, fifty times in a sweep; JAX's fifty are in benchmarks/scripts/noise.py."""
    ports, sources, theirs, probes = many

    network = ("numpy", "tensorflow") if backend == "numpy" else ("keras", backend)
    mine = recordings(ports, probes, *network)

    verdicts = [failed(judge(*four)) for four in zip(ports, sources, theirs, mine, strict=True)]
    assert verdicts == [[]] * SEEDS


def test_an_epsilon_that_float32_cannot_see_is_caught_in_float64(port, reference, small, tmp_path):
    """1.001e-5 for 1e-5: every float32 check passes, the float64 ones do not."""
    wrong = written(port, weights_of(port), replace(port.contract, epsilon=1.001e-5), tmp_path / "w.weights.h5")

    result = judge(wrong, None, reference, by_numpy(wrong, reference))

    assert {check.kind for check in result.checks if not check.passed} == {"float64"}
    assert [finding["mistake"] for finding in result.diagnosis] == ["epsilon"]
    assert read(small).contract.epsilon == 1e-5


def test_a_fault_is_placed_and_its_side_named(port, reference, small, tmp_path):
    """One kernel upside down: the unit, the side, and the mistake."""
    slot = Slot("block2.layer2.conv2", "kernel")
    weights = weights_of(port)
    weights[slot] = weights[slot][::-1, ::-1]
    wrong = written(port, weights, port.contract, tmp_path / "w.weights.h5")

    result = judge(wrong, read(small), reference, by_numpy(wrong, reference))

    assert (result.passed, result.where, result.off) == (False, "block2.layer2.conv2", "port")
    assert [(f["mistake"], f["units"]) for f in result.diagnosis] == [("kernel-flipped", ["block2.layer2.conv2"])]
    before = [row for row in result.units if row.unit.startswith(("stem", "block1"))]
    after = next(row for row in result.units if row.unit == "final.norm")
    assert max(row.free for row in before) < 1e-12
    assert (after.free > 1e-6, after.local < 1e-12) == (True, True)


# -- rounded tensors -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def absorbed(tmp_path_factory):
    """A network of keras.applications' numbers, and its port, whose norms absorbed another epsilon."""
    place = tmp_path_factory.mktemp("absorbed")
    arch = "layers=2-3-2,growth_rate=32,init_channels=64,classes=7"
    source = checkpoint_file(place, arch, "zip")
    convert(source, dst="keras-applications", out=place / "apps.h5")
    return source, place / "apps.h5"


@pytest.fixture(scope="module")
def absorbed_reference(absorbed):
    """Torch's run of the original."""
    network = read(absorbed[0])
    return run_reference(network, make_probes(network, (), 2, None, 0))


def test_a_rounded_port_passes_in_two_steps(absorbed, absorbed_reference):
    """The unrounded mapping meets the float64 bound, and every written tensor is within half an ULP."""
    source, apps = absorbed
    told, side = read(apps), absorbed_reference

    result = judge(told, read(source), side, by_numpy(told, side))

    weights = next(check for check in result.checks if check.kind == "weights")
    assert (failed(result), 0 < weights.measured <= 0.5) == ([], True)


def test_a_tensor_one_ulp_off_is_caught(absorbed, absorbed_reference):
    """Half an ULP is rounding; one is a mistake."""
    source, apps = absorbed
    told = read(apps)
    slot = Slot("final.norm", "shift")
    weights = weights_of(told)
    weights[slot][0] = np.nextafter(weights[slot][0], np.float32(9))
    moved, side = replace(told, weights=weights), absorbed_reference

    result = judge(moved, read(source), side, by_numpy(told, side))

    assert "written tensors, in ULP of the exact ones" in failed(result)


@pytest.fixture(scope="module")
def halved(small, tmp_path_factory):
    """A port in bfloat16, and torch's run of the network before it was halved."""
    out = tmp_path_factory.mktemp("halved") / "port.safetensors"
    convert(small, out=out, dtype="bfloat16")
    return read(out), run_reference(read(small), make_probes(read(small), (), 2, None, 0))


def test_a_port_in_bfloat16_passes_in_two_steps(halved, small):
    """Its tensors are the exact ones, rounded; float32 is held to its own float64 logits."""
    port, side = halved

    result = judge(port, read(small), side, by_numpy(port, side))

    weights, single = (next(c for c in result.checks if c.kind == kind) for kind in ("weights", "float32"))
    assert (failed(result), 0.4 < weights.measured <= 0.5) == ([], True)
    assert single.says == "RMS distance to the port's own float64 logits / deviation"


def test_a_bfloat16_one_step_off_is_caught(halved, small):
    """Half a step is rounding, a whole one is a mistake."""
    port, side = halved
    weights = weights_of(port)
    weights[Slot("final.norm", "shift")][0] *= np.float32(1 + 2**-7)
    moved = replace(port, weights=weights)

    result = judge(moved, read(small), side, by_numpy(moved, side))

    assert "written tensors, in ULP of the exact ones" in failed(result)
    assert any(name.startswith("float64") for name in failed(result))


def test_pools_that_round_odd_sizes_otherwise_are_noted(port, reference):
    """At even sizes the two are one function; where they part, the contracts say why and the units cannot."""
    contract = replace(port.contract, pool_rounding="ceil")
    logits = {
        (precision, probe.name): forward(port.architecture, contract, port.weights, probe.images, dtype=precision)
        for precision in PRECISIONS
        for probe in reference.probes
    }
    other = replace(by_numpy(port, reference), contract=contract, logits=logits)

    result = judge(port, None, reference, other)

    assert "float64, noise 65" in failed(result)
    assert {name[-2:] for name in failed(result)} == {"65"}
    assert "average pools round odd sizes floor in the reference and ceil in the port, by contract" in result.notes
    assert not any("round odd" in note for note in judge(port, None, reference, by_numpy(port, reference)).notes)


# -- evidence --------------------------------------------------------------------------------------------------------


NO_NUMBERS = "the reference gives no numbers: its logits are NaN or infinite"
CONSTANT = "the reference's logits do not depend on the picture, and a constant tells nothing of a network"


def changed(side, change):
    return replace(side, logits={key: change(logits) for key, logits in side.logits.items()})


@pytest.mark.parametrize(
    ("change", "name", "reason"),
    [
        (lambda x: np.where(x == x.max(), np.nan, x), "finite", NO_NUMBERS),
        (lambda x: np.where(x == x.max(), np.inf, x), "finite", NO_NUMBERS),
        (np.ones_like, "logits answer", CONSTANT),
        (lambda x: np.broadcast_to(x[:1], x.shape), "logits answer", CONSTANT),
        (lambda x: x[:1] + 1e-5 * (x - x[:1]), "logits answer", "the reference's logits do not depend on the picture"),
        (
            lambda x: np.exp(x) / np.exp(x).sum(axis=1, keepdims=True),
            "logits answer",
            "the reference gives probabilities, not logits",
        ),
    ],
    ids=["NaN", "infinity", "constant", "the same for every image", "nearly the same", "probabilities"],
)
def test_answers_that_show_nothing_cannot_be_judged(port, reference, change, name, reason):
    """Even when both sides give the very same: agreement on nothing is no evidence."""
    result = judge(port, None, changed(reference, change), changed(by_numpy(port, reference), change))

    assert (result.passed, result.grade, result.undecided) == (False, "cannot be judged", reason)
    assert (result.where, result.off, result.diagnosis) == (None, None, ())
    assert any(name in check for check in failed(result))


@pytest.mark.parametrize("change", [np.ones_like, lambda x: np.broadcast_to(x[:1], x.shape)])
def test_a_port_that_answers_where_the_reference_does_not_differs(port, reference, change):
    """That is evidence: they are two functions."""
    result = judge(port, None, changed(reference, change), by_numpy(port, reference))

    assert result.grade == "differs"


def test_a_float64_run_that_was_not_one_is_refused(port, reference):
    """Arrays that say float64 do not make it so."""
    side = replace(by_numpy(port, reference), computed={"float64": "float32", "float32": "float32"})

    result = judge(port, None, reference, side)

    assert (failed(result), result.grade) == (["port computed in float64"], "cannot be judged")
    assert result.undecided == "the port computed in float32, which cannot tell a right port from a nearly right one"


def test_a_nan_in_the_port_alone_fails_every_comparison(port, reference):
    """NaN passes `d > tolerance`; it does not pass here."""
    side = changed(by_numpy(port, reference), lambda x: np.full_like(x, np.nan))

    result = judge(port, None, reference, side)

    kinds = {check.kind for check in result.checks if not check.passed}
    assert (kinds, result.grade) == ({"evidence", "float64", "float32"}, "differs")


# -- inputs, saved references, golden files --------------------------------------------------------------------------


def test_the_user_s_own_pictures_are_taken(port, small, tmp_path):
    """A folder of pictures of any size and mode, by name."""
    from PIL import Image

    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (90, 120, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(random.integers(0, 255, (200, 80), np.uint8)).save(tmp_path / "b.jpg")

    result = check(port.checkpoint.path, against=small, backend="numpy", sizes=(64,), images=tmp_path)

    assert (result.passed, result.probes[-1].labels, result.probes[-1].pictures.shape) == (
        True,
        ("a.png", "b.jpg"),
        (2, 64, 64, 3),
    )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda path: path.write_text("no picture"), CorruptError, "x.png: cannot be read as a picture"),
        (lambda path: None, UsageError, "holds no pictures"),
    ],
    ids=["not a picture", "empty folder"],
)
def test_pictures_that_cannot_be_read_are_said(port, small, tmp_path, make, error, message):
    """The file is named."""
    make(tmp_path / "x.png")

    with pytest.raises(error, match=message):
        check(port.checkpoint.path, against=small, backend="numpy", images=tmp_path)


def test_a_saved_reference_stands_in_for_the_framework(port, small, reference, tmp_path):
    """The same verdict, and the same figures, without torch."""
    reference.save(tmp_path / "reference.npz")

    result = check(port.checkpoint.path, reference=tmp_path / "reference.npz", backend="numpy")

    direct = judge(port, read(small), reference, by_numpy(port, reference))
    assert (result.passed, [f.probe for f in result.figures]) == (True, [f.probe for f in direct.figures])
    assert result.source["sha256"] == direct.source["sha256"]


def test_a_reference_that_is_saved_again_is_the_same_bytes(reference, tmp_path):
    """Its form is fixed: releases compare golden files byte by byte."""
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    reference.save(first)

    Recording.load(first).save(second)

    with np.load(first) as file:
        names = [name.partition("|")[0] for name in file.files]
        keys = list(json.loads(str(file["told"])))
    assert first.read_bytes() == second.read_bytes()
    assert list(dict.fromkeys(names)) == ["told", "images", "pictures", "logits", "tap"]
    assert keys == ["schema", "architecture", "contract", "tapped", "computed", "told", "probes"]


def test_a_saved_reference_proves_a_rounded_port_in_two_steps(absorbed, absorbed_reference, tmp_path):
    """With the original beside it, whose exact tensors it takes; alone it cannot, and says so."""
    source, apps = absorbed
    absorbed_reference.save(tmp_path / "reference.npz")

    alone, both = (
        check(apps, reference=tmp_path / "reference.npz", backend="numpy", against=against)
        for against in (None, source)
    )

    reason = (
        "the port's tensors had to be rounded, which a recording alone cannot tell from a small mistake: name the "
        "original with --against, too, for a proof in two steps"
    )
    assert (alone.grade, alone.undecided) == ("cannot be judged", reason)
    assert (both.grade, both.undecided) == ("proven", None)


def test_a_wrong_port_of_rounded_tensors_differs(absorbed, absorbed_reference):
    """A recording alone suffices for that."""
    port = read(absorbed[1])
    weights = weights_of(port)
    slot = Slot("block1.layer1.conv2", "kernel")
    weights[slot] = weights[slot][::-1, ::-1]
    side = absorbed_reference
    moved = replace(port, weights=weights)

    answers = by_numpy(port, side)
    logits = {
        (precision, probe.name): forward(port.architecture, port.contract, weights, probe.images, dtype=precision)
        for precision in PRECISIONS
        for probe in side.probes
    }

    assert judge(moved, None, side, replace(answers, logits=logits)).grade == "differs"


def test_a_saved_reference_of_another_file_is_refused(port, reference, tmp_path):
    """It says which file it is of."""
    reference.save(tmp_path / "reference.npz")
    other = checkpoint_file(tmp_path, SMALL, "zip", seed=9)

    with pytest.raises(MisfitError, match="was recorded for .*, which is another file than"):
        check(port.checkpoint.path, against=other, reference=tmp_path / "reference.npz", backend="numpy")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"hello"])
def test_a_broken_reference_is_said(port, tmp_path, content):
    """Nothing in it runs, and no traceback shows."""
    (tmp_path / "r.npz").write_bytes(content)

    with pytest.raises(CorruptError, match=r"r\.npz: not a saved reference"):
        Recording.load(tmp_path / "r.npz")


def test_a_truncated_reference_is_corrupt(reference, tmp_path):
    """At every cut."""
    reference.save(tmp_path / "r.npz")
    data = (tmp_path / "r.npz").read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        (tmp_path / "cut.npz").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(CorruptError):
            Recording.load(tmp_path / "cut.npz")


def test_golden_logits_prove_a_file_without_a_framework(port, reference, tmp_path):
    """What torch computed once is met by numpy; a changed weight is not."""
    reference.save(tmp_path / "golden.npz")
    weights = weights_of(port)
    weights[Slot("block1.layer1.conv1", "kernel")][0, 0, 0, 0] += np.float32(1e-4)
    wrong = written(port, weights, port.contract, tmp_path / "wrong.weights.h5")

    right, bad = (replay(told.checkpoint.path, tmp_path / "golden.npz") for told in (port, wrong))

    assert [check.passed for check in right] == [True] * 4
    assert [check.name for check in bad if not check.passed] == [check.name for check in right]


@pytest.fixture(scope="module")
def untold(small, tmp_path_factory):
    """The small network under a table of the user's own that names no reference: its port, its file, the table."""
    place = tmp_path_factory.mktemp("untold")
    source = resource("mappings").joinpath("torchvision.toml").read_text(encoding="utf-8")
    table = place / "own.toml"
    table.write_text(re.sub(r"reference .*\n", "", source.replace('"torchvision"', '"own"', 1)), encoding="utf-8")
    convert(small, out=place / "port.weights.h5", src=table)
    return place / "port.weights.h5", small, table


def test_a_reference_that_our_own_table_read_proves_nothing(untold, tmp_path):
    """Whatever the numbers; a saved run of it neither."""
    port, source, table = untold
    saved = tmp_path / "reference.npz"

    result = check(port, against=source, src=table, backend="numpy", sizes=(), save_reference=saved)
    again = check(port, reference=saved, backend="numpy")

    assert (result.passed, result.independent, result.proven) == (True, False, False)
    assert (
        result.dependence
        == again.dependence
        == (
            "the reference (numpy) read the original by own, the table that the port was made by; both sides take "
            "epsilon 1e-05, stem_padding symmetric, stem_pool max, pool_rounding floor by your word; what would prove "
            "the port: a recording of the original's own code (densenet-port record), or logits that the original's "
            "own software gives for the same images"
        )
    )
    assert {check.name.partition("(")[2] for check in replay(port, saved)} == {"recorded by numpy, not independent)"}


def test_what_the_class_does_not_compute_it_cannot_prove(small, tmp_path):
    """The user's word for a network without the stem's pool: torchvision's class has one, and numpy takes the word."""
    words = {"stem_pool": "none"}
    convert(small, out=tmp_path / "port.weights.h5", contract=words)

    told, untold = (
        check(tmp_path / "port.weights.h5", against=small, backend="numpy", sizes=(), contract=contract)
        for contract in (words, None)
    )

    assert (told.grade, untold.grade, untold.where) == ("agrees", "differs", "block1.layer1.norm1")
    assert told.dependence.startswith(
        "the reference (numpy) read the original by torchvision, the table that the port was made by; torchvision's "
        "own class has the stem_pool max, the original none by your word; both sides take stem_pool none by your word; "
    )


def test_a_check_by_a_class_says_that_a_class_ran(port, small):
    """And that what pictures need is an assumption, where it is one."""
    notes = check(port.checkpoint.path, against=small, backend="numpy", sizes=()).notes

    ran = "the reference is torchvision's own class with the file's tensors; weights alone do not tell whether another"
    untold = "assumed, and not judged by logits of prepared images: input"
    assert notes[:2] == (f"{ran} class wrote them: densenet-port record runs yours", untold)


def test_our_own_network_as_the_reference_proves_nothing(port, tmp_path):
    """Keras runs what our own table read of a file in our own layout."""
    convert(port.checkpoint.path, dst="torchvision", out=tmp_path / "again.pth")

    result = check(tmp_path / "again.pth", against=port.checkpoint.path, sizes=())

    assert (result.passed, result.independent, result.proven) == (True, False, False)


def test_a_port_without_metadata_is_judged_by_its_layout_s_contract(port, small, tmp_path):
    """A file that Keras saved again says nothing of itself; its names do, and the rest is what the layout says."""
    bare = tmp_path / "bare.safetensors"
    rules = Table.load("keras").spell(port.architecture)
    save_file({rule.name: port.weights[slot] for slot, rule in rules.items()}, bare)

    result = check(bare, against=small, backend="numpy", sizes=())

    assert (result.passed, read(bare).checkpoint.record) == (True, None)


# -- bad input -------------------------------------------------------------------------------------------------------


def test_networks_of_different_numbers_are_not_compared(port, tmp_path):
    """Seven classes are not nine."""
    torch.save(torchvision_network(SMALL, 0, classes=9).state_dict(), tmp_path / "nine.pth")

    with pytest.raises(MisfitError, match="networks of different numbers: expected and found classes 9 and 7"):
        check(port.checkpoint.path, against=tmp_path / "nine.pth", backend="numpy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--against CHECKPOINT or with --reference FILE"),
        ({"against": "SMALL", "backend": "mxnet"}, "unknown --backend 'mxnet'"),
        ({"reference": SAMPLE, "contract": {"epsilon": 1e-3}}, "epsilon: the contract is that of --against"),
        ({"against": "SMALL", "sizes": (8,)}, "images of 8 pixels are too small"),
        ({"against": "SMALL", "batch": 1}, "--batch must be at least 2"),
    ],
)
def test_options_that_make_no_sense_are_refused(port, small, options, message):
    """Before anything runs."""
    given = {key: small if value == "SMALL" else value for key, value in options.items()}

    with pytest.raises(UsageError, match=message):
        check(port.checkpoint.path, **given)


def test_a_reference_that_hangs_is_stopped(port, small):
    """The time limit is the user's."""
    with pytest.raises(PortError, match=r"took longer than"):
        check(port.checkpoint.path, against=small, backend="numpy", sizes=(64,), limit=0.001)


def test_a_missing_reference_file_is_said(port):
    """The path is shown."""
    with pytest.raises(DiskError, match="none.npz: cannot be read"):
        check(port.checkpoint.path, reference=Path("none.npz"), backend="numpy")
