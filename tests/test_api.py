"""The public API: every name twice, strings and paths alike, with types that a strict checker accepts from outside."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import densenet_port as dp
from tests.support.evaluations import Here, one_by_one
from tests.support.networks import images

CALLER = Path(__file__).parent / "data" / "whole_api.py"


@pytest.fixture
def port(small, tmp_path):
    """A converted file."""
    dp.convert(small, out=tmp_path / "port.weights.h5")
    return tmp_path / "port.weights.h5"


def test_every_public_name_is_there_twice():
    """A name does not become a module once something was imported."""
    for _ in range(2):
        for name in dp.__all__:
            assert not isinstance(getattr(dp, name), type(sys)), name


def test_the_list_of_names_is_the_list_of_homes():
    """What is imported on demand is what is promised."""
    assert {*dp._HOME, "__version__"} == set(dp.__all__) <= set(dir(dp))


def test_no_module_has_the_name_of_a_verb():
    """A submodule would take the name's place when it is imported."""
    modules = {path.stem for path in Path(dp.__file__).parent.iterdir()}

    assert modules & set(dp.__all__) == set()


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'densenet_port' has no attribute 'ours'"):
        dp.ours  # noqa: B018 (the look is what is tested)


@pytest.mark.parametrize("kind", [str, Path])
def test_files_are_read_by_their_paths(small, kind):
    """A string is a path as well as a Path is."""
    networks = [dp.read(kind(small)) for _ in range(2)]

    assert [network.architecture for network in networks] == [networks[0].architecture] * 2
    assert dp.diff(*networks).same


@pytest.mark.parametrize("kind", [str, Path])
def test_verbs_take_strings_and_paths_twice(small, tmp_path, kind):
    """Convert, verify and diff a file, two times each."""
    for number in range(2):
        out = tmp_path / f"{number}.weights.h5"
        done = dp.convert(kind(small), out=kind(out), src="torchvision", arch=done_spec(small))
        assert (done.out, dp.verify(kind(out)).path, dp.diff(kind(small), kind(out)).same) == (out, out, True)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_network_is_evaluated_twice(small, port, tmp_path, monkeypatch, kind):
    """The same pictures give the same statistics."""
    monkeypatch.setattr("densenet_port.evaluation.sides._Process", Here)
    monkeypatch.setattr("densenet_port.work.pool.run", one_by_one)
    np.savez(tmp_path / "pictures.npz", images=np.zeros((3, 64, 64, 3), np.uint8), labels=[0, 1, 2])

    made = [
        dp.evaluate(kind(port), kind(small), data=kind(tmp_path / "pictures.npz"), backend="numpy") for _ in range(2)
    ]

    assert made[0].statistics == made[1].statistics
    assert (made[0].is_whole, made[0].statistics.counts["agree"]) == (True, 3)


def done_spec(path):
    """The numbers of a file, as `--arch` takes them."""
    return dp.read(path).architecture.spec


def test_a_network_runs_and_is_written(small, tmp_path):
    """Its own logits, those of what it wrote, and the state that it would write are one network's."""
    network, pictures = dp.read(small), images(2, 32)

    logits = [network(pictures) for _ in range(2)]
    written = [network.write(tmp_path / f"{number}.onnx", layout="onnx") for number in range(2)]

    assert [dp.read(done.out)(pictures).tobytes() for done in written] == [logits[0].tobytes(), logits[1].tobytes()]
    state = network.state("torchvision")
    assert np.array_equal(
        state["features.conv0.weight"], network.weights[dp.Slot("stem.conv", "kernel")].transpose(3, 2, 0, 1)
    )
    assert network.state("torchvision").keys() == state.keys()


def test_a_network_is_a_torch_module(small):
    """It evaluates, with the same weights: the same logits in double."""
    network, pictures = dp.read(small), images(2, 32)
    truth = network(pictures)

    for _ in range(2):
        module = network.torch().double()
        logits = module(torch.from_numpy(pictures).double().permute(0, 3, 1, 2)).detach().numpy()
        assert (module.training, np.abs(logits - truth).max() <= 1e-10 * truth.std()) == (False, True)


def test_float32_is_asked_for(small):
    assert dp.read(small)(images(1, 32), dtype="float32").dtype == np.float32


def test_a_file_that_is_not_there_says_so(tmp_path):
    with pytest.raises(dp.DiskError, match="nothing.pth: cannot be read: No such file or directory"):
        dp.read(str(tmp_path / "nothing.pth"))


def test_a_registered_name_is_read(small, monkeypatch):
    """Where no file is called so, a name means the registered file."""
    monkeypatch.setattr("densenet_port.fetch.registry.named", lambda name, **how: {"torchvision-121": small}[name])

    assert dp.read("torchvision-121").checkpoint.path == small


def test_a_table_of_ones_own_is_a_path(small, tmp_path):
    """`src` ends in .toml, as a string or a path."""
    table = tmp_path / "mine.toml"
    table.write_bytes(dp.read(small).ledger.layout.path.read_bytes())

    assert [dp.read(small, src=src).ledger.layout.path for src in (table, str(table))] == [table, table]


def test_the_caller_uses_every_name():
    """The file above is whole."""
    text = CALLER.read_text(encoding="utf-8")

    assert [name for name in dp.__all__ if f"dp.{name}" not in text] == []
