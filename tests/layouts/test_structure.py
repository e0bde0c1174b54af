"""Where no table has the names, sizes and neighbourhood place every tensor; what they leave open is not guessed."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
import torchvision
from torch import nn

from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.conversion.notes import assumption
from densenet_port.errors import MisfitError
from densenet_port.files import resource
from densenet_port.layouts.closing import Words
from densenet_port.layouts.identify import identify
from densenet_port.layouts.structure import ledger_of
from densenet_port.network.architecture import NAMED, Architecture
from tests.layouts.test_layout import KEYS, sketch, spelled
from tests.support.real import REAL
from tests.support.renamed import by_tokens, in_file_order, renamed, trained, unlike
from tests.support.sweep import WHOLE

ALL = sorted(KEYS.glob("*.txt"))
LISTS = ALL if WHOLE else unlike(ALL)
FULL = 1e-10  # of the logits' deviation: float64's rounding
NUMBERED = ("titu1994",)  # names without a hierarchy
UNDERSCORED = ("gluon_blocks",)  # one sign parts a unit from its tensor and the words of `running_mean`
WORDLESS = (
    "onnx-1",
    "onnx-2",
    "onnx_folded",
)  # a norm's vectors have nothing in common with each other, or with a kernel's
STEMS_ALIKE = ("timm-blur", "timm-deep")  # two of the stem's three norms have one size, and no name beside them


# -- recorded lists under other names ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_without_names_the_order_of_the_file_places_every_tensor(path):
    """Every name is a random word: the same architecture, and every tensor in the same slot."""
    file, ledger = trained(path)
    nameless, names = renamed(file, in_file_order, shuffled=False)

    structure = identify(nameless)

    assert structure.layout.name == "structure"
    assert (body_of(structure), places(structure)) == (body_of(ledger), places(ledger, names))


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_without_order_the_hierarchy_of_names_places_every_tensor(path):
    """Shuffled, and every token a random word; where that leaves something open, it is told and nothing is guessed."""
    file, ledger = trained(path)
    bag, names = renamed(file, by_tokens, shuffled=True)

    if path.stem.startswith((*NUMBERED, *WORDLESS, *STEMS_ALIKE, *UNDERSCORED)):
        with pytest.raises(MisfitError, match="stays open|its norms are not"):
            identify(bag)
        return
    structure = identify(bag)

    assert (body_of(structure), places(structure)) == (body_of(ledger), places(ledger, names))


def body_of(ledger):
    """The architecture, and which tensors its head has; what stands between them is the table's to say."""
    return replace(ledger.architecture, head="mean/dense")


def places(ledger, names=None):
    """Each tensor of the layout → the file's, under its new name."""
    return {key: names[claim.name] if names else claim.name for key, claim in ledger.claims.items()}


@pytest.mark.parametrize("name", NAMED)
def test_every_published_network_is_known_by_its_sizes(name):
    """In the order of execution, torch's; and in alphabetical order, in which 10 comes before 2."""
    tensors = {f"x.{key}": size for key, size in spelled("onnx", NAMED[name]).items()}

    ledgers = [ledger_of(sketch(each), Words()) for each in (tensors, dict(sorted(tensors.items())))]

    assert [ledger.architecture for ledger in ledgers] == [NAMED[name]] * 2
    assert all(
        claim.name == f"x.{key.unit}.{END[key.part]}" for ledger in ledgers for key, claim in ledger.claims.items()
    )


END = {"kernel": "weight", **{part: part for part in ("bias", "scale", "shift", "mean", "variance")}}
OTHERS = {
    "a stem of 5×5": {"stem": "5x5"},
    "a stem of 5×5 with a norm": {"stem": "5x5-norm"},
    "a stem of 3×3 with a norm": {"stem": "cifar-norm"},
    "three convolutions": {"stem": "deep"},
    "one block": {"layers": (5,)},
    "no bottleneck": {"bottleneck": 0, "stem": "cifar"},
    "every transition another": {"layers": (2, 3, 2), "reduction": (0.25, 0.5)},
    "no compression": {"reduction": 0.0},
    "no final norm": {"final_norm": False},
    "no head": {"classes": None},
    "grey pictures": {"channels": 1},
}


OPEN = ("every transition another",)  # sizes alone allow other blocks too: order tells


