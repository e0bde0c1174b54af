"""Networks in classes of people's own: other names around torchvision's, other heads, and what else a file holds.

Small networks of torchvision's class with random statistics; every logit is torch's own, in float64, to rounding
(1e-10 of the logits' deviation).
"""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.fx.experimental.optimization import fuse

from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.errors import MisfitError
from densenet_port.layouts.match import FOLDED
from densenet_port.network.architecture import Architecture
from densenet_port.network.numpy import forward
from densenet_port.prove.checks import BOUND64
from densenet_port.prove.parity import check
from tests.support.networks import images, torchvision_network
from tests.support.torch_networks import logits, saved

SMALL = Architecture.named("layers=2-3-2,growth_rate=8,init_channels=16,classes=7")
CHANNELS = 36  # of the last map
IMAGES = images(2)


def network(seed=0):
    return torchvision_network(SMALL, seed)


def renamed(old, new, state):
    return {name.replace(old, new): value for name, value in state.items()}


def prefixed(before, state):
    return {before + name: value for name, value in state.items()}


def apart(port, truth):
    """The largest difference of a network's logits, in deviations of the truth."""
    found = forward(port.architecture, port.contract, port.weights, IMAGES)
    return np.abs(found - truth).max() / truth.std()


def last_map(model):
    """Torch's own last map behind its ReLU, `n h w c` in float64."""
    pictures = torch.from_numpy(IMAGES.astype(np.float64)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return model.double().features(pictures).relu().permute(0, 2, 3, 1).numpy()


class Holder(nn.Module):
    """A model that holds these modules under these names."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


# -- names around the network ----------------------------------------------------------------------------------------


def children(model):
    return nn.Sequential(*list(model.children())[:-1], nn.Flatten(), model.classifier)


def in_sequential(model):
    """Fastai's order: the body's children, then the head's layers."""
    return nn.Sequential(nn.Sequential(*model.features), nn.Sequential(nn.Flatten(), nn.Dropout(), model.classifier))


def nested(model):
    return Holder(module=Holder(cnn=Holder(trunk=model.features), head=Holder(fc=model.classifier)))


def flat(model):
    """A class with the body's modules and the head side by side."""
    return Holder(**dict(model.features.named_children()), classifier=model.classifier)


AROUND = {
    "base": lambda model: Holder(base=model.features, classifier=model.classifier),
    "encoder and fc": lambda model: Holder(encoder=model.features, fc=model.classifier),
    "backbone and output": lambda model: Holder(backbone=model.features, output=model.classifier),
    "children": children,
    "the head before the body": lambda model: Holder(logits=model.classifier, cnn=model.features),
    "several deep": nested,
    "flat": flat,
    "flat, in parallel": lambda model: nn.DataParallel(flat(model)),
    "last_linear": lambda model: Holder(features=model.features, last_linear=model.classifier),
    "a head in a dict": lambda model: Holder(
        features=model.features, classifier=nn.Sequential(OrderedDict(drop=nn.Dropout(), fc=model.classifier))
    ),
}


@pytest.mark.parametrize("name", AROUND)
def test_a_network_in_a_class_of_one_s_own_is_found(name, tmp_path):
    """Whatever stands in front of its names, in place of `features.`, and whatever the head is called."""
    path = saved(tmp_path / "x.pth", AROUND[name](network()).state_dict())

    port = read(path)

    assert (port.layout, port.architecture) == ("torchvision", SMALL)
    assert apart(port, logits(network(), IMAGES)) <= BOUND64


def test_numbers_for_names_are_found(tmp_path):
    """Modules that have lost their names are placed by their sizes, and the contract is an assumption."""
    path = saved(tmp_path / "x.pth", in_sequential(network()).state_dict())

    port = read(path)

    assert (port.layout, port.architecture) == ("structure", SMALL)
    assert set(port.origins.values()) == {"assumed"}
    assert apart(port, logits(network(), IMAGES)) <= BOUND64


def test_a_head_that_is_taken_by_what_is_left_is_told(tmp_path):
    """It is the reader's to know that no line of the table named it."""
    path = saved(tmp_path / "x.pth", AROUND["backbone and output"](network()).state_dict())

    notes = convert(path, out=None).notes

    assert notes == (
        "output is taken for the head: it is the only layer left over, and reads the channels of the last map",
    )


NO_HEADS = {
    "another number of channels": {"out.weight": torch.ones(7, 35), "out.bias": torch.ones(7)},
    "a bias of another length": {"out.weight": torch.ones(7, CHANNELS), "out.bias": torch.ones(8)},
    "more than kernel and bias": {"out.weight": torch.ones(7, CHANNELS), "out.scale": torch.ones(7)},
    "a convolution": {"out.weight": torch.ones(7, CHANNELS, 1, 1), "out.bias": torch.ones(7)},
    "a layer within the body": {"encoder.denseblock1.out.weight": torch.ones(7, CHANNELS)},
}


@pytest.mark.parametrize("name", NO_HEADS)
def test_what_is_no_head_is_not_taken_for_one(name, tmp_path):
    """It must read the last map's channels, be a dense layer, and stand outside of the body."""
    body = prefixed("encoder.", network().features.state_dict())
    path = saved(tmp_path / "x.pth", {**body, **NO_HEADS[name]})

    with pytest.raises(MisfitError):
        read(path)


def test_a_head_without_a_bias_gets_one_of_zeros(tmp_path):
    model = network()
    model.classifier = nn.Linear(CHANNELS, 4, bias=False)
    path = saved(tmp_path / "x.pth", model.state_dict())

    port, notes = read(path), convert(path, out=None).notes

    assert apart(port, logits(model, IMAGES)) <= BOUND64
    assert notes == ("the head (classifier) has no bias: it gets one of zeros, which does the same",)


# -- biases of convolutions ------------------------------------------------------------------------------------------


def biased(model, everywhere):
    """The model with a random bias in its first convolution, or in every one."""
    generator = torch.Generator().manual_seed(0)
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    for conv in convs if everywhere else convs[:1]:
        conv.bias = nn.Parameter(torch.randn(conv.out_channels, generator=generator), requires_grad=False)
    return model


@pytest.mark.parametrize("everywhere", [False, True], ids=["in the stem", "everywhere"])
def test_biases_of_convolutions_go_into_the_norms_behind_them(everywhere, tmp_path):
    """Through joined maps and average pools, exactly: the port is torch's own network."""
    model = biased(network(), everywhere)
    path = saved(tmp_path / "x.pth", model.state_dict())

    port = read(path)

    assert apart(port, logits(model, IMAGES)) <= BOUND64
    assert len(port.ledger.biases) == (17 if everywhere else 1)


def test_a_network_with_biases_is_proven_by_torchvision_s_class(tmp_path):
    """The means were rounded, so it takes both steps; the reference has the biases where the file has them."""
    path = saved(tmp_path / "x.pth", biased(network(), everywhere=True).state_dict())
    done = convert(path, out=tmp_path / "x.weights.h5")

    parity = check(done.out, against=path, backend="numpy", sizes=(64,), threads=1)

    assert done.record["fold"] == "bias"
    assert [one.name for one in parity.checks if not one.passed] == []
    assert any(one.kind == "weights" and one.measured for one in parity.checks)


# -- norms that were folded away -------------------------------------------------------------------------------------

FOLDABLE = {
    "stem.norm",
    *(f"block{block}.layer{layer + 1}.norm2" for block, count in enumerate(SMALL.layers, 1) for layer in range(count)),
}


def test_norms_folded_into_convolutions_are_read_and_proven(tmp_path):
    """As `torch.fx` folds them: nothing of them is in the file, and the port is the network that is there."""
    model = fuse(network())
    path = saved(tmp_path / "x.pth", model.state_dict())
    done = convert(path, out=tmp_path / "x.weights.h5")

    port = read(path)
    parity = check(done.out, against=path, backend="numpy", sizes=(64,), threads=1)

    assert apart(port, logits(model, IMAGES)) <= BOUND64
    assert {*port.ledger.folded} == FOLDABLE
    assert port.ledger.assumed == (f"{FOLDED} (stem.norm, every block*.layer*.norm2)",)
    assert [one.name for one in parity.checks if not one.passed] == []


@pytest.mark.parametrize("form", ["trace", "module"])
def test_a_graph_tells_that_norms_were_folded(form, tmp_path):
    """Of a program nothing is assumed then; of a module of torch.fx's own code everything is."""
    model = fuse(network())
    if form == "trace":
        torch.jit.trace(model, torch.zeros(1, 3, 64, 64)).save(tmp_path / "x.pt")
    else:
        torch.save(model, tmp_path / "x.pt")

    port = read(tmp_path / "x.pt")

    assert apart(port, logits(model, IMAGES)) <= BOUND64
    assert bool(port.ledger.assumed) == (form == "module")
    assert any(note.startswith(FOLDED) for note in port.ledger.notes) == (form == "trace")


def without(names):
    """A state dict with biases in its convolutions and without these tensors."""
    state = biased(network(), everywhere=True).state_dict()
    return {name: value for name, value in state.items() if not name.startswith(names)}


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (("features.norm0.weight",), "stem.norm.scale"),
        (("features.denseblock1.denselayer2.norm1.",), "block1.layer2.norm1.scale"),
        (("features.norm0.", "features.conv0.bias"), "stem.norm.scale"),
    ],
    ids=["a part", "behind joined maps", "without a bias"],
)
def test_a_norm_that_is_lost_was_not_folded(names, missing, tmp_path):
    """A part of it is there, no convolution stands before it, or that has no bias."""
    with pytest.raises(MisfitError, match=f"{missing}  is missing"):
        read(saved(tmp_path / "x.pth", without(names)))


