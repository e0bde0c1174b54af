"""The numbers of a DenseNet: names, shapes and counts that follow from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from densenet_port.errors import MisfitError, UsageError
from densenet_port.network.architecture import NAMED, Architecture, cifar, infer, name_in_order
from densenet_port.network.contract import Contract

IMAGENET = {  # trained values, statistics, convolutions, norms, tensors; torchvision and keras.applications agree
    "121": (7_978_856, 83_648, 120, 121, 606),
    "161": (28_681_000, 219_936, 160, 161, 806),
    "169": (14_149_480, 158_400, 168, 169, 846),
    "201": (20_013_928, 229_056, 200, 201, 1006),
    "264": (33_337_704, 398_528, 264, 265, 1326),
    "121d": (7_998_088, 83_776, 122, 123, 616),  # timm's, as timm counts them
    "264d": (72_736_216, 597_984, 266, 267, 1336),
}
CIFAR = [  # depth, growth rate, first channels, bottleneck, classes; trained values, statistics, convolutions, channels
    (40, 12, None, False, 10, 1_059_298, 18_720, 39, 456),
    (40, 12, None, False, 100, 1_100_428, 18_720, 39, 456),
    (40, 12, 16, False, 10, 1_019_722, 18_096, 39, 448),
    (40, 12, 12, False, 100, 1_040_080, 17_784, 39, 444),
    (100, 12, None, False, 10, 7_083_538, 118_800, 99, 1176),
    (100, 12, 16, False, 10, 6_979_642, 117_216, 99, 1168),
    (100, 24, None, False, 10, 28_071_706, 237_600, 99, 2352),
    (100, 24, 16, False, 10, 27_249_082, 231_264, 99, 2320),
    (100, 12, None, True, 10, 769_162, 23_988, 99, 342),
    (100, 12, None, True, 100, 800_032, 23_988, 99, 342),
    (250, 24, None, True, 10, 15_324_406, 257_976, 249, 1734),
    (250, 24, None, True, 100, 15_480_556, 257_976, 249, 1734),
    (190, 40, None, True, 10, 25_624_430, 256_960, 189, 2190),
    (190, 40, None, True, 100, 25_821_620, 256_960, 189, 2190),
    (40, 12, None, True, 10, 176_122, 5_088, 39, 132),
]


def architectures():
    """Any small architecture, with and without bottleneck, reduction and head."""
    return st.builds(
        Architecture,
        layers=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
        growth_rate=st.integers(2, 12),
        init_channels=st.integers(4, 12).map(lambda half: 2 * half),
        bottleneck=st.sampled_from([0, 1, 2, 4]),
        reduction=st.sampled_from([0.0, 0.25, 0.5]),
        stem=st.sampled_from(["imagenet", "cifar", "deep"]),
        channels=st.integers(1, 4),
        classes=st.none() | st.integers(1, 20),
    )


@pytest.mark.parametrize("name", IMAGENET)
def test_published_networks_have_their_published_counts(name):
    """Values, statistics, convolutions, norms and tensors of the ImageNet networks."""
    arch = Architecture.named(name)

    kinds = [unit.kind for unit in arch.units.values()]

    found = (arch.trainable, arch.statistics, kinds.count("conv"), kinds.count("norm"), len(arch.slots))
    assert found == IMAGENET[name]


@pytest.mark.parametrize(("depth", "k", "first", "bottleneck", "classes", *"tscw"), CIFAR)
def test_cifar_networks_have_their_published_counts(depth, k, first, bottleneck, classes, t, s, c, w):
    """The rows of the CIFAR family, with the code's first channels (2k) and the paper's."""
    arch = cifar(depth, k, bottleneck=bottleneck, reduction=0.5 if bottleneck else 0.0)
    arch = Architecture(**{**arch.__dict__, "init_channels": first or 2 * k, "classes": classes})

    convs = [unit for unit in arch.units.values() if unit.kind == "conv"]

    assert (arch.trainable, arch.statistics, len(convs), arch.units["final.norm"].sizes["c"]) == (t, s, c, w)


@given(architectures())
def test_an_architecture_is_found_again_from_its_kernels(arch):
    """The sizes of the kernels alone say every number that they can say."""
    found = infer({unit.name: unit.sizes for unit in arch.units.values() if unit.kind != "norm"})

    assert found.units == arch.units


@given(architectures())
def test_convolutions_in_order_find_their_names(arch):
    """Kernel sizes in order of execution say which unit each one is."""
    convs = [unit for unit in arch.units.values() if unit.kind == "conv"]

    assert name_in_order([unit.sizes for unit in convs]) == [unit.name for unit in convs]


@given(architectures())
def test_an_architecture_survives_its_spec_and_its_json(arch):
    """What `--arch` shows can be given back, and so can what files record."""
    assert (Architecture.named(arch.spec), Architecture.from_json(arch.to_json())) == (arch, arch)


@pytest.mark.parametrize("name", NAMED)
def test_named_architectures_know_their_name_and_depth(name):
    """The name comes back, and the depth is the one in the name."""
    arch = Architecture.named(name)

    depth = int(name.removeprefix("cifar-").removeprefix("bc-").split("-")[0].rstrip("d"))
    more = name.startswith("264") + 2 * name.endswith("d")  # 264 has 265 layers by the paper's own count
    assert (arch.name, arch.depth) == (name, depth + more)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("densenet121", "121"),
        ("DenseNet-121", "121"),
        (" 121 ", "121"),
        ("densenetblur121d", "121d"),
        ("densenet264d", "264d"),
    ],
)
def test_a_name_may_be_spelled_as_people_do(name, known):
    """Capitals and the family's name do not matter."""
    assert Architecture.named(name) == NAMED[known]


