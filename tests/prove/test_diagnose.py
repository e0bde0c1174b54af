"""The diagnosis: every planted fault is named, on the right units, and nothing else is; a right port has no findings.

The reference is torchvision in float64 wherever it has the network.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from densenet_port.conversion.demo import prepare, read_held_out
from densenet_port.conversion.load import read
from densenet_port.errors import MisfitError, UsageError
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.numpy import forward
from densenet_port.network.units import Slot
from densenet_port.prove.diagnose import diagnose
from tests.conftest import SMALL
from tests.support.faults import (
    FAULTS,
    GRAPHS,
    another_variance,
    at_start,
    exchanged,
    flipped,
    in_bfloat16,
    logits_of,
    one_channel,
    reversed_inputs,
    swapped,
    times,
    transposed,
    two_permuted,
)
from tests.support.networks import checkpoint_file, images, torchvision_network

SAMPLE = Path(__file__).resolve().parents[2] / "weights" / "sample"
WHOLE = ("every norm", "every unit")  # the whole 121 takes seconds to damage and explain so
ON_121 = [
    name for name in FAULTS if not name.endswith(WHOLE) or name.startswith(("epsilon", "scale and shift swapped"))
]


# -- helpers -----------------------------------------------------------------------------------------------------------


class Port(NamedTuple):
    """What a port is to the diagnosis."""

    architecture: Architecture
    contract: Contract
    weights: dict


class Reference(NamedTuple):
    """The evidence."""

    images: np.ndarray
    taps: dict
    logits: np.ndarray


class Pair(NamedTuple):
    """A right port, as arrays, and its reference."""

    architecture: Architecture
    contract: Contract
    weights: dict
    reference: Reference

    def judged(self, weights=None, contract=None, reference=None, **more):
        """The diagnosis of the port, or of one with other weights or another contract."""
        port = Port(self.architecture, contract or self.contract, weights or self.weights)
        return diagnose(port, *(reference or self.reference), **more)

    def damaged(self, changes):
        """The weights with these units changed."""
        weights = dict(self.weights)
        for unit, change in changes.items():
            own = {slot.role: weights[slot] for slot in weights if slot.unit == unit}
            weights |= {Slot(unit, role): array.astype(own[role].dtype) for role, array in change(own).items()}
        return weights


def faults_of(diagnosis):
    """Fault → units, several findings of one fault put together."""
    units = {}
    for finding in diagnosis.findings:
        units[finding.fault] = (*units.get(finding.fault, ()), *finding.units)
    return units


def torch_taps(network, architecture, pictures):
    """The units' outputs and logits of torchvision's network in float64, `n h w c`."""
    names = {"stem.conv": "conv0", "stem.norm": "norm0", "final.norm": "norm5"}
    network, taps = network.double(), {}

    def keep(unit):
        return lambda _module, _inputs, out: taps.update({unit: out.permute(0, 2, 3, 1).numpy().copy()})

    for unit in architecture.units:
        if unit != "head.dense":
            name = names.get(unit, unit).replace("block", "denseblock").replace(".layer", ".denselayer")
            network.features.get_submodule(name).register_forward_hook(keep(unit))
    logits = network(torch.from_numpy(pictures).double().permute(0, 3, 1, 2)).numpy()
    return Reference(pictures, taps, logits)


def torchvision_pair(spec, folder, pictures, seed=0):
    network, port = torchvision_network(spec, seed), read(checkpoint_file(folder, spec, "zip", seed))
    weights = dict(port.weights)
    return Pair(port.architecture, port.contract, weights, torch_taps(network, port.architecture, pictures))


def numpy_pair(architecture, pictures, contract=Contract(), seed=0):  # noqa: B008 (frozen)
    """A random network that is its own reference."""
    random, weights, taps = np.random.default_rng(seed), {}, {}
    for slot, shape in architecture.slots.items():
        if slot.role == "kernel":
            weights[slot] = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
        else:
            weights[slot] = random.uniform(0.5, 1.5, shape) * random.choice([-1, 1], shape)
    weights |= {slot: np.abs(array) for slot, array in weights.items() if slot.role == "variance"}
    logits = forward(architecture, contract, weights, pictures, tap=taps.__setitem__)
    return Pair(architecture, contract, weights, Reference(pictures, taps, logits))


def rerun(pair):
    """The reference of a pair computed anew by numpy, in case its weights were changed."""
    taps = {}
    logits = forward(*pair[:3], pair.reference.images, tap=taps.__setitem__)
    return Reference(pair.reference.images, taps, logits)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return torchvision_pair(SMALL, tmp_path_factory.mktemp("small"), images(4, 64, seed=1))


@pytest.fixture(scope="module")
def square(tmp_path_factory):
    """A network whose head is square, so that it can be transposed by mistake."""
    return torchvision_pair(SMALL.replace("=7", "=36"), tmp_path_factory.mktemp("square"), images(4, 64, seed=1))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return torchvision_pair("121", tmp_path_factory.mktemp("full"), images(2, 64, seed=1))


@pytest.fixture(scope="module")
def digits():
    """The embedded sample, a network really trained, on digits that it never saw."""
    port, taps = read(SAMPLE / "digits.pth"), {}
    pictures = prepare(read_held_out(SAMPLE / "digits-heldout.npz").images[:8])
    weights = dict(port.weights)
    logits = forward(port.architecture, port.contract, weights, pictures, tap=taps.__setitem__)
    return Pair(port.architecture, port.contract, weights, Reference(pictures, taps, logits))


# -- every planted fault -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_on_its_units_and_nothing_else_is(small, square, name):
    pair = small if FAULTS[name].fits(small.architecture) else square
    planted = FAULTS[name].plant(pair.architecture, pair.contract, pair.weights)

    diagnosis = pair.judged(planted.weights, planted.contract)

    assert faults_of(diagnosis) == planted.findings
    assert set(diagnosis.faulty) == {unit for units in planted.findings.values() for unit in units}
    findings = [finding.to_json() for finding in diagnosis.findings]
    assert json.loads(json.dumps(findings, allow_nan=False)) == findings


@pytest.mark.parametrize("name", [name for name in FAULTS if name != "kernel transposed, head"])
def test_each_fault_is_named_on_a_trained_network(digits, name):
    """On 32 pixels the last block's maps are one pixel: a kernel's orientation cannot be seen there, nor matters."""
    planted = FAULTS[name].plant(digits.architecture, digits.contract, digits.weights)
    seen = dict(planted.findings.items())
    if "kernel" in name and "every" in name:
        seen = {slug: tuple(u for u in units if digits.reference.taps[u].shape[1] > 1) for slug, units in seen.items()}

    assert faults_of(digits.judged(planted.weights, planted.contract)) == seen


@pytest.mark.parametrize("name", [name for name in ON_121 if FAULTS[name].fits(Architecture.named("121"))])
def test_each_fault_is_named_on_the_whole_121(full, name):
    planted = FAULTS[name].plant(full.architecture, full.contract, full.weights)

    assert faults_of(full.judged(planted.weights, planted.contract)) == planted.findings


def test_a_file_that_was_read_is_a_port(small, tmp_path):
    """What `read` gives, tensors still on disk, against torchvision."""
    port = read(checkpoint_file(tmp_path, SMALL, "zip"))

    assert diagnose(port, *small.reference).findings == ()


# -- a right port ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_a_right_port_has_no_findings(tmp_path, seed):
    pair = torchvision_pair(SMALL, tmp_path, images(2, 40 + seed, seed=seed), seed)

    diagnosis = pair.judged()

    assert (diagnosis.findings, diagnosis.faulty, diagnosis.rounded, diagnosis.examined) == ((), (), (), 36)
    assert list(diagnosis.errors) == list(pair.architecture.units)
    assert 0 < max(diagnosis.errors.values()) < 1e-13


def test_a_right_121_has_no_findings(full):
    diagnosis = full.judged()

    assert (diagnosis.findings, diagnosis.faulty, diagnosis.rounded, diagnosis.examined) == ((), (), (), 242)


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.sampled_from(["imagenet", "cifar", "deep"]),
    st.sampled_from([0, 2, 4]),
    st.sampled_from([0.0, 0.3, 0.5]),
    st.sampled_from([None, 1, 5]),
    st.builds(
        Contract,
        stem_padding=st.sampled_from(["symmetric", "same"]),
        stem_pool=st.sampled_from(["max", "blur"]),
        pool_rounding=st.sampled_from(["floor", "ceil"]),
    ),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=25, deadline=None)
def test_no_architecture_has_findings_against_itself(layers, stem, bottleneck, reduction, classes, contract, seed):
    architecture = Architecture(
        layers=tuple(layers),
        growth_rate=4,
        init_channels=6,
        bottleneck=bottleneck,
        reduction=reduction,
        stem=stem,
        classes=classes,
    )
    pair = numpy_pair(architecture, images(2, 30, seed=seed % 100), contract, seed)

    diagnosis = pair.judged()

    assert (diagnosis.findings, diagnosis.examined) == ((), len(architecture.units))


def test_numbers_rounded_to_float32_are_no_fault(small):
    """A reference in float64, a port that had to round: a fold, or an absorbed epsilon."""
    exact = {
        slot: array * (1 + 1e-9 * np.arange(array.size).reshape(array.shape)) for slot, array in small.weights.items()
    }
    reference = rerun(small._replace(weights=exact))
    rounded = {slot: array.astype(np.float32) for slot, array in exact.items()}

    diagnosis = small.judged(rounded, reference=reference)

    assert (diagnosis.findings, diagnosis.faulty, diagnosis.rounded) == ((), (), tuple(small.architecture.units))


def test_the_paddings_are_one_where_nothing_tells_them_apart(tmp_path):
    pair = torchvision_pair(SMALL, tmp_path, images(2, 65, seed=1))

    assert pair.judged(contract=Contract(stem_padding="same")).findings == ()


# -- a deep stem -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deep():
    """A network with a deep stem and a blur pool, whose transitions round odd sizes up."""
    contract = Contract(stem_pool="blur", pool_rounding="ceil")
    return numpy_pair(Architecture.named(f"{SMALL},stem=deep"), images(4, 66, seed=1), contract)


def test_faults_in_a_deep_stem_are_told_apart(deep):
    damaged = deep.damaged(
        {
            "stem.conv1": reversed_inputs,
            "stem.norm1": swapped("scale", "shift"),
            "stem.conv2": flipped,
            "stem.norm2": times(999.982),
            "stem.conv3": transposed,
            "stem.norm3": at_start,
            "transition1.conv": one_channel,
        }
    )

    assert faults_of(deep.judged(damaged)) == {
        "channels-reversed": ("stem.conv1",),
        "scale-shift-swapped": ("stem.norm1",),
        "kernel-flipped": ("stem.conv2",),
        "caffe-factor": ("stem.norm2",),
        "kernel-transposed": ("stem.conv3",),
        "statistics-at-start": ("stem.norm3",),
        "channel-wrong": ("transition1.conv",),
    }


@pytest.mark.parametrize(
    ("slug", "unit", "otherwise", "pictures"),
    [
        ("stem-padding", "stem.conv1", {"stem_padding": "same"}, lambda pictures: pictures),
        ("stem-pool", "block1.layer1.norm1", {"stem_pool": "max"}, lambda pictures: pictures),
        ("channels-reversed", "stem.conv1", {}, lambda pictures: pictures[..., ::-1]),
    ],
)
def test_a_framework_that_enters_a_deep_stem_otherwise_is_found(deep, slug, unit, otherwise, pictures):
    contract = replace(deep.contract, **otherwise)
    logits = forward(deep.architecture, contract, deep.weights, pictures(deep.reference.images))

    assert faults_of(deep.judged(port_logits=logits)) == {slug: (unit,)}


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_a_maximum_in_place_of_a_blur_is_found(padding):
    """Whichever way the maximum pads, with a convolution that pads likewise."""
    contract = Contract(stem_pool="blur", stem_padding=padding)
    pair = numpy_pair(
        Architecture.named(f"{SMALL},stem=deep"), images(4, 66, seed=1), replace(contract, stem_pool="max")
    )

    (finding,) = pair.judged(contract=contract).findings

    assert (finding.fault, finding.units) == ("stem-pool", ("block1.layer1.norm1",))
    assert finding.sentence == (
        "The port's stem ends with the pool “blur”, the reference's with “max”, before block1.layer1.norm1."
    )


# -- several faults ----------------------------------------------------------------------------------------------------


def test_faults_on_different_units_are_told_apart(small):
    damaged = small.damaged(
        {
            "stem.conv": reversed_inputs,
            "block1.layer2.conv2": flipped,
            "block2.layer1.norm1": swapped("scale", "shift"),
            "block2.layer3.conv1": two_permuted,
            "transition2.norm": at_start,
            "final.norm": times(999.982),
            "head.dense": one_channel,
        }
    )

    assert faults_of(small.judged(damaged)) == {
        "channels-reversed": ("stem.conv",),
        "kernel-flipped": ("block1.layer2.conv2",),
        "scale-shift-swapped": ("block2.layer1.norm1",),
        "channels-permuted": ("block2.layer3.conv1",),
        "statistics-at-start": ("transition2.norm",),
        "caffe-factor": ("final.norm",),
        "channel-wrong": ("head.dense",),
    }


def both(first, second):
    return lambda own: second(own | first(own))


@pytest.mark.parametrize(
    ("unit", "change", "named"),
    [
        ("stem.conv", both(flipped, reversed_inputs), ["kernel-flipped", "channels-reversed"]),
        ("stem.conv", both(transposed, two_permuted), ["kernel-transposed", "channels-permuted"]),
        ("block2.layer2.conv2", both(flipped, transposed), ["kernel-flipped", "kernel-transposed"]),
        ("block2.layer2.conv2", both(flipped, one_channel), ["kernel-flipped", "channel-wrong"]),
        ("block2.layer2.conv2", both(flipped, in_bfloat16), ["kernel-flipped", "rounded-to-half"]),
        (
            "block2.layer2.norm2",
            both(swapped("mean", "variance"), swapped("scale", "shift")),
            ["scale-shift-swapped", "mean-variance-swapped"],
        ),
        (
            "block2.layer2.norm2",
            both(swapped("scale", "shift"), two_permuted),
            ["scale-shift-swapped", "channels-permuted"],
        ),
        ("transition1.norm", both(swapped("scale", "shift"), one_channel), ["scale-shift-swapped", "channel-wrong"]),
    ],
)
def test_two_faults_on_one_unit_are_both_named(small, unit, change, named):
    diagnosis = small.judged(small.damaged({unit: change}))

    assert faults_of(diagnosis) == dict.fromkeys(named, (unit,))


def test_a_wrong_contract_is_told_from_wrong_weights(small):
    """SAME padding under reversed channels, and another epsilon under swapped numbers."""
    damaged = small.damaged({"stem.conv": reversed_inputs, "block1.layer1.norm1": swapped("scale", "shift")})
    norms = tuple(unit.name for unit in small.architecture.units.values() if unit.kind == "norm")

    diagnosis = small.judged(damaged, Contract(epsilon=1e-3, stem_padding="same"))

    assert faults_of(diagnosis) == {
        "channels-reversed": ("stem.conv",),
        "stem-padding": ("stem.conv", "block1.layer1.norm1"),
        "epsilon": norms,
        "scale-shift-swapped": ("block1.layer1.norm1",),
    }


def test_another_checkpoint_is_no_known_fault(small, tmp_path):
    """Every unit is wrong, by itself, and no cause is made up."""
    other = torchvision_pair(SMALL, tmp_path, images(1, 32), seed=9)

    diagnosis = small.judged(other.weights)

    assert diagnosis.faulty == tuple(small.architecture.units)
    assert set(faults_of(diagnosis)) <= {"kernel-wrong", "norm-wrong", "head-wrong", "scale-overwritten"}


# -- what is solved for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [1e-3, 1.1e-5, 1.001e-5, 1e-6, 2.34567e-5, 0.0])
def test_the_epsilon_is_solved_for(small, epsilon):
    (finding,) = small.judged(contract=Contract(epsilon=epsilon)).findings

    assert finding.detail == {"expected": 1e-5, "found": epsilon}
    assert finding.after < 1e-13


@pytest.mark.parametrize("epsilon", [1.001e-5, 2.34567e-5, 1e-3])
def test_an_odd_epsilon_of_the_reference_is_solved_for(epsilon):
    pair = numpy_pair(Architecture.named(SMALL), images(2, 40), Contract(epsilon=epsilon))

    (finding,) = pair.judged(contract=Contract()).findings

    assert finding.detail == {"expected": epsilon, "found": 1e-5}


@pytest.mark.parametrize("factor", [999.982, 0.001, 2.0, 12345.6])
def test_caffes_factor_is_solved_for(small, factor):
    (finding,) = small.judged(small.damaged({"transition1.norm": times(factor)})).findings

    assert finding.detail == {"factor": factor}


def test_a_permutation_is_found_channel_by_channel(small):
    """The second of 8 channels and the last but one."""
    (finding,) = small.judged(small.damaged({"block2.layer2.conv2": two_permuted})).findings

    assert finding.detail == {"units": {"block2.layer2.conv2": {"order": [[1, 6], [6, 1]]}}}


def test_tensors_under_another_name_are_found(small):
    units = ("block2.layer1.conv2", "block3.layer2.conv2")

    (finding,) = small.judged(exchanged(small.weights, units)).findings

    assert finding.detail == {"units": {units[0]: {"in": units[1]}, units[1]: {"in": units[0]}}}
    assert finding.sentence == (
        "The port holds another unit's tensors in block2.layer1.conv2 (its own are in block3.layer2.conv2) and "
        "block3.layer2.conv2 (its own are in block2.layer1.conv2)."
    )


# -- the graphs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", GRAPHS)
def test_what_the_ports_framework_does_otherwise_is_named(small, name, dtype):
    graph = GRAPHS[name]
    logits = logits_of(*small[:3], small.reference.images, dtype=dtype, **graph.otherwise)

    diagnosis = small.judged(port_logits=logits)

    assert {finding.fault: finding.units for finding in diagnosis.findings} == {graph.slug: graph.units}
    assert diagnosis.findings[0].detail["side"] == "port"
    assert diagnosis.faulty == ()


@pytest.mark.parametrize(
    ("change", "slug"),
    [
        (lambda pair: forward(*pair[:3], pair.reference.images[..., ::-1]), "channels-reversed"),
        (lambda pair: forward(pair[0], Contract(epsilon=1e-3), pair[2], pair.reference.images), "epsilon"),
        (lambda pair: torch.from_numpy(pair.reference.logits).softmax(1).numpy(), "output"),
        (lambda pair: torch.from_numpy(pair.reference.logits).sigmoid().numpy(), "output"),
        (lambda pair: pair.reference.logits[:, ::-1], "unexplained"),
        (lambda pair: pair.reference.logits * np.nan, "unexplained"),
    ],
)
def test_other_graphs_are_named_or_left_unexplained(small, change, slug):
    diagnosis = small.judged(port_logits=change(small))

    assert [finding.fault for finding in diagnosis.findings] == [slug]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_framework_that_does_what_the_weights_say_has_no_findings(small, dtype):
    logits = forward(*small[:3], small.reference.images, dtype=dtype)

    assert small.judged(port_logits=logits).findings == ()


def test_a_reference_without_its_last_relu_is_named(small):
    logits = logits_of(*small[:3], small.reference.images, relu=False)

    (finding,) = small.judged(reference=small.reference._replace(logits=logits)).findings

    assert (finding.fault, finding.units, finding.detail) == ("no-last-relu", ("head.dense",), {"side": "reference"})


def test_a_reference_without_head_or_last_relu_is_named():
    pair = numpy_pair(Architecture.named(SMALL).without_head(), images(2, 40))
    bare = pair.reference._replace(logits=pair.reference.taps["final.norm"])

    assert faults_of(pair.judged(reference=bare)) == {"no-last-relu": ("final.norm",)}


def test_a_framework_without_head_or_last_relu_is_named():
    pair = numpy_pair(Architecture.named(SMALL).without_head(), images(2, 40))

    (finding,) = pair.judged(port_logits=pair.reference.taps["final.norm"]).findings

    assert (finding.fault, finding.units, finding.detail) == ("no-last-relu", ("final.norm",), {"side": "port"})


def test_a_last_map_that_is_another_altogether_is_unexplained():
    pair = numpy_pair(Architecture.named(SMALL).without_head(), images(2, 40))
    strange = pair.reference._replace(logits=pair.reference.logits + 1)

    assert faults_of(pair.judged(reference=strange)) == {"unexplained": ("final.norm",)}


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_a_reference_that_puts_out_probabilities_is_named(small, output):
    logits = torch.from_numpy(small.reference.logits)
    probabilities = (logits.softmax(1) if output == "softmax" else logits.sigmoid()).numpy()

    (finding,) = small.judged(reference=small.reference._replace(logits=probabilities)).findings

    assert finding.sentence == f"The reference puts out {output}, not logits, in head.dense."


def test_probabilities_do_not_hide_a_wrong_head(small):
    """Where no two known faults explain the head, its softmax does not pass for the rounding of its numbers."""
    probabilities = torch.from_numpy(small.reference.logits / 100).softmax(1).numpy()
    damaged = small.damaged({"head.dense": lambda own: {role: array / 200 for role, array in own.items()}})

    assert faults_of(small.judged(damaged, reference=small.reference._replace(logits=probabilities))) == {
        "head-wrong": ("head.dense",)
    }


# -- what no number can explain ----------------------------------------------------------------------------------------


def test_a_norm_that_is_none_is_unexplained(small):
    """The reference's tap comes after its ReLU: no slope and offset give that."""
    unit = "block2.layer2.norm2"
    taps = small.reference.taps | {unit: np.maximum(small.reference.taps[unit], 0)}

    (finding,) = small.judged(reference=small.reference._replace(taps=taps)).findings

    assert (finding.fault, finding.units, finding.after) == ("unexplained", (unit,), finding.before)
    assert finding.detail["units"][unit] == {"channels": list(range(8)), "differing": 32, "of": 32, "proved": False}