def test_a_module_whose_norms_were_folded_is_not_filled():
    """It has no place for them."""
    with pytest.raises(MisfitError, match="its norms were folded into its convolutions: stem.norm, "):
        read(network()).assign(fuse(network()))


@pytest.mark.parametrize("name", ["encoder and fc", "several deep", "flat, in parallel"])
def test_a_network_of_other_names_is_run_by_torchvision_s_class(name, tmp_path):
    """Which knows its own names only."""
    path = saved(tmp_path / "x.pth", AROUND[name](network()).state_dict())
    done = convert(path, out=tmp_path / "x.weights.h5")

    parity = check(done.out, against=path, backend="numpy", sizes=(64,), threads=1)

    assert [one.name for one in parity.checks if not one.passed] == []


# -- what else stands in a checkpoint --------------------------------------------------------------------------------


def trained(model):
    """The state of an optimiser after a step."""
    optimiser = torch.optim.Adam([nn.Parameter(value.clone()) for value in list(model.state_dict().values())[:3]])
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    return optimiser.state_dict()


BESIDE = {
    "scores": lambda model: {"model": model.state_dict(), "val_loss": torch.tensor(0.3), "acc": torch.ones(1)},
    "scores in a flat dict": lambda model: {**model.state_dict(), "val_auc": torch.tensor(0.9)},
    "a tuple with an optimiser's state": lambda model: (model.state_dict(), trained(model)),
    "a list": lambda model: [model.state_dict(), trained(model), 3],
    "an optimiser called opt": lambda model: {"model": model.state_dict(), "opt": trained(model)},
    "an average as a list": lambda model: {
        "net": model.state_dict(),
        "ema": {"decay": 0.99, "shadow_params": [value.clone() for value in model.state_dict().values()]},
    },
    "the same tensors under other names": lambda model: Holder(
        densenet=model, features_conv=model.features, classifier=model.classifier
    ).state_dict(),
    "other names first": lambda model: Holder(features_conv=model.features, densenet=model).state_dict(),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_stands_beside_the_network_is_left_out(name, tmp_path):
    """By a rule for each tensor, and the network is the same."""
    path = saved(tmp_path / "x.pth", BESIDE[name](network()))

    port = read(path)

    assert apart(port, logits(network(), IMAGES)) <= BOUND64
    assert len(port.ledger.claims) + len(port.ledger.ignored) == len(port.checkpoint.tensors)


def test_scores_that_are_left_out_are_told(tmp_path):
    """One of them could be a factor, which the file does not tell."""
    path = saved(tmp_path / "x.pth", {"model": network().state_dict(), "acc": torch.ones(1), "step": torch.tensor(3)})

    notes = convert(path, out=None).notes

    assert notes == ("single numbers beside the network are left out, as a training's own: acc",)


@pytest.mark.parametrize("name", ["model.scale", "model.pool.p", "scale"])
def test_a_number_that_a_module_holds_is_not_left_out(name, tmp_path):
    """The exponent of a pool, the factor of the logits: another function, if it is read at all."""
    model = Holder(model=network())
    owner = model.model if name.startswith("model.") else model
    if name == "model.pool.p":
        owner.pool = owner = nn.Module()
    owner.register_parameter(name.rpartition(".")[2], nn.Parameter(torch.ones(1)))
    path = saved(tmp_path / "x.pth", model.state_dict())

    with pytest.raises(MisfitError, match=f"{name.rpartition('.')[0] or name} "):
        read(path)


def test_two_equal_tensors_are_two(tmp_path):
    """It is the memory that is one, not the numbers."""
    state = network().state_dict()
    copies = {f"copy.{name}": value.clone() for name, value in state.items()}
    path = saved(tmp_path / "x.pth", {**state, **copies})

    with pytest.raises(MisfitError, match=r"2 networks in one file, under '', 'copy\.'"):
        read(path)


# -- no head ---------------------------------------------------------------------------------------------------------


def pooled_twice():
    """Fastai's head: it reads the mean and the maximum of every channel."""
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(2 * CHANNELS), nn.Linear(2 * CHANNELS, 9), nn.BatchNorm1d(9))


