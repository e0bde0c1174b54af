"""One flipped bit in every container that we write, and all ways of reading it.

    python -m tests.hostile.flips COUNT

Each must be found, whatever stands there. COUNT bits are anywhere. Three in twenty of that many are where no tensor is,
and so is every bit near the record's schema, by which it is recognised: these are told when the file is opened.
"""

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

from densenet_port import formats
from densenet_port.conversion.compare import diff
from densenet_port.conversion.convert import convert, verify
from densenet_port.errors import PortError
from tests.hostile.fuzz import BESIDE, seeds_in
from tests.hostile.judge import network_of

NEAR = 120  # bytes before and behind
OURS = (".pth", ".safetensors", ".h5", ".weights.h5", ".keras", ".caffemodel", ".prototxt", ".onnx", ".npz")


def ways(path: Path, whole: Path, right: str, out: Path) -> dict[str, str]:
    """Way of reading → "found", "same" where what it gives is that of the whole file, or "other"."""
    return {
        "read": _outcome(lambda: network_of(path)[0] == right),
        "convert": _outcome(
            lambda: convert(path, out=out, force=True) and network_of(out)[0] == _converted(whole, out)
        ),
        "diff": _outcome(lambda: diff(path, whole).same),
        "verify": _outcome(lambda: bool(verify(path))),
    }


def _outcome(act):
    try:
        return "same" if act() else "other"
    except PortError:
        return "found"


_KNOWN: dict[Path, str] = {}


def _converted(whole, out):
    """The digest of what the whole file converts to."""
    if whole not in _KNOWN:
        other = out.with_name(f"whole{out.name}")
        convert(whole, out=other, force=True)
        _KNOWN[whole] = network_of(other)[0]
    return _KNOWN[whole]


def beside(path: Path, place: Path, count: int) -> dict[str, int]:
    """How many bits that are no tensor's were flipped, and how many of them were missed by who opens the file."""
    data, random = path.read_bytes(), Random(f"{path.name} beside")  # noqa: S311 (nothing is secret)
    taken = [tensor.extent for tensor in formats.read(path).tensors.values() if tensor.extent]
    places = sorted(set(range(len(data))).difference(*(range(start, start + length) for start, length in taken)))
    schema = data.index(b"densenet-port/file/")
    bits = [(at, bit) for at in places if abs(at - schema) < NEAR for bit in range(8)]
    bits += [(random.choice(places), random.randrange(8)) for _ in range(count)]
    missed = 0
    for at, bit in bits:
        damaged = bytearray(data)
        damaged[at] ^= 1 << bit
        place.write_bytes(damaged)
        missed += _outcome(lambda: bool(formats.read(place))) != "found"
    return {"bits": len(bits), "missed": missed}


def flipped(count: int) -> dict:
    """Container → way → outcomes of `count` flipped bits; and of those beside the tensors."""
    results, others = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "whole").mkdir()
        paths = seeds_in(folder / "whole")
        for container in OURS:
            data, random = paths[container].read_bytes(), Random(container)  # noqa: S311 (nothing is secret)
            whole = paths[BESIDE.get(container, container)]
            right, _ = network_of(whole)
            outcomes: dict[str, Counter] = {}
            place, path = folder / f"x{container}", folder / whole.name
            path.write_bytes(whole.read_bytes())
            for _ in range(count):
                damaged = bytearray(data)
                damaged[random.randrange(len(data))] ^= 1 << random.randrange(8)
                place.write_bytes(damaged)
                for way, outcome in ways(path, whole, right, folder / "out.weights.h5").items():
                    outcomes.setdefault(way, Counter())[outcome] += 1
            place.unlink()
            if container != ".prototxt":
                others[container] = beside(whole, place, round(count * 0.15))
            results[container] = {way: dict(counter) for way, counter in outcomes.items()}
    return {"count": dict.fromkeys(results, count), "containers": results, "beside": others}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(flipped(int(sys.argv[1]))))