@pytest.mark.parametrize(("count", "fault"), [(8, "unexplained"), (2, "kernel-wrong")])
def test_a_convolution_that_is_none_is_unexplained_where_the_evidence_suffices(tmp_path, count, fault):
    """A dilated kernel: 288 inputs at 512 places tell, at 128 anything can be explained by some kernel."""
    pair = torchvision_pair(SMALL, tmp_path, images(count, 64, seed=1))
    place, unit = "block2.layer2.norm2", "block2.layer2.conv2"
    x = torch.from_numpy(pair.reference.taps[place]).relu().permute(0, 3, 1, 2)
    kernel = torch.tensor(pair.weights[Slot(unit, "kernel")]).double().permute(3, 2, 0, 1)
    dilated = nn.functional.conv2d(x, kernel, padding=2, dilation=2).permute(0, 2, 3, 1).numpy()
    alone = pair.reference._replace(taps={place: pair.reference.taps[place], unit: dilated})

    diagnosis = pair.judged(reference=alone)

    assert faults_of(diagnosis) == {fault: (unit,)}


@pytest.mark.parametrize("unit", ["stem.conv", "block1.layer2.conv1", "block1.layer2.conv2", "transition1.conv"])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_a_kernel_is_proved_wrong_where_the_evidence_suffices(unit, padding):
    pair = numpy_pair(Architecture.named(SMALL), images(4, 63, seed=1), Contract(stem_padding=padding))
    slot = Slot(unit, "kernel")
    wrong = pair.weights | {slot: np.random.default_rng(1).standard_normal(pair.weights[slot].shape)}

    (finding,) = pair.judged(wrong).findings

    assert (finding.fault, finding.detail["units"][unit]["proved"]) == ("kernel-wrong", True)


