"""The torch module against torchvision, timm and Keras, and against the numpy pass on whatever a DenseNet may be."""

import copy
import io
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_port.errors import MisfitError
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.graph import graph
from densenet_port.network.numpy import run
from densenet_port.network.torch import assign, build, slots
from densenet_port.network.units import Slot
from densenet_port.prove.job import Job
from densenet_port.prove.worker import run_all
from tests.support.networks import images, torchvision_network
from tests.support.ports import write_ours
from tests.support.random_weights import random_weights
from tests.support.torch_networks import timm_filled, weights_of

SMALL = Architecture.named("layers=2-3-2,growth_rate=8,init_channels=16,classes=7")
FULL = 1e-10  # of the logits' deviation: what two right float64 passes must agree to


# -- helpers ---------------------------------------------------------------------------------------------------------


def filled(network, weights, dtype=torch.float64):
    """The module of a graph with weights in it, evaluating."""
    module = build(network).to(dtype)
    assign(module, weights)
    return module.eval()


def put_out(module, pictures):
    """What a module makes of images `n h w c`, in its own dtype and our axes."""
    dtype = next(module.parameters()).dtype
    with torch.inference_mode():
        output = module(torch.from_numpy(np.ascontiguousarray(pictures)).to(dtype).permute(0, 3, 1, 2))
    return (output if output.ndim == 2 else output.permute(0, 2, 3, 1)).numpy()


def apart(found, truth):
    """The largest difference, in deviations of the truth."""
    assert found.shape == truth.shape
    return float(np.abs(found - truth).max() / truth.std())


@pytest.fixture
def module():
    """The small network's, as it is built."""
    return build(graph(SMALL, Contract()))


# -- against other software ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arch", "size"), [(SMALL, 64), (SMALL, 47), (Architecture.named("121"), 65)])
def test_logits_are_torchvisions(arch, size):
    network, pictures = torchvision_network(arch, seed=0), images(2, size, seed=1)
    truth = put_out(network.double(), pictures)

    logits = put_out(filled(graph(arch, Contract()), weights_of(network, arch)), pictures)

    assert apart(logits, truth) <= FULL


@pytest.mark.parametrize(("own", "pool"), [("densenetblur121d", "blur"), ("densenet264d", "max")])
def test_the_whole_deep_networks_are_timms(own, pool):
    arch = Architecture.named(own)
    weights, pictures = random_weights(arch), images(1, 35, seed=2)
    truth = put_out(timm_filled(arch, weights, pool), pictures)

    logits = put_out(filled(graph(arch, Contract(stem_pool=pool)), weights), pictures)

    assert apart(logits, truth) <= FULL


def test_other_networks_are_keras_on_tensorflow(tmp_path):
    """CIFAR's networks with and without a bottleneck, and the stems as TensorFlow pads them."""
    cifar, narrow, grey = Architecture.named("cifar-40-12"), replace(SMALL, stem="cifar"), replace(SMALL, channels=1)
    cases = [
        (cifar, Contract(), 32),
        (narrow, Contract(epsilon=1e-3, pool_rounding="ceil"), 35),
        (grey, Contract(stem_padding="same", pool_rounding="ceil"), 66),
        (replace(SMALL, stem="deep"), Contract(stem_padding="same", stem_pool="blur"), 47),
    ]
    jobs = []
    for number, (arch, contract, size) in enumerate(cases):
        path = tmp_path / f"{number}.safetensors"
        write_ours(path, arch, contract, random_weights(arch))
        jobs.append(Job(network="keras", path=path, images=images(2, size, arch.channels, seed=3), dtype="float64"))

    distances = [
        apart(put_out(filled(graph(arch, contract), random_weights(arch)), job.images), keras.logits)
        for (arch, contract, _), job, keras in zip(cases, jobs, run_all(jobs), strict=True)
    ]

    assert max(distances) <= FULL


# -- against the numpy pass ------------------------------------------------------------------------------------------

