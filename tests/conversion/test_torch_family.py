"""Checkpoints of torchvision's family, as they lie about: every form is read, and is its own software's network.

The files are small networks with random statistics, written by torch and the software that owns them. Their logits are
compared in float64, where our forward pass and torch must agree to rounding (1e-10 of the logits' deviation; right
ports measure 1e-14). MONAI and torchxrayvision are too heavy for every run: `-m owners` runs them.
"""

import argparse
from collections import OrderedDict
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
import pytest
import torch
from torch import nn

from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.errors import MisfitError, UsageError
from densenet_port.layouts.layout import Layout
from densenet_port.network.architecture import NAMED, Architecture
from densenet_port.network.numpy import forward
from densenet_port.prove import recording
from densenet_port.prove.checks import BOUND64
from densenet_port.prove.images import Probe
from densenet_port.prove.parity import check
from densenet_port.prove.worker import run_all
from tests.support.networks import checkpoint_file, dotted, images, torchvision_network
from tests.support.torch_networks import logits, monai_network, saved, timm_network, torchxrayvision_network

SMALL = Architecture.named("layers=2-3-2,growth_rate=8,init_channels=16,classes=7")
DEEP = replace(SMALL, stem="deep")
WIDE = Architecture.named("layers=1-2-1,growth_rate=48,init_channels=96,classes=7,stem=deep")
XRAY = replace(SMALL, channels=1, classes=18)
TORCH_TABLES = ("torchvision", "timm-blur", "timm-deep", "monai", "torchxrayvision")


@dataclass
class Settings:
    """What a user's own class in `hyper_parameters` looks like to us: a name that is not imported."""

    rate: float = 0.1


# -- the files -------------------------------------------------------------------------------------------------------


def network():
    return torchvision_network(SMALL, 0)


def prefixed(before, state):
    return {before + name: value for name, value in state.items()}


def renamed(old, new, state):
    return {name.replace(old, new): value for name, value in state.items()}


def optimiser_state(parameters=3):
    moments = {"step": torch.tensor(7.0), "exp_avg": torch.randn(4), "exp_avg_sq": torch.rand(4)}
    return {"state": dict.fromkeys(range(parameters), moments), "param_groups": [{"lr": torch.tensor(0.1)}]}


