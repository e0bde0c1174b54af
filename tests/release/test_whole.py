"""The whole way, at full size: torchvision's four networks become a release, are published, verified, and used.

The weights are random and stand in for the hosted ones, in the hosted ones' own form; GitHub is the one on loopback.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

from densenet_port.network.architecture import Architecture
from densenet_port.prove import checks
from densenet_port.prove.recording import Recording
from densenet_port.release.build import build
from densenet_port.release.github import GitHub as Client
from densenet_port.release.network import Options
from densenet_port.release.publish import publish
from densenet_port.release.verify import verify
from tests.support.github import REPO, WRITER, GitHub
from tests.support.networks import checkpoint_file

ARCHS = ("121", "161", "169", "201")
TAG = "v0.1.0"
USER = """
import sys
import keras
import numpy as np
import densenet_port

keras.config.set_floatx("float64")
images = np.load(sys.argv[1])
model = densenet_port.DenseNetImageNet121(weights="imagenet", activation=None, input_shape=images.shape[1:])
np.save(sys.argv[2], keras.ops.convert_to_numpy(model(images, training=False)))
"""


@pytest.fixture(scope="module")
def server():
    """A GitHub without releases."""
    with GitHub() as running:
        yield running


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A release of the four networks, every one checked against torchvision."""
    place = tmp_path_factory.mktemp("whole")
    sources = [checkpoint_file(place, arch, "hosted") for arch in ARCHS]
    archs = [Architecture.named(arch) for arch in ARCHS]
    options = Options(backend="numpy", sizes=())
    done = build(place / "release", src="torchvision", archs=archs, checkpoints=sources, tag=TAG, options=options)
    assert done.passed
    return place / "release"


def test_a_release_of_the_four_networks_is_published_verified_and_used(release, server, tmp_path, monkeypatch):
    """A new process asks for "imagenet", and its logits are those of torchvision with the original checkpoint."""
    publish(release, Client(REPO, api=server.url("api"), token=WRITER))
    monkeypatch.setenv("GITHUB_SERVER_URL", server.url("web"))
    verdict = verify(f"{REPO}@{TAG}")
    golden = Recording.load(release / "densenet121-torchvision.golden.npz")
    probe = golden.probes[0]
    np.save(tmp_path / "images.npy", probe.images)
    environment = {
        **os.environ,
        "DENSENET_PORT_CACHE": str(tmp_path / "cache"),
        "DENSENET_PORT_RELEASE": server.base(TAG),
        "KERAS_BACKEND": "tensorflow",
    }

    words = [sys.executable, "-c", USER, tmp_path / "images.npy", tmp_path / "logits.npy"]
    subprocess.run(words, env=environment, check=True, timeout=300)

    truth = golden.logits["float64", probe.name]
    apart = np.abs(np.load(tmp_path / "logits.npy") - truth).max() / truth.std()
    assert [check for check in verdict.checks if not check.passed] == []
    assert sorted(verdict.manifest.defaults) == list(ARCHS)
    assert apart <= checks.BOUND64