def test_a_deep_stem_has_three_convolutions_in_the_place_of_one():
    """Half the channels in the first two; the rest of the network is the same."""
    deep, plain = NAMED["121d"].units, NAMED["121"].units

    stem = [unit for unit in deep.values() if unit.name.startswith("stem")]
    found = [(unit.name, *unit.sizes.values()) for unit in stem]
    assert found == [
        ("stem.conv1", 3, 3, 3, 32),
        ("stem.norm1", 32),
        ("stem.conv2", 3, 3, 32, 32),
        ("stem.norm2", 32),
        ("stem.conv3", 3, 3, 32, 64),
        ("stem.norm3", 64),
    ]
    assert list(deep.values())[6:] == list(plain.values())[2:]


def test_a_deep_stem_is_no_dense_block():
    """Kernels of the same sides in the same order: only the channels tell the two networks apart."""
    deep = Architecture.named("layers=2,growth_rate=4,init_channels=8,stem=deep")
    wide = Architecture.named("layers=2-1-1,growth_rate=4,init_channels=8,bottleneck=0,stem=cifar")
    convs = [[unit for unit in arch.units.values() if unit.kind == "conv"] for arch in (deep, wide)]
    sides = [[unit.sizes["h"] for unit in units] for units in convs]

    named = [name_in_order([unit.sizes for unit in units]) for units in convs]

    assert sides[0] == sides[1]
    assert named == [[unit.name for unit in units] for units in convs]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("122", "unknown architecture '122'"),
        ("layers=6-12,growth_rate=32", "--arch layers=6-12,growth_rate=32 lacks init_channels"),
        ("layers=6-x,growth_rate=32", "--arch layers=6-x,growth_rate=32: layers cannot be '6-x'"),
        ("layers=6,growth=32", "unknown number 'growth' in --arch layers=6,growth=32"),
        ("layers=6,growth_rate=0,init_channels=8", "no DenseNet has these numbers"),
        ("layers=6,growth_rate=4,init_channels=8,reduction=1.5", "reduction must be at least 0 and below 1, found 1.5"),
        (
            "layers=6,growth_rate=4,init_channels=8,stem=wide",
            "unknown stem 'wide' (known: imagenet, cifar, cifar-norm, deep, 5x5, 5x5-norm …)",
        ),
        (
            "layers=6,growth_rate=4,init_channels=9,stem=deep",
            "a deep stem's init_channels must be a multiple of 2, found 9",
        ),
    ],
)
def test_a_name_that_means_nothing_is_refused(text, message):
    """The error says which number, and what it was."""
    with pytest.raises(UsageError) as error:
        Architecture.named(text)

    assert error.value.message.startswith(message)


@pytest.mark.parametrize(
    ("kernels", "message"),
    [
        ([], "no convolution found"),
        ([(7, 7), (1, 1), (5, 5)], "convolution 3 of 3 has a 5x5 kernel; DenseNets have 1x1 and 3x3"),
    ],
)
def test_an_order_of_kernels_that_no_densenet_has_is_refused(kernels, message):
    """A residual network's 5×5 or an empty file is no DenseNet."""
    with pytest.raises(MisfitError) as error:
        name_in_order([{"h": h, "w": w, "i": 8, "o": 8} for h, w in kernels])

    assert error.value.message == message


def test_a_contract_survives_its_json():
    """What a file records is what was meant."""
    contract = Contract(epsilon=1.1e-5, stem_padding="same", output="softmax")

    assert Contract.from_json(contract.to_json()) == contract
