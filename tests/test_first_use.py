"""Somebody's first line: a new environment with Keras, nothing in it, and one call, at full size."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from densenet_port.files import file_digest
from tests.support.hosting import Host
from tests.support.networks import checkpoint_file, images, torchvision_network

ORIGINAL = "densenet121-a639ec97.pth"
FLOAT32 = 2e-5  # of the logits' deviation: what two float32 passes differ by in a network of this size
USER = f"""
import os, sys
from pathlib import Path
import numpy as np
from densenet_port.fetch import registry
hosted = registry.Registered(url="https://download.pytorch.org/models/{ORIGINAL}", sha256=sys.argv[1])
registry.registry = lambda: {{("torchvision", "121"): hosted}}  # random weights cannot have the registered digest

import densenet_port as dp
model = dp.DenseNetImageNet121(input_shape=(224, 224, 3))
np.save("answer.npy", np.asarray(model(np.load("images.npy"), training=False).detach()))

(original,) = Path.home().rglob("{ORIGINAL}")
original.unlink()
os.environ["DENSENET_PORT_OFFLINE"] = "1"
body = dp.DenseNetImageNet121(include_top=False)
assert len(body.weights) == len(model.weights) - 2
assert all(np.array_equal(one.numpy(), other.numpy()) for one, other in zip(body.weights, model.weights))
"""


def test_one_call_is_enough_and_the_second_needs_no_network(tmp_path):
    """Torchvision's probabilities with the same file; then, offline and from the cache alone, the same body."""
    pictures = images(1, 224, seed=4)
    np.save(tmp_path / "images.npy", pictures)
    file = checkpoint_file(tmp_path, "121", "hosted")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("DENSENET_PORT_", "XDG_"))}
    with Host({ORIGINAL: file.read_bytes()}) as host:
        done = subprocess.run(
            [sys.executable, "-c", USER, file_digest(file)[:8]],
            env={
                **plain,
                "HOME": str(tmp_path / "home"),
                "KERAS_BACKEND": "torch",
                "DENSENET_PORT_MIRROR": host.url(),
                "PYTHONPATH": str(Path(__file__).parents[1]),
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    with torch.inference_mode():
        logits = torchvision_network("121", seed=0)(torch.from_numpy(pictures).permute(0, 3, 1, 2))

    (ours,) = (tmp_path / "home").rglob("*.weights.h5")
    line = f"imagenet 121: torchvision's {ORIGINAL}, as no release is published; cached as {ours}"
    assert (done.returncode, [text for text in done.stderr.splitlines() if "imagenet" in text]) == (0, [line])
    assert [request.path for request in host.log] == [ORIGINAL]
    apart = np.abs(np.log(np.load(tmp_path / "answer.npy")) - logits.log_softmax(1).numpy()).max()
    assert apart <= FLOAT32 * logits.numpy().std()
