"""Many batches of one shape: Keras compiles the network for them, and it answers as it does each time anew."""

from dataclasses import replace

import numpy as np

from densenet_port.conversion.load import read
from densenet_port.network.numpy import forward
from densenet_port.prove.recording import job_of
from densenet_port.prove.worker import run_all
from tests.support.evaluations import port
from tests.support.networks import images

SINGLE = 1e-5  # of the logits' deviation: two float32 passes of a network of this size


def test_a_network_that_is_compiled_answers_as_one_that_is_not(tmp_path):
    """The network that we build, and the whole model in a file; twice each, the second time of other images."""
    ours, whole = port(tmp_path / "ours.weights.h5"), port(tmp_path / "whole.keras")
    seen = [images(3, 32), images(3, 32)[::-1].copy()]
    jobs = [
        replace(job_of(network, "keras", pictures, dtype="float32"), repeated=True)
        for network in map(read, (ours, whole))
        for pictures in seen
    ]

    runs = run_all(jobs)

    assert [run.read_by for run in runs] == ["table", "table", "file", "file"]
    network = read(ours)
    for run, job in zip(runs, jobs, strict=True):
        truth = forward(network.architecture, network.contract, network.weights, job.images)
        assert np.abs(run.logits - truth).max() < SINGLE * truth.std()