ARCHITECTURES = st.builds(
    Architecture,
    layers=st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
    growth_rate=st.integers(1, 5),
    init_channels=st.integers(1, 5).map(lambda half: 2 * half),
    bottleneck=st.sampled_from([0, 1, 4]),
    reduction=st.sampled_from([0.0, 0.3, 0.5]),
    stem=st.sampled_from(["imagenet", "cifar", "deep"]),
    channels=st.sampled_from([1, 3]),
    classes=st.sampled_from([None, 1, 6]),
)
CONTRACTS = st.builds(
    Contract,
    epsilon=st.sampled_from([1e-5, 1e-3]),
    stem_padding=st.sampled_from(["symmetric", "same"]),
    stem_pool=st.sampled_from(["max", "blur"]),
    pool_rounding=st.sampled_from(["floor", "ceil"]),
    output=st.sampled_from(["logits", "softmax", "sigmoid"]),
)


@given(ARCHITECTURES, CONTRACTS, st.integers(0, 9), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_any_network_is_the_numpy_pass(arch, contract, taller, wider):
    """At any size from the smallest on."""
    network, weights = graph(arch, contract), random_weights(arch, dtype=np.float64)
    height, width = network.smallest_side + taller, network.smallest_side + wider
    pictures = images(3, max(height, width), arch.channels, seed=4)[:, :height, :width]

    output = put_out(filled(network, weights), pictures)

    truth = run(network, weights, pictures)
    assert (output.shape, output.dtype) == (truth.shape, truth.dtype)
    assert np.abs(output - truth).max() <= FULL * max(truth.std(), 1)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("stem.conv", {"padding": "same"}),
        ("stem.pool", {"padding": "same"}),
        ("block2.layer1.norm2", {"epsilon": 1.001e-5}),
        ("transition2.pool", {"rounding": "ceil"}),
        ("block1.layer2.concat", {"inputs": ("block1.layer2.conv2", "block1.layer1.concat")}),
        ("head.softmax", {"function": "sigmoid"}),
    ],
)
def test_an_operation_that_computes_otherwise_shows(name, changes):
    network, weights = graph(SMALL, Contract(output="softmax")), random_weights(SMALL, dtype=np.float64)
    pictures = images(2, 72, seed=5)

    wrong = put_out(filled(network.edited(name, **changes), weights), pictures)

    assert apart(wrong, run(network, weights, pictures)) > FULL


@pytest.mark.parametrize("name", ["stem.relu", "block3.layer2.relu1", "final.relu"])
def test_an_operation_that_is_missing_shows(name):
    network, weights = graph(SMALL, Contract()), random_weights(SMALL, dtype=np.float64)
    pictures = images(2, 40, seed=6)

    wrong = put_out(filled(network.without(name), weights), pictures)

    assert apart(wrong, run(network, weights, pictures)) > FULL


def test_float32_is_float32_and_close():
    network, weights = graph(SMALL, Contract()), random_weights(SMALL)
    pictures = images(2, 40, seed=7)

    logits = put_out(filled(network, weights, torch.float32), pictures)

    assert logits.dtype == np.float32
    assert 1e-9 < apart(logits, run(network, weights, pictures)) <= 1e-5


# -- a module like torch's own ---------------------------------------------------------------------------------------


def test_tensors_are_named_after_our_units():
    module = build(graph(Architecture(layers=(1,), growth_rate=2, init_channels=4, classes=3), Contract()))

    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert list(module.state_dict()) == [
        "stem.conv.weight",
        *(f"stem.norm.{name}" for name in norm),
        *(f"block1.layer1.norm1.{name}" for name in norm),
        "block1.layer1.conv1.weight",
        *(f"block1.layer1.norm2.{name}" for name in norm),
        "block1.layer1.conv2.weight",
        *(f"final.norm.{name}" for name in norm),
        "head.dense.weight",
        "head.dense.bias",
    ]