@pytest.mark.parametrize("name", OTHERS)
def test_networks_of_other_numbers_are_known_by_their_sizes(name):
    numbers = {"layers": (3, 12), "growth_rate": 8, "init_channels": 16, "classes": 7}
    architecture = Architecture(**{**numbers, **OTHERS[name]})

    forwards = spelled("onnx", architecture)
    for tensors in (forwards, forwards if name in OPEN else backwards(forwards)):
        ledger = ledger_of(sketch({f"x.{key}": size for key, size in tensors.items()}), Words())

        assert ledger.architecture == architecture
        assert {key.unit: claim.unit_name.removeprefix("x.") for key, claim in ledger.claims.items()} == {
            unit: unit for unit in architecture.units
        }


def backwards(tensors):
    """Tensors from the last to the first, as no software saves them."""
    return dict(reversed(tensors.items()))


def test_transitions_that_stand_last_are_placed():
    """Blocks first, transitions behind the head, and no names."""
    architecture = NAMED["cifar-bc-100-12"]
    tensors = spelled("onnx", architecture)
    last = {name: size for name, size in tensors.items() if name.startswith("transition")}
    order = {**{name: size for name, size in tensors.items() if name not in last}, **last}
    names = in_file_order([*order], "last")

    ledger = ledger_of(sketch({names[name]: size for name, size in order.items()}), Words())

    assert all(claim.name == names[f"{key.unit}.{END[key.part]}"] for key, claim in ledger.claims.items())


@pytest.mark.parametrize("layout", ["keras", "onnx"])
def test_axes_are_told_by_the_chain(layout):
    """Kernels are `h w i o` or `o i h w` as a whole file."""
    tensors = spelled(layout, NAMED["cifar-40-12"])
    names = in_file_order([*tensors], layout)

    ledger = ledger_of(sketch({names[name]: size for name, size in tensors.items()}), Words())

    axes = {claim.axes for key, claim in ledger.claims.items() if key.unit.endswith("conv1")}
    assert (ledger.architecture, axes) == (NAMED["cifar-40-12"], {"h w i o" if layout == "keras" else "o i h w"})


# -- what is told ------------------------------------------------------------------------------------------------------

SMALL = Architecture(layers=(2, 3), growth_rate=4, init_channels=8, classes=5, stem="cifar")


def words(tensors, rename=lambda name: name):
    """A file of tensors under other names."""
    return sketch({rename(name): size for name, size in tensors.items()})


def other(name):
    """A name that no table has."""
    return name.replace("block", "stage").replace("stem.conv", "first").replace("final.norm", "last")


def test_the_result_says_that_it_is_read_by_structure_and_what_is_assumed():
    network = read(words(spelled("onnx", SMALL), other))

    assert (network.layout, set(network.origins.values())) == ("structure", {"assumed"})
    assert network.ledger.notes == (
        (
            "read by structure: 25 modules, from first (taken for stem.conv) to head.dense (head.dense), are placed by "
            "their sizes and what they stand beside"
        ),
    )
    assert assumption(network) == (
        "assumed: epsilon 1e-05, stride 1 of the stem's 3×3 convolution, pools that round down, output logits, input "
        "rgb, scale 255, mean 0.485/0.456/0.406, std 0.229/0.224/0.225, old channels before new ones"
    )


def test_a_table_of_one_s_own_never_falls_back(tmp_path):
    """What the user's table lacks is told, and the structure is not asked."""
    table = tmp_path / "mine.toml"
    table.write_text(
        (KEYS.parents[2] / "mappings" / "onnx.toml").read_text("utf-8").replace('"stem.conv"  ', '"stem.conv" ')
    )

    with pytest.raises(MisfitError, match="does not have the names|misfit|no line"):
        read(words(spelled("onnx", SMALL), lambda name: f"x{other(name)}"), src=table)


def test_the_structure_can_be_asked_for():
    """Where a table fits, too."""
    file = sketch(spelled("torchvision", NAMED["121"]))

    assert (read(file).layout, read(file, src="structure").layout) == ("torchvision", "structure")


def test_another_architecture_than_the_user_s_is_refused():
    with pytest.raises(MisfitError) as error:
        read(words(spelled("onnx", SMALL), other), arch="121")

    assert str(error.value) == (
        f"sketch.pth: by structure a DenseNet {replace(SMALL, classes=1000).name}\n  leave out --arch 121"
    )


def test_a_file_read_by_structure_is_converted(tmp_path):
    """Written as Keras and read again it is the same network."""
    torch.manual_seed(0)
    module = Own()
    torch.save(module.state_dict(), tmp_path / "own.pth")

    conversion = convert(tmp_path / "own.pth", out=tmp_path / "own.weights.h5")

    images = np.random.default_rng(0).standard_normal((2, 16, 16, 3))
    port = read(tmp_path / "own.weights.h5")
    logits = module.double().eval()(torch.from_numpy(images).permute(0, 3, 1, 2)).detach().numpy()
    # the biases go into float32 tensors, of which each logit sums some hundred: 1e-5 of the deviation
    assert np.abs(port(images) - logits).max() <= 1e-5 * logits.std()
    assert np.abs(read(tmp_path / "own.pth")(images) - logits).max() <= FULL * logits.std()
    assert conversion.notes[0].startswith("read by structure: ")


