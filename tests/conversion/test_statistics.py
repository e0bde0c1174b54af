"""A file's statistics are heard when it is read: what they refuse, what they decide, and where they say nothing."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.models import DenseNet

import densenet_port as dp
from densenet_port.errors import MisfitError
from tests.support.networks import checkpoint_file
from tests.support.real import REAL
from tests.support.trained import SAMPLE

HINT = "it is damaged, or its tensors are not what they are called; --ignore-inheritance takes the file as it is"
LINE = "15 of 15 norms inherit 1,596 of 1,596 numbers, old channels first"


def changed(folder, change):
    """The sample's file with its state dict changed in place."""
    state = torch.load(SAMPLE, weights_only=True)
    change(state)
    torch.save(state, folder / "changed.pth")
    return folder / "changed.pth"


def layer(block, number, part):
    """The name of a module of the sample."""
    return f"features.denseblock{block}.denselayer{number}.{part}"


def exchange(one, other):
    """What exchanges the tensors of two modules, or two tensors."""

    def change(state):
        for name in [name for name in state if name == one or name.startswith(f"{one}.")]:
            twin = other + name.removeprefix(one)
            state[name], state[twin] = state[twin].clone(), state[name].clone()

    return change


def refusal(path):
    """The lines with which a file is refused."""
    with pytest.raises(MisfitError) as caught:
        dp.read(path)
    return str(caught.value).splitlines()


def test_the_sample_s_witness():
    """Its wiring in a line, every question supported, and no note."""
    witness = dp.read(SAMPLE).witness

    assert (witness.line, witness.contradictions, witness.notes) == (LINE, (), ())
    assert {one.verdict for one in witness.explanations} == {"supported"}
    assert witness.to_json()["verdict"] == "evidence"
    assert json.loads(json.dumps(witness.to_json(), allow_nan=False)) == witness.to_json()


def test_a_changed_bit_refuses_a_file(tmp_path):
    """The norm, the channel and the way out are named."""

    def flip(state):
        state[f"{layer(3, 4, 'norm1')}.running_mean"].numpy().view(np.uint32)[17] ^= 1

    path = changed(tmp_path, flip)

    assert refusal(path) == [
        f"{path}: 1 norm has not the statistics that its kin share",
        "  block3.layer4.norm1: 1 of 63 channels differs from block3.layer3.norm1's: 17",
        f"  {HINT}",
    ]
    assert dp.read(path, ignore_inheritance=True).witness.inheritance.verdict == "contradiction"


def test_exchanged_modules_refuse_a_file(tmp_path):
    """Two norms of the same sizes, whose tensors nothing else tells apart."""
    path = changed(tmp_path, exchange(layer(1, 1, "norm2"), layer(3, 2, "norm2")))

    assert refusal(path) == [
        f"{path}: its statistics do not go with what it is read as",
        "  block1.layer1.norm2 and block3.layer2.norm2 are exchanged: residual 0.45 as it is, 0.05 exchanged",
        f"  {HINT}",
    ]
    ignored = dp.read(path, ignore_inheritance=True)
    assert ignored.witness.notes == ignored.witness.contradictions != ()


def test_a_table_of_the_other_order_is_refused(tmp_path):
    """A file that joins old channels first, under a table that says new ones first."""
    from pathlib import Path

    table = tmp_path / "mine.toml"
    text = (Path(dp.__file__).parents[1] / "mappings" / "torchvision.toml").read_text("utf-8")
    text = text.replace('layout     = "torchvision"', 'layout = "mine"\nconcatenation = "new-first"')
    table.write_text(text, encoding="utf-8")
    assert "new-first" in text

    with pytest.raises(MisfitError) as caught:
        dp.read(SAMPLE, src=table)

    message, hint = caught.value.message, caught.value.hint
    assert message == (f"{SAMPLE}: by its statistics it joins old channels first, by mine's table new channels first")
    assert hint.startswith('a table of your own with concatenation = "old-first" reads it so (--mapping)')
    told = dp.read(SAMPLE, src=table, ignore_inheritance=True).witness
    assert told.wiring == ("its table joins new channels first, its statistics old channels first",)


