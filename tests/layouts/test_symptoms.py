"""What a checkpoint's own tensors say where no layout fits them: whole messages, on what PyTorch writes."""

import copy

import pytest
import torch
from torch.ao.quantization import get_default_qat_qconfig, prepare_qat
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torchvision.models.densenet import DenseNet

from densenet_port.conversion.load import read
from densenet_port.errors import MisfitError, UsageError
from densenet_port.layouts import symptoms
from densenet_port.layouts.symptoms import symptoms as table
from tests.layouts.test_layout import sketch

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's, of what it means to replace


@pytest.fixture(scope="module")
def network():
    """A small network, which every test copies."""
    return DenseNet(4, (1, 1), 8, num_classes=5)


def saved(tmp_path, network, change=None):
    """The state dict of a network, after a change of each of its convolutions."""
    network = copy.deepcopy(network)
    for module in [module for module in network.modules() if change and isinstance(module, torch.nn.Conv2d)]:
        change(module)
    torch.save(network.state_dict(), tmp_path / "x.pth")
    return tmp_path / "x.pth"


def refused(path):
    """The message without the path, and the hint."""
    with pytest.raises(MisfitError) as caught:
        read(path)
    return caught.value.message.removeprefix(f"{path}: "), caught.value.hint


REMOVE = "for every module that has"
CHANGES = {
    "pruned": (
        lambda module: prune.l1_unstructured(module, "weight", 0.5),
        "a pruned PyTorch network: each pruned weight is a tensor and a mask (features.conv0.weight_orig and 11 more)",
        (
            "in PyTorch, `torch.nn.utils.prune.remove(module, 'weight')` for every pruned module, and save its state "
            "dict; or of the state dict alone, "
            "`{k.removesuffix('_orig'): v * state.get(k.removesuffix('_orig') + '_mask', 1) for k, v in state.items() "
            "if not k.endswith('_mask')}`"
        ),
    ),
    "spectral norm": (
        spectral_norm,
        (
            "a PyTorch network with spectral norm, which divides its weights as it runs "
            "(features.conv0.weight_orig and 11 more)"
        ),
        f"in PyTorch, `torch.nn.utils.remove_spectral_norm(module)` {REMOVE} it, and save the state dict",
    ),
    "weight norm": (
        weight_norm,
        (
            "a PyTorch network with weight norm, which keeps each weight as a direction and a length "
            "(features.conv0.weight_g and 11 more)"
        ),
        f"in PyTorch, `torch.nn.utils.remove_weight_norm(module)` {REMOVE} it, and save the state dict",
    ),
    "parametrised": (
        parametrizations.weight_norm,
        (
            "a PyTorch network with parametrizations, which compute its weights as it runs "
            "(features.conv0.parametrizations.weight.original0 and 11 more)"
        ),
        (
            f"in PyTorch, `torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')` {REMOVE} one, and "
            "save the state dict"
        ),
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_weights_that_are_computed_as_the_network_runs(case, network, tmp_path):
    """PyTorch's own ways of it, and how to undo each."""
    change, *expected = CHANGES[case]

    assert refused(saved(tmp_path, network, change)) == tuple(expected)


def test_the_step_for_a_pruned_state_dict_leads_to_the_network(network, tmp_path):
    """The expression of the hint gives what PyTorch computes with."""
    path = saved(tmp_path, network, lambda module: prune.l1_unstructured(module, "weight", 0.5))
    expression = refused(path)[1].split("`")[3]

    torch.save(eval(expression, {"state": torch.load(path)}), path)  # noqa: S307 (our own words, which must work)

    zeros = [(array == 0).mean() for slot, array in read(path).weights.items() if slot.unit.endswith("conv1")]
    assert zeros == [pytest.approx(0.5, abs=0.02)] * 2


def test_quantisation_aware_training(network, tmp_path):
    """And the step for its weights alone, which convert."""
    trained = copy.deepcopy(network).train()
    trained.qconfig = get_default_qat_qconfig("fbgemm")
    path = saved(tmp_path, prepare_qat(trained))
    what, hint = refused(path)

    state = {k: v for k, v in torch.load(path).items() if "fake_quant" not in k and "post_process" not in k}
    torch.save(state, path)

    assert what.startswith("a PyTorch network prepared for quantisation-aware training, whose weights are rounded as")
    assert "{k: v for k, v in state.items() if 'fake_quant' not in k and 'post_process' not in k}" in hint
    assert read(path).architecture.layers == (1, 1)


STATISTICS = (
    "its 7 norms have scale and shift, and no mean or variance",
    (
        "if the file holds a network's parameters without its buffers, save `model.state_dict()`; if the norms are "
        "GroupNorm, InstanceNorm or LayerNorm, or BatchNorm with track_running_stats=False, they measure every input "
        "anew, which no layout's DenseNet does: nothing converts it"
    ),
)


def grouped(network):
    """The same with GroupNorm."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.BatchNorm2d):
                setattr(module, name, torch.nn.GroupNorm(2, child.num_features))
    return network


def untracked(network):
    """The same without statistics."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return network


@pytest.mark.parametrize("change", [grouped, untracked])
def test_norms_without_statistics(change, network, tmp_path):
    """Both possibilities are said, for the tensors are the same."""
    assert refused(saved(tmp_path, change(copy.deepcopy(network)))) == STATISTICS


def test_parameters_without_buffers(network, tmp_path):
    """A third possibility, which can be helped."""
    torch.save(dict(network.named_parameters()), tmp_path / "x.pth")

    assert refused(tmp_path / "x.pth") == STATISTICS


@pytest.mark.parametrize("form", ["state dict", "module"])
def test_norms_without_anything(form, network, tmp_path):
    """InstanceNorm as it is made by itself: the file has convolutions and a head."""
    changed = copy.deepcopy(network)
    for module in list(changed.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.BatchNorm2d):
                setattr(module, name, torch.nn.InstanceNorm2d(child.num_features))
    torch.save(changed if form == "module" else changed.state_dict(), tmp_path / "x.pth")

    what, hint = refused(tmp_path / "x.pth")

    assert " norms have no tensors at all, as torchvision " in what
    assert hint.startswith("if they are InstanceNorm without parameters, they measure every input anew")


def test_one_norm_without_statistics_is_a_misfit(network, tmp_path):
    """It is shown as such, with its name."""
    state = network.state_dict()
    del state["features.norm0.running_mean"]
    torch.save(state, tmp_path / "x.pth")

    assert "stem.norm.mean  is missing" in refused(tmp_path / "x.pth")[0]


def test_an_optimiser_without_its_network(network, tmp_path):
    """As `optimizer.state_dict()` gives it."""
    trained = copy.deepcopy(network)
    optimiser = torch.optim.Adam(trained.parameters())
    trained(torch.zeros(2, 3, 32, 32)).sum().backward()
    optimiser.step()
    torch.save(optimiser.state_dict(), tmp_path / "x.pth")

    what, hint = refused(tmp_path / "x.pth")

    assert what.startswith("the state of an optimiser, without its network (state.0.step and ")
    assert hint == "give the file of the network; in PyTorch, what `torch.save(model.state_dict(), file)` wrote"


SKETCHES = {  # names and shapes → what is said of them
    "a network with LoRA adapters": {
        "base.features.conv0.lora_A.weight": (2, 3),
        "features.conv0.weight": (8, 3, 7, 7),
    },
    "a quantised PyTorch network": {"classifier._packed_params._packed_params": (2, 2)},
    "a quantised Keras network": {"dense/kernel": (3, 4), "dense/kernel_scale": (4,)},
    "parameters as FSDP keeps them": {"_fsdp_wrapped_module._flat_param": (100,)},
    "a three-dimensional (3-D) network": {"conv3d/kernel": (3, 3, 3, 1, 24), "conv3d/bias": (24,)},
    "arrays without names": {"arr_0": (7, 7, 3, 8), "arr_1": (8,)},
}


@pytest.mark.parametrize("what", SKETCHES)
def test_names_that_say_it(what, tmp_path):
    """Of software that is not here: its names by hand."""
    file = sketch({name: (shape, "float32") for name, shape in SKETCHES[what].items()})

    assert symptoms.explained(file).message.startswith(f"{file.path}: {what}")


def test_a_plain_network_has_no_symptom(small):
    """Nor has a file with something else missing, whose own message stands."""
    assert symptoms.explained(read(small).checkpoint) is None


def test_a_table_with_a_key_that_nothing_reads(tmp_path, monkeypatch):
    """It is an error, as in every table."""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/tensors.toml").write_text('[x]\nwhat = "a"\nhint = "b"\nany = ["*"]\n')
    monkeypatch.setattr(symptoms, "resource", lambda _: tmp_path)

    with pytest.raises(UsageError, match=r"unknown key 'x\.any'"):
        list(table())