HEADS = {
    "a norm at the end": lambda model: Holder(body=model.features, head=pooled_twice()),
    "a decoder": lambda model: Holder(encoder=model.features, decoder=nn.Conv2d(CHANNELS, 1, 3)),
    "an LSTM": lambda model: Holder(cnn=model, lstm=nn.LSTM(7, 4), out=nn.Linear(4, 2)),
    "two heads": lambda model: Holder(features=model.features, sex=nn.Linear(CHANNELS, 2), age=nn.Linear(CHANNELS, 9)),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_body_is_taken_whatever_the_head_is(name, tmp_path):
    """By the hint that its refusal gives, which works."""
    model = network()
    path = saved(tmp_path / "x.pth", HEADS[name](model).state_dict())

    with pytest.raises(MisfitError) as error:
        read(path)
    port = read(path, no_top=True)

    assert error.value.hint.startswith("--no-top takes the body")
    assert len(str(error.value).splitlines()) == 3
    assert apart(port, last_map(model)) <= BOUND64
    assert len(port.ledger.claims) + len(port.ledger.ignored) == len(port.checkpoint.tensors)


@pytest.mark.parametrize("name", ["two heads", "an LSTM", "a decoder"])
def test_a_body_is_proven_by_torchvision_s_class(name, tmp_path):
    """A port without a head is compared with the body of its original, whatever the head is."""
    path = saved(tmp_path / "x.pth", HEADS[name](network()).state_dict())
    done = convert(path, out=tmp_path / "x.weights.h5", no_top=True)

    parity = check(done.out, against=path, backend="numpy", sizes=(64,), threads=1)

    assert [one.name for one in parity.checks if not one.passed] == []


def test_what_no_top_leaves_out_is_told(tmp_path):
    path = saved(tmp_path / "x.pth", HEADS["an LSTM"](network()).state_dict())

    notes = convert(path, out=None, no_top=True).notes

    assert notes == ("--no-top leaves out what is no part of the body: cnn.classifier, lstm, out",)


def test_a_layer_within_the_body_is_not_left_out(tmp_path):
    """A squeeze-and-excitation DenseNet has another body, with or without its head."""
    model = network()
    model.features.denseblock1.denselayer1.add_module("se", nn.Linear(8, 8))
    path = saved(tmp_path / "x.pth", model.state_dict())

    for options in ({}, {"no_top": True}):
        with pytest.raises(MisfitError) as error:
            read(path, **options)
        assert "features.denseblock1.denselayer1.se.weight (8, 8)" in str(error.value)
        assert "--no-top" not in error.value.hint


# -- heads of several layers -----------------------------------------------------------------------------------------

BETWEEN = "ReLU between the dense layers of the head"


def head(*modules):
    """Modules one after the other, their norms random."""
    made = nn.Sequential(*modules).eval()
    for part in made.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return made


OWN_HEADS = {
    "two dense layers": (
        lambda: head(nn.Linear(CHANNELS, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 3)),
        "mean/dense:9/relu/dense",
        BETWEEN,
    ),
    "three": (
        lambda: head(nn.Linear(CHANNELS, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 3)),
        "mean/dense:9/relu/dense:9/relu/dense",
        BETWEEN,
    ),
    "a norm": (
        lambda: head(nn.BatchNorm1d(CHANNELS), nn.Linear(CHANNELS, 7)),
        "mean/norm/dense",
        "nothing but norms in front of the head's dense layer",
    ),
    "norms, and no biases in front of them": (
        lambda: head(
            *(nn.BatchNorm1d(CHANNELS), nn.Dropout(), nn.Linear(CHANNELS, 9, bias=False), nn.ReLU()),
            *(nn.BatchNorm1d(9), nn.Linear(9, 3, bias=False)),
        ),
        "mean/norm/dense:9/relu/norm/dense",
        BETWEEN,
    ),
}


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", OWN_HEADS)
def test_layers_that_read_each_other_are_the_head(name, ending, tmp_path):
    """By their sizes, whatever they are called; what stands between them is assumed, and told."""
    make, text, assumed = OWN_HEADS[name]
    model, torch_head = network(), make().double()
    state = Holder(encoder=model.features, top=Holder(mlp=torch_head)).state_dict()
    path = tmp_path / f"x{ending}"
    saved(path, state) if ending == ".pth" else save_file({name: one.float() for name, one in state.items()}, path)

    port = read(path)

    with torch.inference_mode():
        truth = torch_head.float().double()(torch.from_numpy(last_map(model).mean((1, 2)))).numpy()
    assert (port.architecture.head, port.ledger.assumed) == (text, (assumed,))
    assert assumed in convert(path, out=None).assumption
    assert apart(port, truth) <= BOUND64


@pytest.mark.parametrize(("width", "text"), [(2, "max+mean/dense"), (4, "flatten:2/dense"), (9, "flatten:3/dense")])
def test_a_head_that_reads_more_than_the_mean_is_known_by_its_width(width, text, tmp_path):
    """Torch flattens a map channel by channel."""
    model, linear = network().double(), nn.Linear(width * CHANNELS, 7).double()
    path = saved(tmp_path / "x.pth", {**model.features.state_dict(prefix="features."), "fc.weight": linear.weight})
    side = {2: 64, 4: 32, 9: 48}[width]
    pictures = np.random.default_rng(3).standard_normal((2, side, side, 3))

    port = read(path)

    with torch.inference_mode():
        maps = model.features(torch.from_numpy(pictures).permute(0, 3, 1, 2)).relu()
        vector = torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], 1) if width == 2 else maps.flatten(1)
        truth = nn.functional.linear(vector, linear.weight).numpy()
    assert (port.architecture.head, len(port.ledger.assumed)) == (text, 1)
    assert np.abs(port(pictures) - truth).max() <= BOUND64 * truth.std()


