"""Other readers on the same mutants: how many they read as other numbers without a word, and how many end them.

    python -m tests.hostile.incumbents COUNT

Only damage is counted, no forgery: bytes that were changed behind the writer's back.
"""

import hashlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.hostile.fuzz import BATCH, seeds_in
from tests.hostile.isolated import called
from tests.hostile.judge import MEMORY, HangError, limit, timed
from tests.hostile.mutants import BYTEWISE, repeated

Arrays = Callable[[Path], dict]


def of_torch(path):
    import torch

    state = torch.load(path, weights_only=True, map_location="cpu")
    return {name: tensor.numpy() for name, tensor in state.items()}


def of_safetensors(path):
    from safetensors.numpy import load_file

    return load_file(path)


def of_h5py(path):
    import h5py

    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return {name: value for name, value in found.items() if not name.startswith("densenet_port")}


def of_onnx(path):
    import onnx
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def of_numpy(path):
    import numpy as np

    with np.load(path) as file:
        return dict(file)


def of_us(path):
    from densenet_port import formats

    return {name: tensor.load() for name, tensor in formats.read(path).tensors.items()}


READERS: dict[str, tuple[Arrays, tuple[str, ...]]] = {
    "torch.load, weights_only": (of_torch, (".pth", "packed.pth", "stream.pth")),
    "safetensors": (of_safetensors, (".safetensors",)),
    "h5py": (of_h5py, (".h5", ".weights.h5", ".caffemodel.h5")),
    "onnx": (of_onnx, (".onnx",)),
    "numpy.load": (of_numpy, (".npz", "numpy.npz")),
}


def digest_of(arrays: dict) -> str:
    """Of names and numbers."""
    summary = hashlib.sha256()
    for name, array in arrays.items():
        summary.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return summary.hexdigest()


def outcome(read: Arrays, path: Path, right: str) -> str:
    """Refused, the same numbers, others, a hang, or too much memory."""
    try:
        with timed(5):
            return "same" if digest_of(read(path)) == right else "other"
    except HangError:
        return "hang"
    except MemoryError:
        return "memory"
    except Exception:  # noqa: BLE001 (anything is a refusal here)
        return "refused"


def counted(read: Arrays, path: Path, container: str, count: int) -> dict:
    """Outcomes of damaged files; a process that dies counts one, and goes on behind it."""
    total: Counter = Counter()
    whole, at = path.read_bytes(), 0
    with tempfile.TemporaryDirectory() as name:
        place, note = Path(name, f"x{container}"), Path(name, "number")

        def batch(pipe, numbers):
            place.write_bytes(whole)
            right, outcomes = digest_of(read(place)), Counter()
            limit(16 * MEMORY)
            for number in numbers:
                note.write_text(str(number))
                random = Random(f"damage {container} {number}")  # noqa: S311 (nothing is secret)
                place.write_bytes(repeated(random.choice(BYTEWISE), whole, random))
                outcomes[outcome(read, place, right)] += 1
                note.with_name("so far").write_text(json.dumps(outcomes))
            pipe.send(dict(outcomes))

        while at < count:
            numbers = range(at, min(at + BATCH, count))
            answer = called(lambda pipe, numbers=numbers: batch(pipe, numbers), 600)
            if isinstance(answer, int):
                total.update(json.loads(note.with_name("so far").read_text()))
                total["signal"] += 1
                at = int(note.read_text()) + 1
                continue
            total.update(answer)
            at = numbers.stop
    return dict(total)


def beside(count: int) -> dict:
    """Reader → container → its outcomes and ours."""
    results: dict = {"count": count, "readers": {}}
    with tempfile.TemporaryDirectory() as name:
        paths = seeds_in(Path(name))
        for reader, (read, containers) in READERS.items():
            for container in containers:
                both = (counted(each, paths[container], container, count) for each in (read, of_us))
                results["readers"].setdefault(reader, {})[container] = dict(zip(("theirs", "ours"), both, strict=True))
    return results


if __name__ == "__main__":
    sys.stdout.write(json.dumps(beside(int(sys.argv[1]))))