def test_the_user_s_word_stands_and_is_noted():
    """No pool in the stem, where the statistics show one: a note, and the network as the user has it."""
    network = dp.read(SAMPLE, contract={"stem_pool": "none"})

    assert (network.contract.stem_pool, network.origins["stem_pool"]) == ("none", "user")
    (note,) = network.witness.notes
    assert note.startswith(
        "stem pool: none does not explain its statistics (residual 0.64), by its statistics rather max"
    )


def test_random_and_fresh_statistics_say_nothing(tmp_path):
    """No line, no question, no note, no error."""
    network = dp.read(checkpoint_file(tmp_path, "layers=2-3,growth_rate=8,init_channels=16,classes=10", "zip"))

    assert network.witness.line is None
    assert network.witness.explanations == network.witness.notes == network.witness.contradictions == ()
    assert network.witness.to_json()["verdict"] == "none"


@pytest.mark.parametrize("momentum", [0.1, 0.01])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_network_of_a_few_steps_is_read(tmp_path, steps, momentum):
    """Its moving averages are on their way from 0 and 1: of the function they tell nothing, and that is a note."""
    torch.manual_seed(0)
    module = DenseNet(8, (2, 3, 2), 16, num_classes=5)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = momentum
    with torch.no_grad():
        for _ in range(steps):
            module(torch.randn(4, 3, 32, 32))
    state = module.state_dict()
    lowest = min(float(tensor.min()) for name, tensor in state.items() if name.endswith("running_var"))
    torch.save(state, tmp_path / "few.pth")

    witness = dp.read(tmp_path / "few.pth").witness

    assert witness.line == "7 of 7 norms inherit 320 of 320 numbers, old channels first"
    assert {one.verdict for one in witness.explanations} == {"open"}
    few = f"no variance is below {lowest:.2f}, as after a few steps of training"
    assert witness.notes == (f"{few}: its statistics tell nothing of its function",)
    assert (witness.left, witness.picture) == (pytest.approx(lowest), None)


def test_a_port_of_ours_has_a_witness_too(tmp_path):
    """Written and read again: the same line; and its contradictions are notes, because its record knows."""
    network = dp.read(changed(tmp_path, exchange(layer(1, 1, "norm2"), layer(3, 2, "norm2"))), ignore_inheritance=True)
    network.write(tmp_path / "wrong.weights.h5")

    assert dp.read(dp.read(SAMPLE).write(tmp_path / "right.weights.h5").out).witness.line == LINE
    assert dp.read(tmp_path / "wrong.weights.h5").witness.contradictions != ()


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_types_keep_what_is_inherited(tmp_path, dtype):
    """A port in half precision inherits as the file does."""
    dp.read(SAMPLE).write(tmp_path / "half.weights.h5", dtype=dtype)

    assert dp.read(tmp_path / "half.weights.h5").witness.line == LINE


@pytest.mark.parametrize(("layout", "ending"), [("torchvision", "pth"), ("caffe", "caffemodel"), ("kimm", "keras")])
def test_a_port_with_another_epsilon_has_no_contradiction(tmp_path, layout, ending):
    """Whatever a layout's epsilon makes of variances and scales."""
    network = dp.read(SAMPLE)
    network = replace(network, contract=replace(network.contract, epsilon=1e-3))

    done = network.write(tmp_path / f"port.{ending}", layout=layout)

    assert done.absorbed["to"] == 1e-5
    witness = dp.read(done.out).witness
    assert (witness.line, witness.contradictions) == (LINE, ())


@pytest.mark.skipif(REAL is None, reason="no real files")
def test_statistics_decide_what_nothing_else_tells():
    """The pool behind a 3×3 stem with a norm, and the order of channels of a file without a table."""
    network = dp.read(REAL / "bc100-stem-norm.pth")

    assert (network.contract.stem_pool, network.origins["stem_pool"]) == ("none", "statistics")
    assert not any("channels before" in word for word in network.ledger.assumed)


@pytest.mark.skipif(REAL is None, reason="no real files")
def test_a_pool_that_is_there_is_decided_too():
    """A 7×7 stem whose pool nothing tells but the mean behind it."""
    network = dp.read(REAL / "two-blocks-conv-bias.pth")

    assert (network.contract.stem_pool, network.origins["stem_pool"]) == ("max", "statistics")
