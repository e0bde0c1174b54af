"""Stems, transitions and heads of every form, in every lowering: torch, Keras, and the files of our own layout."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.graph import graph
from densenet_port.network.numpy import forward, run
from densenet_port.network.torch import assign, build, slots
from densenet_port.prove.job import Job
from densenet_port.prove.worker import run_all
from tests.record.cards import keras_file
from tests.support.networks import images
from tests.support.random_weights import random_weights

SMALL = Architecture.named("layers=1-2-1,growth_rate=4,init_channels=8,classes=5")
FULL = 1e-10  # of the logits' deviation: what two right float64 passes must agree to


class Form(NamedTuple):
    """A network, as no published one is."""

    architecture: Architecture
    contract: Contract = Contract()


FORMS = {
    "a stem of 5 × 5": Form(replace(SMALL, stem="5x5-norm")),
    "a stem of stride 1": Form(SMALL, Contract(stem_stride=1)),
    "a stem without a pool": Form(replace(SMALL, stem="cifar-norm"), Contract(stem_pool="none")),
    "two reductions": Form(replace(SMALL, reduction=(0.4, 0.6))),
    "no norm at the end": Form(replace(SMALL, final_norm=False)),
    "two means, norms and a dense layer": Form(replace(SMALL, head="max+mean/norm/dense:6/relu/norm/dense")),
    "two dense layers": Form(replace(SMALL, head="mean/dense:6/relu/dense"), Contract(output="softmax")),
    "two dense layers and tanh": Form(replace(SMALL, head="mean/dense:6/tanh/dense"), Contract(output="sigmoid")),
    "a flattened map": Form(replace(SMALL, head="flatten:2/dense")),
    "a flattened map behind a pool": Form(replace(SMALL, head="flatten:2/dense"), Contract(head_pool=2)),
}


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def form(request):
    """One of the forms."""
    return request.param


def pictures_for(form, seed=0):
    """Two pictures of a size that the network takes."""
    network = graph(form.architecture, form.contract)
    return images(2, network.fixed_side or network.smallest_side + 3, seed=seed)


def apart(found, truth):
    """The largest difference, in deviations of the truth."""
    assert found.shape == truth.shape
    return float(np.abs(found - truth).max() / truth.std())


def test_torch_is_the_numpy_pass(form):
    """In float64, with what the contract puts behind the head; its slots are ours, in order."""
    network, weights = graph(form.architecture, form.contract), random_weights(form.architecture)
    pictures = pictures_for(form)
    module = build(network).double().eval()

    assign(module, weights)
    with torch.inference_mode():
        output = module(torch.from_numpy(pictures).double().permute(0, 3, 1, 2)).numpy()

    assert apart(output, run(network, weights, pictures)) <= FULL
    assert [*slots(module)] == [*form.architecture.slots]


def test_keras_on_tensorflow_is_the_numpy_pass(tmp_path):
    """In float64, each at a size of its own."""
    jobs = [
        Job(
            network="keras",
            path=keras_file(tmp_path / f"{place}.safetensors", *form, random_weights(form.architecture)),
            images=pictures_for(form, seed=place),
            dtype="float64",
        )
        for place, form in enumerate(FORMS.values())
    ]

    distances = {
        name: apart(done.logits, forward(*form, random_weights(form.architecture), job.images))
        for (name, form), job, done in zip(FORMS.items(), jobs, run_all(jobs), strict=True)
    }

    assert {name: distance for name, distance in distances.items() if not distance <= FULL} == {}
