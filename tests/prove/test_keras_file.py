"""Keras runs a whole model's own file as the reference: its preparation, its layers, its settings."""

import shutil

import h5py
import numpy as np
import pytest

from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.network.numpy import forward
from densenet_port.prove import parity
from densenet_port.prove.images import Probe
from densenet_port.prove.recording import Settings, plan
from densenet_port.prove.reference import reference_of
from densenet_port.prove.worker import run_all
from tests.support import warm
from tests.support.flyyufelix_files import old_file

FULL = 1e-10  # of the logits' deviation: what two right float64 passes must agree to
SIZES = (40, 65)  # the file's own, and another


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of whole models that Keras saved."""
    folder = tmp_path_factory.mktemp("whole")
    warm.keras("tests.support.planted_script", "save", folder)
    return folder


def prepared(size):
    return np.random.default_rng(size).standard_normal((2, size, size, 3)).astype(np.float32)


@pytest.mark.parametrize("name", ["flat.keras", "nested.keras", "nested.h5"])
def test_keras_itself_runs_the_file(saved, name):
    """At the file's size and another one; pixels go in where the model prepares them; every unit is seen."""
    network = read(saved / name)
    probes = tuple(Probe(name=str(size), images=prepared(size)) for size in SIZES)

    jobs = plan(network, reference_of(network).software, probes, Settings(threads=1)).jobs["float64"]
    runs = run_all(jobs)

    assert {run.read_by for run in runs} == {"file"}
    assert set(runs[0].taps) == set(network.architecture.units)
    for probe, run in zip(probes, runs, strict=True):
        answer = forward(network.architecture, network.contract, network.weights, probe.images)
        assert run.logits.dtype == np.float64
        assert np.abs(answer - run.logits).max() <= FULL * run.logits.std()


def test_a_port_of_a_whole_model_is_proven_and_a_changed_file_differs(saved, tmp_path):
    """A weight that the file has otherwise than the port is seen by Keras's own run."""
    convert(saved / "nested.h5", out=tmp_path / "port.weights.h5")
    other = shutil.copy(saved / "nested.h5", tmp_path / "other.h5")
    with h5py.File(other, "r+") as file:
        file["model_weights/predictions/predictions/bias"][0] += 0.1

    grades = [
        parity.check(tmp_path / "port.weights.h5", against=against, backend="numpy", sizes=(40,), threads=1).grade
        for against in (saved / "nested.h5", other)
    ]

    assert grades == ["proven", "differs"]


def test_a_model_that_keras_3_does_not_load_is_run_by_the_table(tmp_path):
    """A whole file of Keras 1: its layers have other settings, and what runs is our own reading."""
    network = read(old_file("keras1-theano-th-whole", tmp_path), kernels="theano")
    probes = (Probe(name="noise", images=prepared(40)),)

    (run,) = run_all(plan(network, reference_of(network).software, probes, Settings(threads=1)).jobs["float64"])

    assert (reference_of(network).software, run.read_by) == ("keras", "table")
