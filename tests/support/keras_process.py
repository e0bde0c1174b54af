"""Files that real Keras wrote, and what real Keras holds after it has loaded ours; `keras_script` runs by itself."""

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from tests.support import warm

LOGITS = "logits"


@cache
def real_files():
    """The folder of files that Keras wrote, made once."""
    folder = Path(tempfile.mkdtemp(prefix="densenet-port-keras-"))
    atexit.register(shutil.rmtree, folder)
    run("save", folder)
    return folder


def loaded_by_keras(*cases):
    """What Keras holds after it has loaded our file, for each (architecture, contract, file): name → array.

    `LOGITS` is what the network puts out for `picture`; a file of weights goes into Keras's own layers.
    """
    told = [
        {"arch": arch.to_json(), "contract": contract.to_json(), "file": str(file)} for arch, contract, file in cases
    ]
    run("load", json.dumps(told))
    return [dict(np.load(f"{file}.npz")) for _, _, file in cases]


def run(*arguments):
    warm.keras("tests.support.keras_script", *arguments, backend="numpy")


def truth(name):
    """The tensors of a file that Keras wrote: name → array."""
    return dict(np.load(real_files() / f"{name}.npz"))


def picture(channels=3):
    """Two random pictures, even and odd, so that paddings differ."""
    return np.random.default_rng(5).standard_normal((2, 66, 61, channels)).astype(np.float32)
