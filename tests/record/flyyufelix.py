"""Record what Keras 1 and 2 write of flyyufelix's networks, and what they compute with files of ours.

    python -m tests.record.flyyufelix KERAS1 KERAS2      two Pythons, each with its Keras

writes `data/old-keras/` (small files and logits), `data/keys/flyyufelix-*.txt` and the verification card. It ran with
Python 3.6.15, PyYAML 5.4.1 and setuptools 59.6.0 twice, and from PyPI

    KERAS1    Keras 1.2.2, Theano 0.9.0, tensorflow 1.4.1, numpy 1.13.3, scipy 1.0.0, h5py 2.7.1
    KERAS2    Keras 2.3.1, Theano 1.0.5, tensorflow 1.14.0, numpy 1.16.6, scipy 1.2.3, h5py 2.10.0

Full-size networks run in Keras 1 on Theano, in float64: "read" compares its logits with ours of the file that it saved,
"written" those of a file that we wrote and it loaded, by order and by name alike.
"""

import gzip
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from densenet_port import formats
from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.layouts.layout import Layout
from densenet_port.network.architecture import NAMED
from densenet_port.network.numpy import forward
from densenet_port.prove import checks
from tests.record import cards as record_cards
from tests.record.cards import KEYS, apart, keras_file, misplaced, row, say
from tests.record.old_keras import NETWORKS, ROWS, pictures
from tests.support.flyyufelix_files import OLD
from tests.support.random_weights import random_weights

LAYOUT, FULL = "flyyufelix", "keras1-theano-th"
SCRIPT = Path(__file__).with_name("old_keras.py")


def old(python, home, *arguments):
    """What an old Keras says of a file."""
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([python, SCRIPT, *arguments], env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def small_files(pythons, folder):
    """The small files of every row, compressed, and one table of the rest."""
    told = {}
    for name, (generation, *_) in ROWS.items():
        file = folder / f"{name}.h5"
        told[name] = old(pythons[generation], folder, "save", name, "small", file)
        (OLD / f"{name}.h5.gz").write_bytes(gzip.compress(file.read_bytes(), mtime=0))
    (OLD / "recorded.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def read_row(python, folder, name):
    """A network that Keras saved, its logits against ours; writes its list of keys. Gives Keras's versions, too."""
    said = old(python, folder, "save", FULL, name, folder / "theirs.h5")
    lines = [f"# keras {said['keras']} {datetime.now(UTC).date().isoformat()}"]
    for tensor, what in formats.read(folder / "theirs.h5").tensors.items():
        lines.append(f"{tensor}\t{' '.join(map(str, what.shape))}\t{what.dtype}")
    (KEYS / f"{LAYOUT}-{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    told = read(folder / "theirs.h5", src=LAYOUT, kernels="theano")
    found = forward(told.architecture, told.contract, told.weights, pictures())
    versions = {key: said[key] for key in ("keras", "theano", "h5py")} | {"python of keras": said["python"]}
    return row(name, "read", "float64", apart(found, np.array(said["logits"])), checks.BOUND64), versions


def written_row(python, folder, name):
    """A network that we wrote and Keras loaded, its logits against the weights' own."""
    architecture, contract, weights = NAMED[name], Layout.load(LAYOUT).contract, random_weights(NAMED[name], 1)
    keras_file(folder / "ours.safetensors", architecture, contract, weights)
    form = {"dim_ordering": "th", "dst_kernels": "theano"}
    convert(folder / "ours.safetensors", dst=LAYOUT, out=folder / "ours.h5", force=True, **form)
    said = old(python, folder, "load", FULL, name, folder / "ours.h5")
    assert said["same by name"]
    truth = forward(architecture, contract, weights, pictures())
    return row(name, "written", "float64", apart(np.array(said["logits"]), truth), checks.BOUND64)


def record(keras1, keras2):
    """Everything."""
    rows = []
    with TemporaryDirectory() as place:
        folder = Path(place)
        small_files({1: keras1, 2: keras2}, folder)
        for name in [name for name in NETWORKS if name in NAMED]:
            read, versions = read_row(keras1, folder, name)
            written = written_row(keras1, folder, name)
            listed = KEYS / f"{LAYOUT}-{name}.txt"
            names = row(name, "names", "float32", misplaced(Layout.load(LAYOUT), listed, name), 0)
            rows += [names, written, read]
            say(f"{LAYOUT} {name} written {written.figure:.1e} read {read.figure:.1e}")
    command = "python -m tests.record.flyyufelix KERAS1 KERAS2"
    record_cards.write(LAYOUT, "Keras 1 on Theano", versions, rows, command)


if __name__ == "__main__":
    record(*sys.argv[1:])