def test_a_reference_without_numbers_is_told_from_a_faulty_port(small):
    unit, after = "transition1.norm", "transition1.conv"
    taps = small.reference.taps | {unit: small.reference.taps[unit] * np.nan}

    assert faults_of(small.judged(reference=small.reference._replace(taps=taps))) == {"no-numbers": (unit, after)}


# -- wording and edges -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "kernel flipped, every 3×3 and 7×7 kernel",
            "The port's kernel is turned by 180° in every 3×3 and 7×7 convolution.",
        ),
        ("kernel flipped, block 2", "The port's kernel is turned by 180° in block2.layer2.conv2."),
        (
            "epsilon 1.001e-05, every norm",
            "Epsilon is 1.001e-05 in the port and 1e-05 in the reference, in every norm.",
        ),
        (
            "SAME padding, stem",
            (
                "The port pads by the rule “same”, the reference by “symmetric”, in stem.conv and "
                "block1.layer1.norm1 (pool)."
            ),
        ),
        (
            "one channel of the kernel wrong, block 2, 3×3",
            "Some output channels are wrong, the others right, in block2.layer2.conv2 (1 of 8 channels: 2).",
        ),
        ("rounded to float16, every unit", "The port's numbers were rounded to float16 in every unit."),
    ],
)
def test_a_finding_is_one_sentence(small, name, says):
    planted = FAULTS[name].plant(small.architecture, small.contract, small.weights)

    assert [finding.sentence for finding in small.judged(planted.weights, planted.contract).findings] == [says]