class Own(nn.Module):
    """Somebody's DenseNet: no bottleneck, biases everywhere, no final norm, names of its own."""

    def __init__(self):
        super().__init__()
        self.entry = nn.Conv2d(3, 8, 3, padding=1)
        self.one = nn.ModuleList(layer(8 + 4 * place) for place in range(2))
        self.shrink = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.AvgPool2d(2))
        self.two = nn.ModuleList(layer(8 + 4 * place) for place in range(3))
        self.answer = nn.Linear(20, 5)
        for norm in self.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_(0, 0.3)
                norm.running_var.uniform_(0.5, 1.5)

    def forward(self, x):
        """Logits of images."""
        x = self.entry(x)
        for step in self.one:
            x = torch.cat([x, step(x)], 1)
        x = self.shrink(x)
        for step in self.two:
            x = torch.cat([x, step(x)], 1)
        return self.answer(x.mean((2, 3)))


def layer(channels):
    """A dense layer with a bias on its convolution."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 4, 3, padding=1))


def test_a_bias_that_nothing_takes_up_is_refused(tmp_path):
    """Without its head, the network's last map has biases."""
    torch.save(Own().state_dict(), tmp_path / "own.pth")

    with pytest.raises(MisfitError, match="has a bias that reaches the last map"):
        read(tmp_path / "own.pth", no_top=True)


# -- several networks --------------------------------------------------------------------------------------------------

PAIR = Architecture(layers=(3, 2), growth_rate=4, init_channels=8, classes=9, stem="cifar")


def test_several_networks_are_listed_and_one_is_taken():
    both = {f"teacher.{other(name)}": size for name, size in spelled("onnx", SMALL).items()}
    both |= {f"student.{other(name)}": size for name, size in spelled("onnx", PAIR).items()}
    names = [replace(one, classes=1000).name for one in (PAIR, SMALL)]

    with pytest.raises(MisfitError) as error:
        read(sketch(both))

    assert str(error.value) == (
        f"sketch.pth: 2 networks in one file, under 'student.' ({names[0]}), 'teacher.' ({names[1]})\n"
        "  say which one to take: --within student or --within teacher"
    )
    assert read(sketch(both), within="student").architecture == PAIR


@pytest.mark.parametrize("rename", [str, other], ids=["a table's names", "names of its own"])
def test_the_one_at_the_root_is_taken_by_a_dot(rename):
    """Beside an average of it, whose names begin with `ema.`."""
    plain = {rename(name): size for name, size in spelled("torchvision", NAMED["121"]).items()}
    file = sketch({**plain, **{f"ema.{name}": size for name, size in plain.items()}})

    with pytest.raises(MisfitError, match=r"--within ema .*--within \.|--within \. .*--within ema"):
        read(file)
    network = read(file, within=".")

    assert network.architecture == NAMED["121"]
    assert {claim.name for claim in network.ledger.claims.values()} == set(plain)


# -- refusals ----------------------------------------------------------------------------------------------------------

NEXT_STEP = (
    "only a DenseNet is converted; if it is one, a table of your own names its tensors "
    "(--mapping, see docs/add-a-layout.md)"
)
MODELS = {
    "resnet18": "among its 20 the longest is 1 layer (layer2.0.conv2)",
    "vgg11_bn": "among its 8 the longest is 1 layer (features.15)",
    "mobilenet_v2": "among its 52 the longest is 0 layers",
    "efficientnet_b0": "among its 81 the longest is 0 layers",
    "vit_b_16": "among its 1 the longest is 0 layers",
}


@pytest.mark.parametrize("name", MODELS)
def test_another_network_is_refused_in_three_lines(name):
    with torch.device("meta"):
        state = getattr(torchvision.models, name)().state_dict()
    file = sketch({key: (tuple(value.shape), str(value.dtype)[6:]) for key, value in state.items()})

    with pytest.raises(MisfitError) as error:
        identify(file)

    assert str(error.value) == (
        f"sketch.pth: no chain of convolutions that each add the same number of channels: {MODELS[name]}\n  {NEXT_STEP}"
    )


def changed(changes):
    """A small network under its own names with other sizes, or without some tensors."""
    tensors = {other(name): size for name, size in spelled("onnx", SMALL).items()}
    return sketch({name: size for name, size in (tensors | changes).items() if size})