def lightning(state, attribute):
    """A `.ckpt` as PyTorch Lightning lays it out, with a loss that has weights, and a callback that keeps a score."""
    return {
        "epoch": 3,
        "global_step": 400,
        "pytorch-lightning_version": "2.2.0",
        "state_dict": {
            **prefixed(attribute, state),
            "criterion.pos_weight": torch.ones(7),
            "loss_fn.weight": torch.ones(7),
        },
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(0.3)}},
        "optimizer_states": [optimiser_state()],
        "lr_schedulers": [{"last_epoch": 3, "_last_lr": [torch.tensor(0.1)]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {
            "settings": Settings(),
            "args": argparse.Namespace(lr=0.1),
            "class_weights": torch.ones(7),
        },
    }


def chexnet(state):
    """A network within another in parallel, names of before 0.3, the head in a Sequential with its sigmoid."""
    inner = dotted(state)
    head = {name: inner.pop(name) for name in ("classifier.weight", "classifier.bias")}
    return {
        "epoch": 12,
        "state_dict": OrderedDict(
            prefixed("module.densenet121.", {**inner, **renamed("classifier.", "classifier.0.", head)})
        ),
        "best_loss": torch.tensor(0.02),
        "optimizer": optimiser_state(),
    }


def headed(*layers):
    """A network whose classifier is these layers."""
    model = network()
    model.classifier = nn.Sequential(*[model.classifier if layer is None else layer for layer in layers])
    return model


class Auxiliary(nn.Module):
    """A network with a second head that only training uses."""

    def __init__(self):
        super().__init__()
        self.features, self.classifier = network().features, network().classifier
        self.aux_classifier = nn.Linear(3, 7)


def with_bfloat16(state):
    return {name: value.bfloat16() if value.is_floating_point() else value for name, value in state.items()}


WILD = {  # name → (what is saved, how, the prefix that is found)
    "lightning, model": (lambda: lightning(network().state_dict(), "model."), {}, "state_dict.model."),
    "lightning, backbone": (lambda: lightning(network().state_dict(), "backbone."), {}, "state_dict.backbone."),
    "lightning, net": (lambda: lightning(network().state_dict(), "net."), {}, "state_dict.net."),
    "CheXNet": (lambda: chexnet(network().state_dict()), {}, "state_dict.module.densenet121."),
    "compiled": (lambda: prefixed("_orig_mod.", network().state_dict()), {}, "_orig_mod."),
    "compiled, in parallel": (lambda: prefixed("_orig_mod.module.", network().state_dict()), {}, "_orig_mod.module."),
    "averaged": (lambda: torch.optim.swa_utils.AveragedModel(network()).state_dict(), {}, "module."),
    "in parallel": (lambda: nn.DataParallel(network()).state_dict(), {}, "module."),
    "half": (lambda: network().half().state_dict(), {}, ""),
    "bfloat16": (lambda: with_bfloat16(network().state_dict()), {}, ""),
    "dropout before the head": (lambda: headed(nn.Dropout(), None).state_dict(), {}, ""),
    "a sigmoid behind it": (lambda: headed(None, nn.Sigmoid()).state_dict(), {}, ""),
    "two layers before it": (lambda: headed(nn.Identity(), nn.Dropout(), None).state_dict(), {}, ""),
    "an auxiliary head": (lambda: Auxiliary().state_dict(), {}, ""),
    "a module": (network, {}, ""),
    "a module in a stream": (network, {"_use_new_zipfile_serialization": False}, ""),
    "a module in parallel in a dict": (lambda: {"model": nn.DataParallel(network()), "epoch": 3}, {}, "model.module."),
    "MONAI's names of 2020": (
        lambda: renamed("classifier.", "class_layers.class.", network().state_dict()),
        {},
        "",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def wild(tmp_path_factory):
    """Name → a file of torchvision's names, told."""
    place = tmp_path_factory.mktemp("wild")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = {
            name: read(saved(place / f"{number}.pth", make(), **how))
            for number, (name, (make, how, _)) in enumerate(WILD.items())
        }
    return found | {"the oldest container": read(checkpoint_file(place, SMALL, "tar"))}


def probe(architecture, size=64):
    return Probe(name=f"noise {size}", images=images(2, size, architecture.channels))


@pytest.fixture(scope="module")
def answers(wild):
    """Name → torchvision's float64 logits; one process for all."""
    return {name: run.logits for name, run in zip(wild, runs(wild.values(), "torchvision"), strict=True)}


def runs(files, network):
    """What a network's own software puts out for files, in float64, in one process."""
    settings = recording.Settings(threads=1)
    plans = [recording.plan(told, network, (probe(told.architecture),), settings) for told in files]
    return run_all([job for planned in plans for job in planned.jobs["float64"]])


def forwarded(told):
    """Our own logits of a file, in float64."""
    return forward(told.architecture, told.contract, told.weights, probe(told.architecture).images)


def apart(found, truth):
    """The largest difference, in deviations of the truth."""
    return np.abs(found - truth).max() / truth.std()


@pytest.mark.parametrize("name", WILD)
def test_a_file_in_the_wild_is_read_whole(wild, name):
    """Its layout, its numbers and its prefix are found; every tensor is used or ignored by name."""
    told = wild[name]

    used = len(told.ledger.claims) + len(told.ledger.ignored)
    assert (told.layout, told.architecture, told.ledger.prefix) == ("torchvision", SMALL, WILD[name][2])
    assert used == len(told.checkpoint.tensors)


@pytest.mark.parametrize("name", [*WILD, "the oldest container"])
def test_a_file_in_the_wild_is_torchvision_s_network(wild, answers, name):
    """Torchvision's class takes it strictly, and both put out the same."""
    assert apart(forwarded(wild[name]), answers[name]) <= BOUND64


@pytest.mark.parametrize("name", [name for name in WILD if "half" not in name and "bfloat16" not in name])
def test_the_form_changes_no_weight(wild, name):
    """Whatever is around them, the tensors are those of the one network that all files hold."""
    plain = {name: value for name, value in network().state_dict().items() if "num_batches" not in name}

    found = sorted(array.tobytes() for slot, array in wild[name].weights.items() if slot.role != "kernel")

    assert found == sorted(value.numpy().tobytes() for value in plain.values() if value.dim() == 1)


# -- what is refused -------------------------------------------------------------------------------------------------


def resnet():
    from torchvision.models import resnet18

    with torch.device("meta"):
        shapes = resnet18(num_classes=7).state_dict()
    return {name: torch.ones(value.shape, dtype=value.dtype) for name, value in shapes.items()}


def without_norms():
    return {name: value for name, value in network().state_dict().items() if "norm" not in name}


def ensemble():
    return {**prefixed("first.", network().state_dict()), **prefixed("second.", network().state_dict())}


def volumes():
    state = dict(network().state_dict())
    return {name: value[..., None] if value.dim() == 4 else value for name, value in state.items()}


REFUSED = {
    "a ResNet": (resnet, ["no chain of convolutions that each add the same number of channels"]),
    "no norms": (
        without_norms,
        [r"its 18 norms have no tensors at all, as torchvision layers=2-3-2"],
    ),
    "an ensemble": (ensemble, ["x.pth: 2 networks in one file, under 'first.', 'second.'"]),
    "a network and its average": (
        lambda: {"state_dict": network().state_dict(), "state_dict_ema": network().state_dict()},
        [
            "x.pth: 2 networks in one file, under 'state_dict.', 'state_dict_ema.'",
            "--within state_dict takes the network there; --within state_dict_ema takes the network there",
        ],
    ),
    "a hidden layer with a norm": (
        lambda: headed(nn.BatchNorm1d(24), None).state_dict(),
        [r"the body fits; beside it\n  classifier.0 \(24,\), classifier.1 \(7, 36\)"],
    ),
    "three dimensions": (
        volumes,
        [r"a three-dimensional \(3-D\) network: its kernels have depth .*\(features.conv0.weight and 16 more\)"],
    ),
    "another head": (
        lambda: {**network().state_dict(), "mlp.weight": torch.ones(3, 4)},
        [r"the body fits; beside it\n  classifier \(7, 36\), mlp \(3, 4\)\n  --no-top takes the body"],
    ),
}


@pytest.mark.parametrize(("make", "messages"), REFUSED.values(), ids=REFUSED.keys())
def test_a_near_miss_is_refused_and_told_why(tmp_path, make, messages):
    """With the layouts that come near, and what keeps each from fitting."""
    path = saved(tmp_path / "x.pth", make())

    with pytest.raises(MisfitError) as caught:
        read(path)

    for message in messages:
        caught.match(message)


# -- one of two networks ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A training checkpoint with a network, its running average, and an optimiser."""
    plain, average = (torchvision_network(SMALL, seed).state_dict() for seed in (0, 1))
    state = {"state_dict": prefixed("module.", plain), "state_dict_ema": prefixed("module.", average)}
    return saved(tmp_path_factory.mktemp("averaged") / "last.pth", {**state, "optimizer": optimiser_state()})


@pytest.mark.parametrize(("within", "seed"), [("state_dict", 0), ("state_dict_ema", 1), ("state_dict_ema.module", 1)])
def test_one_of_two_networks_is_taken(averaged, within, seed):
    """The one below the name, and torchvision's class agrees; what is outside is ignored by the user's word."""
    told = read(averaged, within=within)
    model = torchvision_network(SMALL, seed).double().eval()

    truth, (reference,) = logits(model, probe(SMALL).images), runs([told], "torchvision")
    outside = {rule for name, rule in told.ledger.ignored.items() if not name.startswith(within.split(".")[0] + ".")}

    assert apart(forwarded(told), truth) <= BOUND64
    assert apart(reference.logits, truth) <= BOUND64
    assert outside == {f"--within {within}"}
    assert len(told.ledger.claims) + len(told.ledger.ignored) == len(told.checkpoint.tensors)


def test_one_of_two_networks_is_converted_and_proven(averaged, tmp_path):
    """The port is the average's, and not the other's."""
    done = convert(averaged, out=tmp_path / "port.weights.h5", within="state_dict_ema")

    right, wrong = (
        check(done.out, against=averaged, within=within, backend="numpy", sizes=(), threads=1)
        for within in ("state_dict_ema", "state_dict")
    )

    assert (right.passed, wrong.passed, wrong.where) == (True, False, "stem.conv")
    assert done.record["source"]["within"] == "state_dict_ema"


def test_numpy_runs_one_of_two_networks(averaged):
    """In a process of its own, where nothing but the job tells it which."""
    told = read(averaged, within="state_dict_ema")

    assert apart(forwarded(told), runs([told], "numpy")[0].logits) <= BOUND64


def test_a_name_that_nothing_stands_below_is_said(averaged):
    """With those that there are."""
    with pytest.raises(UsageError, match=r"no tensor's name begins with 'state\.' or 'state/'") as caught:
        read(averaged, within="state")

    assert caught.value.hint == "its names begin with state_dict, state_dict_ema, optimizer"


def xray_state(**more):
    """The names and shapes of torchxrayvision's network are torchvision's."""
    return {**torchvision_network(XRAY, 0).state_dict(), **more}


def test_a_state_dict_with_thresholds_is_told_whose_it_could_be(tmp_path):
    """Nothing in it names torchxrayvision, so it is the user who must."""
    path = saved(tmp_path / "x.pth", xray_state(op_threshs=torch.ones(18)))

    with pytest.raises(MisfitError) as caught:
        read(path)

    assert caught.value.hint.endswith("the file does not say that it is one: --src torchxrayvision, if you know")
    assert (read(path, src="torchxrayvision").layout, read(path, src="torchxrayvision").architecture) == (
        "torchxrayvision",
        XRAY,
    )


def test_a_network_of_one_channel_has_an_input_that_is_not_recorded(tmp_path):
    """Torchvision's means and deviations are those of three."""
    path = saved(tmp_path / "x.pth", xray_state())

    notes = convert(path, out=None).notes

    assert notes == ("torchvision's pictures have 3 channels, this network's 1: how to prepare them is not recorded",)


def test_variances_that_float16_lost_are_counted(tmp_path):
    """Zero is what is left of them; the result says how many."""
    model = network()
    model.features.norm0.running_var[:5] = 1e-9
    path = saved(tmp_path / "x.pth", model.half().state_dict())

    notes = convert(path, out=None).notes

    count = sum(norm.num_features for norm in model.modules() if isinstance(norm, nn.BatchNorm2d))
    assert notes[-1].startswith(f"5 of {count} variances are zero: what was below 6e-8 is lost in float16")


# -- rules that ignore -----------------------------------------------------------------------------------------------

PREFIXES = (
    *("", "module.", "model.", "net.", "backbone.", "encoder.", "densenet121.", "_orig_mod.", "teacher.", "ema."),
    *("state_dict.", "state_dict.model.", "model_state_dict.module.densenet121.", "generator.", "student.net."),
)
OWN = (  # what a network of the family might have beside what its table names
    *("features.conv1.weight", "features.norm6.weight", "features.denseblock9.denselayer99.norm3.weight"),
    *("features.se1.fc1.weight", "classifier.7.weight", "classifier.running_mean", "head.weight", "fc1.bias"),
    *("attention.weight", "logit_scale", "embedding.state.weight", "pos_embed", "norm.weight", "fc.0.weight"),
)


@pytest.mark.parametrize("layout", TORCH_TABLES)
def test_no_rule_ignores_a_tensor_of_the_network_itself(layout):
    """Neither what the table names, nor what another network might have in that place, whatever stands before it."""
    table = Layout.load(layout)
    rules = [rule for rule in table.ignore if "{unit}" not in rule]
    named = dict.fromkeys("x", NAMED["264d" if layout == "timm-deep" else "121d" if layout == "timm-blur" else "121"])
    spelled = [rule.name for rule in table.spell(named["x"]).values()]

    swallowed = {
        (rule, before + name)
        for rule in rules
        for before in PREFIXES
        for name in (*spelled, *OWN)
        if fnmatchcase(before + name, rule)
    }

    assert swallowed == set()


def test_the_rules_of_the_family_are_the_same():
    """A training checkpoint is one whatever network it trains; only torchxrayvision's thresholds are its own."""
    own = {layout: set(Layout.load(layout).ignore) for layout in TORCH_TABLES}

    assert own.pop("torchxrayvision") == own["monai"] | {"op_threshs", "*.op_threshs"}
    assert list(own.values()) == [own["monai"]] * 4


# -- timm ------------------------------------------------------------------------------------------------------------

TIMM = {
    "timm-blur": (DEEP, "blur", "timm-blur"),
    "timm-deep": (WIDE, "max", None),
    "timm-deep of other numbers": (DEEP, "max", "timm-deep"),
    "torchvision": (SMALL, "max", None),
}


@pytest.fixture(scope="module")
def timms(tmp_path_factory):
    """Name → timm's network and a file of it, told; the module itself in one of them."""
    place, found = tmp_path_factory.mktemp("timm"), {}
    for name, (arch, pool, src) in TIMM.items():
        model = timm_network(arch, pool)
        thing = model.state_dict() if src else model
        found[name] = model, read(saved(place / f"{name}.pth", thing), src=src)
    return found


@pytest.fixture(scope="module")
def timm_runs(timms):
    """Name → timm itself, run as the reference."""
    return dict(zip(timms, runs([told for _, told in timms.values()], "timm"), strict=True))


@pytest.mark.parametrize("name", TIMM)
def test_a_network_of_timm_is_the_same_network(timms, timm_runs, name):
    """Ours, timm's by way of the runner, and the very module that was saved agree in float64, at every unit too."""
    model, told = timms[name]
    truth = logits(model, probe(told.architecture).images)
    ours_at, at = {}, timm_runs[name].taps
    forward(
        told.architecture,
        told.contract,
        told.weights,
        probe(told.architecture).images,
        tap=lambda unit, output: ours_at.update({unit: output.copy()}),
    )

    assert told.layout == name.partition(" ")[0]
    assert apart(forwarded(told), truth) <= BOUND64
    assert apart(timm_runs[name].logits, truth) <= BOUND64
    assert max(apart(at[unit], output) for unit, output in ours_at.items() if unit in at) <= BOUND64
    assert set(at) == set(told.architecture.units)


@pytest.mark.parametrize("name", ["timm-blur", "timm-deep"])
def test_the_pool_of_a_deep_stem_matters(timms, name):
    """The planted fault: the other pool on the same weights is another function."""
    model, told = timms[name]
    other = replace(
        told, contract=replace(told.contract, stem_pool="max" if told.contract.stem_pool == "blur" else "blur")
    )

    assert apart(forwarded(other), logits(model, probe(told.architecture).images)) > 1e-3


def test_a_deep_stem_of_other_numbers_is_the_user_s_to_name(tmp_path):
    """Which pool it has is written nowhere."""
    path = saved(tmp_path / "x.pth", timm_network(DEEP, "max").state_dict())

    with pytest.raises(
        MisfitError, match="2 layouts fit equally: timm-blur, timm-deep\n  say which one it is with --src"
    ):
        read(path)


# -- written ---------------------------------------------------------------------------------------------------------


def returned(told, layout, tmp_path, **options):
    """The tensors of a file written anew in its layout by way of ours, for torch to load."""
    back = tmp_path / "back.pth"
    convert(told.checkpoint.path, src=told.layout, out=tmp_path / "ours.h5", **options)
    convert(tmp_path / "ours.h5", dst=layout, out=back)
    return torch.load(back, weights_only=True)


def assert_loads_strictly(model, state):
    """The software's own class takes it, bit by bit what it had."""
    known = {name: value.clone() for name, value in model.state_dict().items() if "num_batches" not in name}
    for parameter in model.parameters():
        parameter.zero_()
    for norm in (unit for unit in model.modules() if isinstance(unit, nn.BatchNorm2d)):
        norm.reset_running_stats()

    model.load_state_dict(state, strict=True)

    found = {name: value for name, value in model.state_dict().items() if name in known}
    assert {name: value.numpy().tobytes() for name, value in found.items()} == {
        name: value.numpy().tobytes() for name, value in known.items()
    }


def test_what_is_written_for_timm_loads_strictly_and_has_the_same_bits(tmp_path):
    """Its own class, its own strict loading."""
    model = timm_network(WIDE, "max")
    told = read(saved(tmp_path / "x.pth", model.state_dict()))

    assert_loads_strictly(model, returned(told, "timm-deep", tmp_path))


def test_what_is_written_for_densenetblur121d_loads_strictly_and_has_the_same_bits(tmp_path):
    """Its own constructor, at full size."""
    import timm

    model = timm.create_model("densenetblur121d", num_classes=7).eval().requires_grad_(False)
    told = read(saved(tmp_path / "x.pth", model.state_dict()))

    assert_loads_strictly(model, returned(told, "timm-blur", tmp_path))


# -- MONAI and torchxrayvision ---------------------------------------------------------------------------------------

OWNED = {
    "monai": (lambda: monai_network(SMALL), {}),
    "torchxrayvision": (lambda: torchxrayvision_network(XRAY), {}),
}


@pytest.mark.owners
@pytest.mark.parametrize("whole", [False, True], ids=["state dict", "module"])
@pytest.mark.parametrize("layout", OWNED)
@pytest.mark.filterwarnings("ignore")
def test_a_network_of_its_owner_is_the_same_network(tmp_path, layout, whole):
    """Read from a state dict or the module itself, run by its own class, in float64."""
    model = OWNED[layout][0]()
    path = saved(tmp_path / "x.pth", model if whole else model.state_dict())
    told = read(path, src=None if whole else layout)

    (answer,) = runs([told], layout)

    truth = logits(model, probe(told.architecture).images)
    assert told.layout == layout
    assert apart(forwarded(told), truth) <= BOUND64
    assert apart(answer.logits, truth) <= BOUND64


@pytest.mark.owners
@pytest.mark.parametrize("layout", OWNED)
@pytest.mark.filterwarnings("ignore")
def test_what_is_written_for_an_owner_loads_strictly_and_has_the_same_bits(tmp_path, layout):
    """By way of our own layout and back."""
    model = OWNED[layout][0]()
    told = read(saved(tmp_path / "x.pth", model.state_dict()), src=layout)

    assert_loads_strictly(model, returned(told, layout, tmp_path))


@pytest.mark.owners
@pytest.mark.filterwarnings("ignore")
def test_a_module_of_torchxrayvision_with_thresholds_is_read_as_its_own_loader_reads_it(tmp_path):
    """The thresholds are ignored by name; the input is one channel from -1024 to 1024, the logits the classifier's."""
    model = torchxrayvision_network(XRAY, op_threshs=torch.rand(18))
    for part in model.modules():
        part.__dict__.pop("_non_persistent_buffers_set")  # as the published files are
    path = saved(tmp_path / "x.pt", model)
    pixels = np.array([0, 127.5, 255])

    told = read(path)

    shown = (pixels / told.contract.input.scale - told.contract.input.mean[0]) / told.contract.input.std[0]
    assert (told.layout, told.architecture, told.contract.output) == ("torchxrayvision", XRAY, "sigmoid")
    assert told.ledger.ignored["op_threshs"] == "op_threshs"
    assert shown.tolist() == [-1024, 0, 1024]