def test_many_units_are_counted_and_the_first_named(small):
    norms = [unit for unit in small.architecture.units if unit.endswith("norm2")]
    damaged = small.damaged(dict.fromkeys(norms[:5], swapped("scale", "shift")))

    (finding,) = small.judged(damaged).findings

    assert finding.sentence == (
        "Scale and shift are swapped in 5 of 18 norms "
        "(block1.layer1.norm2, block1.layer2.norm2, block2.layer1.norm2 and 2 more)."
    )


def test_findings_are_plain_json(small):
    """A port that gives no number at all has an error of null."""
    damaged = small.damaged({"final.norm": lambda own: own | {"variance": -1 - own["variance"]}, "stem.conv": flipped})

    diagnosis = small.judged(damaged)

    entries = json.loads(json.dumps([finding.to_json() for finding in diagnosis.findings], allow_nan=False))
    assert {entry["mistake"]: entry["before"] for entry in entries} == {
        "kernel-flipped": pytest.approx(diagnosis.findings[0].before),
        "norm-wrong": None,
    }
    assert (diagnosis.faulty, diagnosis.rounded, diagnosis.examined) == (("stem.conv", "final.norm"), (), 36)


def test_units_that_the_reference_does_not_show_are_not_examined(small):
    """Without one tap its unit, and the one that it enters, are out of sight."""
    taps = {unit: tap for unit, tap in small.reference.taps.items() if unit != "block2.layer2.norm2"}

    diagnosis = small.judged(
        small.damaged({"block2.layer2.conv2": flipped}), reference=small.reference._replace(taps=taps)
    )

    assert (diagnosis.findings, diagnosis.examined) == ((), 34)