BREAKS = {
    "a wide transition": (
        {"transition1.conv.weight": ((8, 16, 2, 2), "float32")},
        "its transition transition1.conv has a 2×2 kernel, expected 1×1 (16 channels)",
    ),
    "a layer that lacks its second convolution": (
        {"stage2.layer2.conv2.weight": None},
        (
            "its convolutions chain as a DenseNet's up to block2.layer2, which leaves 16 channels\n"
            "  expected a convolution that reads 16, or none; found stage2.layer3.conv1 (1×1, 16 to 16 channels)"
        ),
    ),
    "a layer of another width": (
        {"stage2.layer3.conv2.weight": ((5, 16, 3, 3), "float32")},
        (
            "stage2.layer3.conv2 is no dense layer's as the others are: expected 3×3, 16 to 4 channels, "
            "found 3×3, 16 to 5 channels"
        ),
    ),
    "a norm of another length": (
        {f"last.{part}": ((21,), "float32") for part in ("scale", "shift", "mean", "variance")},
        (
            f"its convolutions are those of a DenseNet {replace(SMALL, classes=1000).name}, its norms are not: "
            "expected 12, found 12\n  there is none for final.norm, of 20 channels"
        ),
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_near_miss_names_what_breaks_the_chain(name):
    changes, message = BREAKS[name]

    with pytest.raises(MisfitError) as error:
        identify(changed(changes))

    assert str(error.value) == f"sketch.pth: {message}\n  {NEXT_STEP}"


def test_what_stands_beside_is_named_and_the_body_taken():
    """A head that reads another number of channels."""
    file = changed({"head.dense.weight": ((5, 70), "float32")})

    with pytest.raises(MisfitError) as error:
        read(file)

    assert str(error.value) == (
        f"sketch.pth: by structure a DenseNet {replace(SMALL, classes=1000).name}; beside its body\n"
        "  head.dense.weight (5, 70), head.dense.bias (5,)\n  --no-top takes the body"
    )
    assert read(file, no_top=True).architecture == SMALL.without_head()


# -- real files --------------------------------------------------------------------------------------------------------

real = pytest.mark.skipif(REAL is None, reason="the real files are not at hand")
READ = {
    "bc100-andreasveit-names.pth.tar": "andreasveit",
    "bc-6-12-24-own-names.pth": "structure",
    "bc100-stem-norm.pth": "structure",
    "bc100-torchvision-names.pth": "torchvision",
}


@real
@pytest.mark.parametrize("name", READ)
def test_a_stranger_s_file_is_read_as_its_own_function(name):
    with np.load(REAL / f"{name.partition('.')[0]}.npz") as recorded:
        pictures, logits = recorded["x"], recorded["y"]

    network = read(REAL / name)

    assert network.layout in READ[name]
    assert np.abs(network(pictures) - logits).max() <= FULL * logits.std()


@real
@pytest.mark.parametrize(
    ("name", "layers", "no_top"),
    [
        ("two-blocks-conv-bias.pth", (4, 4), False),
        ("kuangliu-names-new-first-flat-head.pth", (12, 14, 12, 14), True),
        ("keras-by-number-flat-head.h5", (7, 7, 7, 7), True),
    ],
)
def test_a_stranger_s_file_is_read(name, layers, no_top):
    assert read(REAL / name, no_top=no_top).architecture.layers == layers


@real
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unet-blocks-from-0-module.pth", "has a 2×2 kernel, expected 1×1"),
        ("segmentation-dense-encoder.h5", "chain as a DenseNet's up to"),
        ("keras-3d.h5", "three-dimensional"),
        ("concatenates-twice.h5", "no chain of convolutions that each add the same number of channels"),
        ("relu-behind-conv.onnx", "found Relu"),
    ],
)
def test_a_stranger_s_other_network_is_refused_in_words(name, message):
    with pytest.raises(MisfitError, match=message) as error:
        read(REAL / name)

    assert len(str(error.value).splitlines()) <= 3


def test_a_model_of_tensors_alone_is_read_by_its_structure(tmp_path):
    """ONNX initialisers, without a node that uses them."""
    network = read(resource("weights") / "sample" / "digits.pth")
    model = onnx.load(network.write(tmp_path / "whole.onnx", layout="onnx", dtype="float32").out)
    del model.graph.node[:], model.metadata_props[:]
    for place, tensor in enumerate(model.graph.initializer):
        tensor.name = f"t{place}"
    onnx.save(model, tmp_path / "bare.onnx")

    bare = read(tmp_path / "bare.onnx")

    assert bare.layout == "structure"
    assert all(np.array_equal(bare.weights[slot], array) for slot, array in network.weights.items())
