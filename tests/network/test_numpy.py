"""The numpy forward pass against torch: torchvision's class where it has the network, torch's functions elsewhere."""

import numpy as np
import pytest
import timm.models.densenet
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from densenet_port.errors import MisfitError, UsageError
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.graph import graph
from densenet_port.network.numpy import convolved, evaluate, forward
from densenet_port.network.units import ROLES, Slot
from tests.support.networks import images, torchvision_network
from tests.support.random_weights import random_weights
from tests.support.torch_networks import timm_filled, torchvision_names, weights_of

SMALL = "layers=2-3-2,growth_rate=8,init_channels=16,classes=7"
FULL = 1e-10  # of the logits' deviation: what two right float64 passes must agree to


# -- helpers ---------------------------------------------------------------------------------------------------------


def to_torch(pictures, dtype=torch.float64):
    return torch.from_numpy(np.ascontiguousarray(pictures)).to(dtype).permute(0, 3, 1, 2)


def padded(x, kernel, rule):
    """Zeros around `n c h w` maps for a kernel of stride 2, by the two rules."""
    if rule == "symmetric":
        return functional.pad(x, [kernel // 2] * 4)
    needed = [max(0, (-(-size // 2) - 1) * 2 + kernel - size) for size in (x.shape[3], x.shape[2])]
    return functional.pad(x, [side for total in needed for side in (total // 2, total - total // 2)])


def torch_forward(architecture, contract, weights, pictures):
    """The same network in plain torch functions and float64, for what torchvision's class cannot be."""
    held = {slot: torch.from_numpy(np.asarray(array, np.float64)) for slot, array in weights.items()}

    def norm_relu(x, unit):
        scale, shift, mean, variance = (held[Slot(unit, role)] for role in ROLES["norm"])
        return functional.relu(functional.batch_norm(x, mean, variance, scale, shift, eps=contract.epsilon))

    def conv(x, unit, **how):
        return functional.conv2d(x, held[Slot(unit, "kernel")].permute(3, 2, 0, 1), **how)

    x = torch_stem(architecture.stem, contract.stem_padding, to_torch(pictures), conv, norm_relu)
    up = {"ceil_mode": contract.pool_rounding == "ceil", "count_include_pad": False}
    for unit in [unit for unit in architecture.units if not unit.startswith("stem")]:
        place, _, part = unit.rpartition(".")
        if part == "norm1":
            new = norm_relu(x, unit)
        elif part == "norm2":
            new = norm_relu(new, unit)
        elif part in ("conv1", "conv2"):
            new = conv(new, unit, padding=held[Slot(unit, "kernel")].shape[0] // 2)
            x = torch.cat([x, new], 1) if (part == "conv2") is bool(architecture.bottleneck) else x
        elif place.startswith("transition") and part == "conv":
            x = functional.avg_pool2d(conv(norm_relu(x, f"{place}.norm"), unit), 2, **up)
    x = norm_relu(x, "final.norm")
    if architecture.classes is None:
        return x.permute(0, 2, 3, 1).numpy()
    return (x.mean((2, 3)) @ held[Slot("head.dense", "kernel")] + held[Slot("head.dense", "bias")]).numpy()


def torch_stem(kind, padding, x, conv, norm_relu):
    """What stands before the first dense block, with a max pool."""
    if kind == "cifar":
        return conv(x, "stem.conv", padding=1)
    if kind == "imagenet":
        x = norm_relu(conv(padded(x, 7, padding), "stem.conv", stride=2), "stem.norm")
    else:
        x = norm_relu(conv(padded(x, 3, padding), "stem.conv1", stride=2), "stem.norm1")
        x = norm_relu(conv(x, "stem.conv2", padding=1), "stem.norm2")
        x = norm_relu(conv(x, "stem.conv3", padding=1), "stem.norm3")
    return functional.max_pool2d(padded(x, 3, padding), 3, 2)


def apart(found, truth):
    """The largest difference, in deviations of the truth."""
    assert found.shape == truth.shape
    return float(np.abs(found - truth).max() / truth.std())


@pytest.fixture(scope="module")
def small():
    """A small torchvision network in float64, its architecture, and its weights in our axes."""
    network, architecture = torchvision_network(SMALL, seed=1), Architecture.named(SMALL)
    return network.double(), architecture, weights_of(network, architecture)


# -- against torchvision ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 33), (47, 64), (64, 35), (70, 70)])
def test_logits_are_torchvisions_at_even_and_odd_sizes(small, height, width):
    network, architecture, weights = small
    pictures = images(2, 70, seed=2)[:, :height, :width]
    truth = network(to_torch(pictures)).numpy()

    logits = forward(architecture, Contract(), weights, pictures)

    assert logits.dtype == np.float64
    assert apart(logits, truth) <= FULL


@pytest.mark.parametrize(
    "spec",
    [f"{SMALL},bottleneck=2", f"{SMALL},channels=1", "layers=3,growth_rate=8,init_channels=16,classes=7"],
)
def test_other_numbers_are_torchvisions_too(spec):
    network, architecture = torchvision_network(spec, seed=3).double(), Architecture.named(spec)
    pictures = images(2, 40, architecture.channels, seed=4)
    truth = network(to_torch(pictures)).numpy()

    logits = forward(architecture, Contract(), weights_of(network, architecture), pictures)

    assert apart(logits, truth) <= FULL


def test_every_units_output_is_torchvisions(small):
    """The tap sees each unit once, in order, with norms before and convolutions without the ReLU."""
    network, architecture, weights = small
    pictures, truth, taps = images(2, 40, seed=5), {}, {}
    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, unit=unit: truth.update({unit: out.numpy().copy()})
        )
        for unit, name in torchvision_names(architecture).items()
    ]
    network(to_torch(pictures))
    for hook in hooks:
        hook.remove()

    forward(architecture, Contract(), weights, pictures, tap=taps.__setitem__)

    assert list(taps) == list(architecture.units)
    wrong = {
        unit: found
        for unit, found in taps.items()
        if not apart(found, truth[unit].transpose(0, 2, 3, 1) if truth[unit].ndim == 4 else truth[unit]) <= FULL
    }
    assert wrong == {}


def test_pieces_take_another_frameworks_activations(small):
    """A dense layer fed with torch's map gives torch's new channels."""
    network, architecture, weights = small
    entering = torch.randn(2, 24, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    truth = network.features.denseblock1.denselayer2(entering.clone()).permute(0, 2, 3, 1).numpy()
    known = {"block1.layer1.concat": entering.permute(0, 2, 3, 1).numpy()}

    new = evaluate(graph(architecture, Contract()), "block1.layer2.conv2", known, weights)

    assert apart(new, truth) <= FULL


def test_blocks_and_transitions_are_torchvisions(small):
    network, architecture, weights = small
    entering = torch.randn(2, 16, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    truth = network.features.transition1(network.features.denseblock1(entering.clone())).permute(0, 2, 3, 1).numpy()
    known = {"stem.pool": entering.permute(0, 2, 3, 1).numpy()}

    left = evaluate(graph(architecture, Contract()), "transition1.pool", known, weights)

    assert apart(left, truth) <= FULL


def test_without_a_head_the_last_map_comes_after_its_relu(small):
    network, architecture, weights = small
    pictures = images(2, 64, seed=8)
    truth = torch.relu(network.features(to_torch(pictures))).permute(0, 2, 3, 1).numpy()

    last = forward(architecture.without_head(), Contract(), weights, pictures)

    assert apart(last, truth) <= FULL


def test_float32_is_float32_throughout_and_close(small):
    network, architecture, weights = small
    pictures, dtypes = images(2, 64, seed=9), set()
    truth = network(to_torch(pictures)).numpy()

    logits = forward(
        architecture,
        Contract(),
        weights,
        pictures,
        dtype=np.float32,
        tap=lambda _unit, output: dtypes.add(output.dtype.name),
    )

    assert (logits.dtype.name, dtypes) == ("float32", {"float32"})
    assert 1e-9 < apart(logits, truth) <= 1e-5


def test_the_whole_121_is_torchvisions():
    """One image of 224 pixels through the real thing."""
    network, architecture = torchvision_network("121", seed=0), Architecture.named("121")
    weights, pictures = weights_of(network, architecture), images(1, 224, seed=10)
    truth = network.double()(to_torch(pictures)).numpy()

    logits = forward(architecture, Contract(), weights, pictures)

    assert apart(logits, truth) <= FULL


# -- against timm ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["max", "blur"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 65), (66, 63)])
def test_deep_stems_are_timms(pool, height, width):
    architecture = Architecture.named(f"{SMALL},stem=deep")
    weights, pictures = random_weights(architecture), images(2, 66, seed=18)[:, :height, :width]
    truth = timm_filled(architecture, weights, pool)(to_torch(pictures)).numpy()

    logits = forward(architecture, Contract(stem_pool=pool), weights, pictures)

    assert apart(logits, truth) <= FULL


@pytest.mark.parametrize(
    ("own", "pool", "size"),
    [("densenetblur121d", "blur", 224), ("densenetblur121d", "blur", 65), ("densenet264d", "max", 65)],
)
def test_the_whole_deep_networks_are_timms(own, pool, size):
    """The numbers are those of timm's own constructors, and so are the logits."""
    architecture = Architecture.named(own)
    weights, pictures = random_weights(architecture), images(1, size, seed=19)
    network = timm_filled(architecture, weights, pool)
    truth = network(to_torch(pictures)).numpy()

    logits = forward(architecture, Contract(stem_pool=pool), weights, pictures)

    with torch.device("meta"):
        shapes = [
            {name: value.shape for name, value in one.state_dict().items()}
            for one in (getattr(timm.models.densenet, own)(), network)
        ]
    assert shapes[0] == shapes[1]
    assert apart(logits, truth) <= FULL


def test_a_map_of_one_place_cannot_be_reflected():
    architecture = Architecture.named("layers=1,growth_rate=2,init_channels=4,stem=deep,classes=2")
    weights, contract = random_weights(architecture), Contract(stem_pool="blur")

    logits = forward(architecture, contract, weights, np.zeros((1, 3, 3, 3)))

    assert np.isfinite(logits).all()
    with pytest.raises(UsageError, match="images of 2 by 2 pixels are too small"):
        forward(architecture, contract, weights, np.zeros((1, 2, 2, 3)))


# -- what torchvision's class cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "contract"),
    [
        ("layers=3-2-3,growth_rate=6,init_channels=10,bottleneck=0,reduction=0.0,stem=cifar,classes=10", Contract()),
        ("layers=3-2-3,growth_rate=6,init_channels=10,reduction=0.3,stem=cifar,classes=10", Contract(epsilon=1e-3)),
        ("layers=2-2,growth_rate=6,init_channels=10,bottleneck=0,classes=10", Contract()),
        (SMALL, Contract(stem_padding="same", epsilon=1.1e-5)),
        (f"{SMALL},channels=5", Contract(stem_padding="same")),
        (SMALL, Contract(pool_rounding="ceil")),
        (f"{SMALL},stem=deep", Contract(stem_padding="same", pool_rounding="ceil")),
        ("layers=1-1-1,growth_rate=6,init_channels=10,stem=cifar,classes=3", Contract(pool_rounding="ceil")),
        ("layers=2-2,growth_rate=6,init_channels=10,stem=cifar,classes=none", Contract()),
    ],
)
@pytest.mark.parametrize("side", [32, 35])
def test_other_stems_paddings_and_layers_are_torchs_functions(spec, contract, side):
    architecture = Architecture.named(spec)
    weights, pictures = (
        random_weights(architecture, dtype=np.float64),
        images(3, side, architecture.channels, seed=11)[:, :, :-1],
    )
    truth = torch_forward(architecture, contract, weights, pictures)

    found = forward(architecture, contract, weights, pictures)

    assert apart(found, truth) <= FULL


def test_a_published_cifar_network_is_torchs_functions():
    architecture = Architecture.named("cifar-bc-100-12")
    weights, pictures = random_weights(architecture, dtype=np.float64), images(2, 32, seed=12)
    truth = torch_forward(architecture, Contract(), weights, pictures)

    logits = forward(architecture, Contract(), weights, pictures)

    assert apart(logits, truth) <= FULL


@pytest.mark.parametrize(("side", "equal"), [(33, True), (37, True), (32, False), (34, False), (35, False)])
def test_the_two_paddings_agree_only_where_both_are_symmetric(small, side, equal):
    """Stem and pool both see an odd size exactly when the side is 1 modulo 4."""
    _, architecture, weights = small
    pictures = images(1, side, seed=13)

    both = [forward(architecture, Contract(stem_padding=rule), weights, pictures) for rule in ("symmetric", "same")]

    assert np.array_equal(*both) is equal


@pytest.mark.parametrize(("side", "equal"), [(96, True), (72, False), (97, False)])
def test_rounding_shows_only_where_a_transition_sees_an_odd_size(small, side, equal):
    """96 pixels are 24 and 12 at the two transitions, 72 are 18 and 9, 97 are 25 and 12 or 13."""
    _, architecture, weights = small
    pictures = images(1, side, seed=13)

    both = [forward(architecture, Contract(pool_rounding=rule), weights, pictures) for rule in ("floor", "ceil")]

    assert np.array_equal(*both) is equal


def test_a_hair_of_epsilon_shows(small):
    """The bound of the comparisons above tells 1.001e-5 from 1e-5."""
    _, architecture, weights = small
    pictures = images(2, 40, seed=14)
    truth = forward(architecture, Contract(epsilon=1e-5), weights, pictures)

    off = forward(architecture, Contract(epsilon=1.001e-5), weights, pictures)

    assert apart(off, truth) > 10 * FULL


@given(
    st.sampled_from([1, 3]),
    st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5)),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_any_convolution_is_torchs(side, shape, outputs, seed):
    random = np.random.default_rng(seed)
    x, kernel = random.standard_normal(shape), random.standard_normal((side, side, shape[-1], outputs))
    truth = functional.conv2d(to_torch(x), torch.from_numpy(kernel.transpose(3, 2, 0, 1)), padding=side // 2)

    found = convolved(x, kernel)

    np.testing.assert_allclose(found, truth.permute(0, 2, 3, 1).numpy(), rtol=0, atol=1e-12)


@given(
    st.lists(st.integers(1, 2), min_size=1, max_size=4),
    st.sampled_from(["imagenet", "cifar", "deep"]),
    st.sampled_from(["symmetric", "same"]),
    st.sampled_from(["floor", "ceil"]),
)
@settings(max_examples=20, deadline=None)
def test_the_smallest_image_is_the_smallest(layers, stem, padding, rounding):
    """At the smallest side a number comes out; one pixel less leaves a pool nothing."""
    architecture = Architecture(layers=tuple(layers), growth_rate=2, init_channels=4, stem=stem, classes=3)
    contract = Contract(stem_padding=padding, pool_rounding=rounding)
    weights, side = random_weights(architecture, dtype=np.float64), graph(architecture, contract).smallest_side

    logits = forward(architecture, contract, weights, np.zeros((1, side, side, 3)))

    assert np.isfinite(logits).all()
    if side > 1:
        with pytest.raises(RuntimeError, match="Output size is too small"):
            torch_forward(architecture, contract, weights, np.zeros((1, side - 1, side - 1, 3)))


def test_the_imagenet_networks_need_29_pixels():
    names = ("121", "161", "169", "201", "264", "121d", "264d")

    assert {graph(Architecture.named(name), Contract()).smallest_side for name in names} == {29}


# -- behaviour -------------------------------------------------------------------------------------------------------


def test_images_do_not_depend_on_their_company(small):
    """Images pass a few at a time; each has the logits it has alone, and none of the arguments changes."""
    _, architecture, weights = small
    pictures = images(60, 40, seed=15)  # more pixels than pass together
    before = pictures.copy(), {slot: array.copy() for slot, array in weights.items()}
    alone = np.concatenate([forward(architecture, Contract(), weights, one[None]) for one in pictures[[0, 59]]])

    together = forward(architecture, Contract(), weights, pictures)

    assert apart(together[[0, 59]], alone) <= FULL
    assert np.array_equal(before[0], pictures)
    assert all(np.array_equal(before[1][slot], weights[slot]) for slot in weights)


def test_a_tap_may_keep_what_it_gets(small):
    """Taps change nothing, and no later step writes into an array that the tap was given."""
    _, architecture, weights = small
    pictures, kept, copies = images(2, 40, seed=16), {}, {}

    def tap(unit, output):
        kept[unit], copies[unit] = output, output.copy()

    tapped = forward(architecture, Contract(), weights, pictures, tap=tap)

    assert np.array_equal(tapped, forward(architecture, Contract(), weights, pictures))
    assert all(np.array_equal(kept[unit], copies[unit]) for unit in kept)


def test_no_images_have_no_logits(small):
    _, architecture, weights = small

    assert forward(architecture, Contract(), weights, np.zeros((0, 32, 32, 3))).shape == (0, 7)


class Asked(dict):
    """Weights that remember what they were asked for."""

    def __init__(self, weights):
        super().__init__(weights)
        self.slots = []

    def __getitem__(self, slot):
        self.slots.append(slot)
        return super().__getitem__(slot).astype(np.float16)  # any floating type will do


def test_each_slot_is_asked_for_once(small):
    _, architecture, weights = small
    asked = Asked(weights)

    forward(architecture, Contract(), asked, images(1, 32))

    assert asked.slots == list(architecture.slots)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_stays_so_in_silence(small, value):
    """Warnings are errors in these tests: there are none, and only the image that holds the value has it."""
    _, architecture, weights = small
    pictures = images(2, 40, seed=17)
    pictures[0, 20, 20] = value

    logits = forward(architecture, Contract(), weights, pictures)

    assert np.isfinite(logits).all(axis=1).tolist() == [False, True]


def test_a_negative_variance_is_not_hidden(small):
    _, architecture, weights = small
    slot = Slot("final.norm", "variance")

    logits = forward(architecture, Contract(), weights | {slot: -weights[slot]}, images(1, 32))

    assert np.isnan(logits).all()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 32, 32, 4), "images must have the axes n h w c with c=3, found shape (1, 32, 32, 4)"),
        ((1, 3, 32, 32), "images must have the axes n h w c with c=3, found shape (1, 3, 32, 32)"),
        ((32, 32, 3), "images must have the axes n h w c with c=3, found shape (32, 32, 3)"),
        ((1, 12, 32, 3), f"images of 12 by 32 pixels are too small: DenseNet {SMALL} needs 13 by 13"),
    ],
)
def test_images_that_the_network_cannot_take_are_refused(small, shape, message):
    _, architecture, weights = small

    with pytest.raises(UsageError) as error:
        forward(architecture, Contract(), weights, np.zeros(shape))

    assert str(error.value) == message


def test_28_pixels_are_too_few_for_121():
    with pytest.raises(UsageError, match="28 by 28 pixels are too small: DenseNet 121 needs 29 by 29"):
        forward(Architecture.named("121"), Contract(), np.zeros, np.zeros((1, 28, 28, 3)))


def test_half_precision_is_refused(small):
    _, architecture, weights = small

    with pytest.raises(UsageError, match="float32 or float64, not in float16"):
        forward(architecture, Contract(), weights, images(1, 32), dtype=np.float16)


def test_a_missing_slot_is_named(small):
    _, architecture, weights = small
    slot = Slot("block2.layer3.conv1", "kernel")

    with pytest.raises(MisfitError) as error:
        forward(architecture, Contract(), {s: a for s, a in weights.items() if s != slot}, images(1, 32))

    assert str(error.value) == "the weights lack block2.layer3.conv1.kernel"


def test_a_turned_kernel_is_named(small):
    _, architecture, weights = small
    slot = Slot("block2.layer3.conv1", "kernel")

    with pytest.raises(MisfitError) as error:
        forward(architecture, Contract(), weights | {slot: weights[slot].transpose(3, 2, 0, 1)}, images(1, 32))

    expected, found = weights[slot].shape, weights[slot].transpose(3, 2, 0, 1).shape
    assert str(error.value) == f"block2.layer3.conv1.kernel: expected shape {expected}, found {found}"
