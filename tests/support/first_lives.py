"""First uses of "imagenet" in processes of their own, some of which are killed; forked from one that has imported all.

    python -m tests.support.first_lives KIND FOLDER     with what is known on stdin; prints one JSON value

On stdin stand `url` and `sha256` of the original, the `arch`, and `port`, the SHA-256 of its conversion. `together`
starts eight at once on an empty cache. `steps` kills one at its first step that makes, syncs, renames or removes
something on the disk, one at its second …, and lets another finish each time: what the first ended with, what the
second did, and what lies there then.
"""

import json
import os
import sys
from pathlib import Path

import filelock  # noqa: F401 (before the fork, as the next two)
import h5py  # noqa: F401
import urllib3  # noqa: F401

from densenet_port.conversion.load import port
from densenet_port.fetch import registry
from densenet_port.files import file_digest
from densenet_port.network.architecture import Architecture
from tests.support.lives import TOUCHES, born, dying, ended

CHANGES = TOUCHES - {"open", "write"}  # of which there is one for each tensor


def use(known, folder):
    """One life: the right file of ours, or an error."""
    os.environ["DENSENET_PORT_CACHE"] = str(folder)
    path = registry.registered(registry.IMAGENET, Architecture.named(known["arch"]), port=port)
    assert file_digest(path) == known["port"]


def together(known, folder):
    """How eight processes end that start at once."""
    return [ended(child) for child in [born(lambda: use(known, folder)) for _ in range(8)]]


def steps(known, folder):
    """For each death: how it ended, how the next life ended, and what lies there then."""
    results = []
    for step in range(1, 100):
        place = folder / str(step)
        first = ended(born(lambda step=step, place=place: dying(step, lambda: use(known, place), CHANGES)))
        results.append(
            [first, ended(born(lambda place=place: use(known, place))), sorted(path.name for path in place.iterdir())]
        )
        if first == 0:
            break
    return results


if __name__ == "__main__":
    kind, where = sys.argv[1:]
    known = json.load(sys.stdin)
    entry = registry.Registered(url=known["url"], sha256=known["sha256"])
    registry.registry = lambda: {("torchvision", known["arch"]): entry}
    print(json.dumps(globals()[kind](known, Path(where))))  # noqa: T201