def test_the_user_s_word_on_a_head_is_no_assumption(tmp_path):
    """The same tensors with tanh between."""
    model, linear = network(), [nn.Linear(CHANNELS, 9), nn.Linear(9, 3)]
    path = saved(tmp_path / "x.pth", Holder(features=model.features, classifier=nn.Sequential(*linear)).state_dict())
    numbers = replace(read(path).architecture, head="mean/dense:9/tanh/dense")

    port = read(path, arch=numbers)

    with torch.inference_mode():
        mean = torch.from_numpy(last_map(model).mean((1, 2)))
        truth = linear[1].double()(torch.tanh(linear[0].double()(mean))).numpy()
    assert (port.architecture, port.ledger.assumed) == (numbers, ())
    assert apart(port, truth) <= BOUND64


NO_CHAINS = {
    "side by side": {"one.weight": torch.ones(7, CHANNELS), "two.weight": torch.ones(7, CHANNELS)},
    "two orders": {"a.weight": torch.ones(9, 9), "b.weight": torch.ones(9, 9), "c.weight": torch.ones(9, CHANNELS)},
    "a norm at the end": {f"bn.{part}": torch.ones(7) for part in ("weight", "bias", "running_mean", "running_var")}
    | {"fc.weight": torch.ones(7, CHANNELS)},
    "half a norm": {"bn.weight": torch.ones(CHANNELS), "fc.weight": torch.ones(7, CHANNELS)},
    "three times the channels": {"fc.weight": torch.ones(7, 3 * CHANNELS)},
}