def test_a_wrong_variance_alone_is_no_overwritten_scale(small):
    (finding,) = small.judged(small.damaged({"transition1.norm": another_variance})).findings

    assert (finding.fault, finding.after < 1e-13) == ("slope-wrong", True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda reference: reference._replace(logits=reference.logits.astype(np.float32)),
            "diagnosis needs the reference's activations in float64, found float32 for head.dense",
        ),
        (
            lambda reference: reference._replace(
                taps=reference.taps | {"stem.conv": reference.taps["stem.conv"].transpose(0, 3, 1, 2)}
            ),
            (
                "the reference's stem.conv has shape (4, 16, 32, 32), expected (4, 32, 32, 16)\n"
                "  axes are n h w c; where the contract's pool_rounding is another, only even sizes agree"
            ),
        ),
        (
            lambda reference: reference._replace(images=reference.images[..., :2]),
            "images must have the axes n h w c with c=3, found shape (4, 64, 64, 2)",
        ),
        (
            lambda reference: reference._replace(images=reference.images[:0]),
            "images must have the axes n h w c with c=3, found shape (0, 64, 64, 3)",
        ),
    ],
)
def test_evidence_that_is_none_is_refused(small, change, message):
    with pytest.raises(UsageError) as error:
        small.judged(reference=change(small.reference))

    assert str(error.value) == message


def test_a_missing_tensor_is_named(small):
    slot = Slot("block1.layer1.norm2", "mean")
    weights = {held: array for held, array in small.weights.items() if held != slot}

    with pytest.raises(MisfitError, match=r"^the weights lack block1\.layer1\.norm2\.mean$"):
        small.judged(weights)


def test_a_tensor_of_another_shape_is_named(small):
    slot = Slot("block1.layer1.conv2", "kernel")
    weights = small.weights | {slot: small.weights[slot].transpose(3, 2, 0, 1)}

    with pytest.raises(MisfitError) as error:
        small.judged(weights)

    assert str(error.value) == "block1.layer1.conv2.kernel: expected shape (3, 3, 32, 8), found (8, 32, 3, 3)"


def test_nothing_that_is_given_is_changed(small):
    before = {slot: array.copy() for slot, array in small.weights.items()}
    taps = {unit: tap.copy() for unit, tap in small.reference.taps.items()}

    small.judged(contract=replace(small.contract, epsilon=1e-3, stem_padding="same"))

    assert all(np.array_equal(before[slot], small.weights[slot]) for slot in before)
    assert all(np.array_equal(taps[unit], small.reference.taps[unit]) for unit in taps)