@pytest.mark.parametrize("arch", [SMALL, replace(SMALL, stem="deep", bottleneck=0), SMALL.without_head()])
def test_tensors_are_our_slots_in_our_axes_and_order(arch):
    found = {slot: tuple(tensor.shape) for slot, tensor in slots(build(graph(arch, Contract()))).items()}

    assert list(found.items()) == list(arch.slots.items())


def test_a_hook_sees_any_operation(module):
    shapes = {}
    for name in ("stem.pool", "block2.layer3.conv2", "transition1.pool", "final.relu"):
        module.get_submodule(name).register_forward_hook(
            lambda _m, _i, output, name=name: shapes.update({name: tuple(output.shape)})
        )

    put_out(module.eval(), images(2, 64))

    assert shapes == {
        "stem.pool": (2, 16, 16, 16),
        "transition1.pool": (2, 16, 8, 8),
        "block2.layer3.conv2": (2, 8, 8, 8),
        "final.relu": (2, 36, 4, 4),
    }


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_a_copy_and_a_saved_module_are_the_same_network(padding):
    network, pictures = graph(SMALL, Contract(stem_padding=padding)), images(2, 40)
    module, file = filled(network, random_weights(SMALL)), io.BytesIO()
    torch.save(module, file)
    file.seek(0)

    again = [copy.deepcopy(module), torch.load(file, weights_only=False)]

    assert [np.array_equal(put_out(one, pictures), put_out(module, pictures)) for one in again] == [True, True]


def test_it_is_built_in_training_mode_and_every_parameter_learns(module):
    assert all(part.training for part in module.modules())

    module(torch.from_numpy(images(4, 40)).permute(0, 3, 1, 2)).square().sum().backward()

    assert [name for name, value in module.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_few_maps_are_kept_at_a_time():
    """Whatever the depth of a block: what the next operations read, and no more."""
    module = build(graph(Architecture(layers=(12,), growth_rate=2, init_channels=4, classes=3), Contract())).eval()
    seen, most = [], []

    def note(_module, _inputs, output):
        seen.append(weakref.ref(output))
        most.append(sum(reference() is not None for reference in seen))

    for part in module.modules():
        if not list(part.children()):
            part.register_forward_hook(note)

    put_out(module, images(1, 32))

    assert max(most) <= 3


# -- weights ---------------------------------------------------------------------------------------------------------


def test_assigned_weights_are_exact_to_the_bit(module):
    """Denormal numbers, both zeros, and what is no number at all."""
    weights = random_weights(SMALL)
    awkward = np.array([1e-45, -1e-45, 1.1754942e-38, -0.0, 0.0, 3.4028235e38, np.inf, np.nan], np.float32)
    weights[Slot("block1.layer1.norm2", "variance")] = np.tile(awkward, 4)

    assign(module, weights)

    found = {slot: tensor.numpy().tobytes() for slot, tensor in slots(module).items()}
    assert found == {slot: array.tobytes() for slot, array in weights.items()}


def refusal(module, weights):
    """The message of the refusal; nothing was set."""
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(MisfitError) as error:
        assign(module, weights)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    return str(error.value)


def test_a_slot_that_is_not_given_stops_everything(module):
    weights = random_weights(SMALL)
    del weights[Slot("block2.layer3.norm2", "mean")]

    expected = "1 slots are not given, 0 have no variable\n  block2.layer3.norm2.mean"
    assert refusal(module, weights) == f"the weights do not fit the model: {expected}"


def test_a_slot_without_a_tensor_stops_everything():
    module = build(graph(SMALL.without_head(), Contract()))

    expected = "0 slots are not given, 2 have no variable\n  head.dense.kernel  head.dense.bias"
    assert refusal(module, random_weights(SMALL)) == f"the weights do not fit the model: {expected}"


def test_an_array_of_another_shape_stops_everything(module):
    weights, slot = random_weights(SMALL), Slot("head.dense", "kernel")
    weights[slot] = weights[slot].T

    assert refusal(module, weights) == "head.dense.kernel: expected shape (36, 7), found (7, 36)"