@pytest.mark.parametrize("name", NO_CHAINS)
def test_layers_that_do_not_read_each_other_are_refused(name, tmp_path):
    """So are those that could stand in two orders."""
    path = saved(tmp_path / "x.pth", {**prefixed("encoder.", network().features.state_dict()), **NO_CHAINS[name]})

    with pytest.raises(MisfitError):
        read(path)


def test_what_goes_on_behind_a_network_s_own_classes_is_not_its_head(tmp_path):
    """Nothing tells what is done with the classes of a network within another one."""
    path = saved(tmp_path / "x.pth", Holder(net=network(), out=nn.Linear(7, 2)).state_dict())

    with pytest.raises(MisfitError) as error:
        read(path)

    assert "--within net takes the network there" in error.value.hint


# -- ways that work --------------------------------------------------------------------------------------------------


def options_of(hint):
    """The options of every way that a hint names."""
    ways = [way.partition(" takes ")[0].split() for way in hint.split("; ")]
    return [
        {"within": way[1], "no_top": "--no-top" in way} if way[0] == "--within" else {"no_top": True} for way in ways
    ]


WAYS = {
    "a network in a model with a decoder": (
        lambda: Holder(encoder=Holder(original=network()), decoder=nn.Conv2d(CHANNELS, 1, 1)).state_dict(),
        "--no-top takes the body; --within encoder.original takes the network there",
    ),
    "a network and its average": (
        lambda: {"model": network().state_dict(), "ema": network(1).state_dict()},
        "--within ema takes the network there; --within model takes the network there",
    ),
    "one of two has another head": (
        lambda: {"a": network().state_dict(), "b": HEADS["two heads"](network(1)).state_dict()},
        "--within a takes the network there; --within b --no-top takes the body there",
    ),
    "an average without statistics": (
        lambda: {
            "model": network().state_dict(),
            "ema": {name: value for name, value in network(1).state_dict().items() if "running" not in name},
        },
        "--within model takes the network there",
    ),
    "a head further out": (
        lambda: {
            "net": AROUND["encoder and fc"](network()).state_dict(),
            "teacher": AROUND["encoder and fc"](network(1)).state_dict(),
        },
        "--within net takes the network there; --within teacher takes the network there",
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_every_way_that_a_hint_names_works(name, tmp_path):
    """They were found by trying."""
    make, hint = WAYS[name]
    path = saved(tmp_path / "x.pth", make())

    with pytest.raises(MisfitError) as error:
        read(path)

    assert error.value.hint == hint
    for options in options_of(hint):
        port = read(path, **options)
        assert (port.architecture.classes is None) == options["no_top"]


# -- modules that a state dict lists ---------------------------------------------------------------------------------


def headed(*layers):
    model = network()
    model.classifier = nn.Sequential(*[model.classifier if layer is None else layer for layer in layers])
    return model


def without_pool():
    model = network()
    del model.features.pool0
    return model


LISTED = {
    "a sigmoid behind the head": (
        lambda: headed(None, nn.Sigmoid()).state_dict(),
        "output logits (behind classifier.0 stands a module classifier.1 that the state dict does not describe)",
    ),
    "behind the whole network": (
        lambda: nn.Sequential(network(), nn.Dropout(), nn.Softmax(1)).state_dict(),
        "output logits (behind 0.classifier stand modules 1, 2 which the state dict does not describe)",
    ),
    "a pool that was taken out": (
        lambda: without_pool().state_dict(),
        "no pool in the stem (the state dict lists no module features.pool0)",
    ),
}


@pytest.mark.parametrize("name", LISTED)
def test_a_module_that_a_state_dict_only_lists_makes_an_assumption(name, tmp_path):
    """Torch's own state dicts list modules, and not what they do."""
    make, text = LISTED[name]
    path = saved(tmp_path / "x.pth", make())

    assumption = convert(path, out=None).assumption

    assert text in assumption


@pytest.mark.parametrize(
    "make",
    [
        lambda: network().state_dict(),
        lambda: headed(nn.Dropout(), None).state_dict(),
        lambda: dict(network().state_dict()),
    ],
)
def test_where_nothing_stands_behind_the_head_the_output_is_the_software_s(make, tmp_path):
    """A dropout in front of it is nothing in evaluation; a plain dict lists no modules."""
    port = read(saved(tmp_path / "x.pth", make()))

    assert (port.origins["output"], port.origins["stem_pool"]) == ("software", "software")


def test_a_network_without_a_pool_is_the_same_network(tmp_path):
    """The assumption is right where the module is gone."""
    model = without_pool()

    port = read(saved(tmp_path / "x.pth", model.state_dict()))

    assert apart(port, logits(model, IMAGES)) <= BOUND64


# -- gpleiss ---------------------------------------------------------------------------------------------------------


def for_cifar():
    """Its class for small inputs: a 3×3 stem alone."""
    model = network()
    model.features.conv0 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
    model.features.norm0 = model.features.relu0 = model.features.pool0 = nn.Identity()
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(("make", "stem"), [(network, "imagenet"), (for_cifar, "cifar")], ids=["imagenet", "cifar"])
def test_a_network_of_gpleiss_s_class_is_read(make, stem, tmp_path):
    """Torchvision's names, but for the last norm."""
    model = make()
    path = saved(tmp_path / "x.pth", renamed("features.norm5.", "features.norm_final.", model.state_dict()))

    port = read(path)

    assert (port.layout, port.architecture.stem) == ("gpleiss", stem)
    assert apart(port, logits(model, IMAGES)) <= BOUND64
