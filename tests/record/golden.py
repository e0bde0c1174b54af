"""Records what the tool writes, reads and computes, so that a change which must change nothing can prove it.

    python -m tests.record.golden        writes tests/data/golden.json; record only what was meant to change

Each **case** converts a small network into one layout and container. Of the file, and of its companion where there is
one, the record keeps SHA-256; of the file read back, what it is taken for and one digest of every slot: name, type,
shape and bits, in our axes. Of published networks, which are too large to be written, the names of the tensors are
kept. Of each architecture under several contracts it keeps the float64 logits of fixed images. No framework takes part.

Written files carry the digests of the tables and the tool's version, and editing a comment in a table is no change of
the output. So a file's bytes are hashed after these were replaced by zeros: the digests that its own manifest lists
under `mappings`, the manifest's own, and that of the file's rest, wherever it stands; the version behind
"densenet-port", in the manifest and as an ONNX model's producer; and in a file whose source is itself a converted one,
the digest of that source, which covers both. The zeros are as long as what they replace, so every other byte and every
place in the file still count. A version of another length does change the places, and then the record has to be made
anew. `.pth` and `.keras` are zips of stored members with a CRC-32 of each, which cover the replaced bytes: they are
checked, and then replaced too, in the member's header and in the directory.

Weights and images are the raw 64-bit numbers of PCG64, which numpy promises to keep, times powers of two: every value
is exact, and no function is asked whose last bit a processor or a library may choose.

Logits are sums in an order that BLAS chooses. A sum of n products, in any order, is within n·u of the exact one, with
the unit roundoff u = 2⁻⁵³, relative to the sum of magnitudes (Higham, *Accuracy and Stability of Numerical Algorithms*,
2002, 3.1). Two passes are 2·n·u = n·2⁻⁵² apart at most, where n adds up over all units, because each one's error enters
the next. `bound` is that in deviations of the logits. Random signs make it much less in fact, which leaves room for
what cancels on the way to the logits: OpenBLAS's kernels for five processors were apart by at most 0.4 % of it.
"""

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from itertools import product
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np

from densenet_port.checkpoint import Tensor
from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read as read_network
from densenet_port.errors import PortError
from densenet_port.formats import companion, write
from densenet_port.layouts.cards import holds
from densenet_port.layouts.layout import Layout, layouts
from densenet_port.network.architecture import Architecture
from densenet_port.network.numpy import forward

# -- all that is known of the package: the imports above, and what these functions do with them ------------------------


@cache
def shapes(spec):
    """Name of a slot → its shape in our axes, in order of execution."""
    return {str(slot): shape for slot, shape in Architecture.named(spec).slots.items()}


def table_of(layout):
    """The file of a layout's table."""
    return Layout.load(layout).path


def own_contract(layout):
    """The contract that a layout's software has, as plain JSON values."""
    return Layout.load(layout).contract.to_json()


def carried(layout):
    """The entries of a contract that go with the weights into a file of the layout."""
    return Layout.load(layout).carried


def containers(layout):
    """The endings that a layout is written with, the usual one first."""
    return Layout.load(layout).containers


def kernel_axes(layout):
    """The orders of axes in which a layout stores kernels, the usual one first."""
    return Layout.load(layout).tensors["conv"]["kernel"].axes


def held(layout, spec):
    """Whether a layout can hold a network."""
    return holds(Layout.load(layout), Architecture.named(spec))


def spelled(layout, spec):
    """Name of a slot → name in a layout, which must have one tensor for each."""
    return {str(place): rule.name for place, rule in Layout.load(layout).spell(Architecture.named(spec)).items()}


def save(path, arrays, spec=None, contract=None):
    """Write tensors; with a contract, as a converted file of our own that says what it is."""
    architecture = Architecture.named(spec).to_json() if spec else None
    manifest = {"layout": "keras", "architecture": architecture, "contract": contract} if spec else {}
    tensors = {name: Tensor(a.shape, a.dtype.name, lambda a=a: a) for name, a in arrays.items()}
    write(path, tensors, lambda: json.dumps(manifest).encode())
    return path


class Read(NamedTuple):
    """A file as the tool reads it: what it is taken for, its own record, slots, and a function for its logits."""

    taken_for: str
    manifest: dict[str, Any]
    slots: dict[str, np.ndarray]
    logits: Any


def read(path):
    """A whole file."""
    network = read_network(path)
    contract, weights = network.contract, dict(network.weights)
    facts = [getattr(contract, key) for key in ("epsilon", "stem_padding", "stem_pool", "pool_rounding", "output")]
    return Read(
        " ".join(map(str, [network.layout, network.architecture.spec, *facts, contract.input.order])),
        dict(network.checkpoint.record or {}),
        {str(slot): array for slot, array in weights.items()},
        lambda pictures: forward(network.architecture, contract, weights, pictures),
    )


# -- cases -------------------------------------------------------------------------------------------------------------

DATA = Path(__file__).parent.parent / "data" / "golden.json"
SMALL = "layers=2-3-2,growth_rate=8,init_channels=16,classes=7"
DEEP = f"{SMALL},stem=deep"
MANY = "layers=6-12-24-16,growth_rate=4,init_channels=8,classes=7"  # slow: in the usual container, and in .h5
SPECS = [
    SMALL,
    DEEP,
    f"{SMALL},stem=cifar",
    "layers=3-3-3,growth_rate=4,init_channels=8,bottleneck=0,reduction=0.0,stem=cifar,classes=10",
    "layers=2-2,growth_rate=6,init_channels=12,bottleneck=2,reduction=0.25,classes=5",
    "layers=1-2,growth_rate=4,init_channels=8,bottleneck=0,classes=3",
    MANY,
]
WIDE = [  # for layouts that hold nothing smaller
    "layers=2-3-2,growth_rate=32,init_channels=64,classes=7",
    "layers=2-3-2,growth_rate=48,init_channels=96,stem=deep,classes=7",
    f"{SMALL},head=no-relu/max+mean/norm/dense:6/relu/norm/dense",  # fastai's
    f"{SMALL},head=mean/dense:6/norm/relu/dense",  # torchreid's
]
LARGE = "layers=6-12-24-16,growth_rate=32,init_channels=64,stem=deep,classes=7"  # timm-blur holds only this one
PUBLISHED = [
    *("121", "161", "169", "201", "264", "121d", "264d"),
    *("cifar-40-12", "cifar-100-24", "cifar-bc-100-12", "cifar-bc-190-40"),
]
ALIASES = {".h5": ".hdf5", ".pth": ".pt"}
CONTRACTS = {
    "epsilon 0.001": {"epsilon": 1e-3},  # which a layout carries, or absorbs
    "same padding": {"stem_padding": "same"},
    "blur pool": {"stem_pool": "blur"},
    "floor rounding": {"pool_rounding": "floor"},
    "ceil rounding": {"pool_rounding": "ceil"},
    "logits": {"output": "logits"},
    "softmax": {"output": "softmax"},
    "sigmoid": {"output": "sigmoid"},
}
JOURNEYS = [  # on the way there an epsilon is absorbed, and on the way on it is taken out again
    ("torchvision", "flyyufelix", MANY),
    ("flyyufelix", "torchvision", MANY),
    ("caffe", "flyyufelix", MANY),
    ("kimm", "keras-applications", WIDE[0]),
    ("titu1994", "keras-hub", WIDE[0]),
]


class Start(NamedTuple):
    """The file that a case converts: `form` is "ours", "half" (ours in float16), "pth" (torchvision's) or "two"."""

    spec: str
    contract: str  # JSON, so that equal ones are made once
    form: str = "ours"


class Case(NamedTuple):
    """One conversion: what is special about it, where to, from what, the verb's options, and a layout on the way."""

    name: str
    layout: str
    ending: str
    start: Start
    options: tuple[tuple[str, Any], ...] = ()
    via: str | None = None

    def __str__(self) -> str:
        """As failures and the record call it."""
        return " | ".join(part for part in (self.layout, self.ending, self.start.spec, self.name) if part)


def cases(layout) -> Iterator[Case]:
    """Every case of a layout: each container with each network, then what changes bytes, then where it comes from."""
    contract, fitting = json.dumps(own_contract(layout)), fitting_networks(layout)
    for ending, spec in product(containers(layout), fitting):
        if spec != MANY or ending in (containers(layout)[0], ".h5"):  # where long lists of names are split
            yield Case("", layout, ending, Start(spec, contract))
    for ending in containers(layout):
        yield Case("float16", layout, ending, Start(fitting[0], contract), (("dtype", "float16"),))
    if fitting != [LARGE]:
        yield from cases_of_containers(layout, fitting[0])
        yield from cases_of_contracts(layout, fitting)
        yield from cases_of_kernels(layout, fitting)
        yield from cases_of_sources(layout, fitting[0])


def fitting_networks(layout):
    """The small networks that a layout holds, or the smallest one."""
    small = [spec for spec in SPECS if held(layout, spec)]
    return small or [next(spec for spec in [*WIDE, LARGE] if held(layout, spec))]


def cases_of_containers(layout, spec):
    """What each container stores in its own way, and the endings that stand for another."""
    start = Start(spec, json.dumps(own_contract(layout)))
    for ending in containers(layout):
        yield Case("float64", layout, ending, start, (("dtype", "float64"),))
        yield Case("without head", layout, ending, start, (("no_top", True),))
        if ending in ALIASES:
            yield Case("", layout, ALIASES[ending], start)


def cases_of_contracts(layout, fitting):
    """Contracts that the file carries, in each container, and an epsilon that it may have to absorb."""
    own = own_contract(layout)
    for (name, entries), ending in product(CONTRACTS.items(), containers(layout)):
        if own | entries != own and set(entries) <= carried(layout) | {"epsilon"}:
            spec = fitting[0].replace("classes=7", "classes=1") if name == "sigmoid" else fitting[0]
            yield Case(name, layout, ending, Start(spec, json.dumps(own | entries)))
    if "stem_pool" in carried(layout):
        yield Case("blur pool", layout, containers(layout)[0], Start(DEEP, json.dumps(own | CONTRACTS["blur pool"])))


def cases_of_kernels(layout, fitting):
    """The ways in which a layout stores kernels, for the first stem that it holds and for CIFAR's."""
    contract, orders = json.dumps(own_contract(layout)), kernel_axes(layout)
    cifar = [spec for spec in fitting if "stem=cifar" in spec]
    for spec, order in product(dict.fromkeys([fitting[0], *cifar[:1]]), orders if len(orders) > 1 else ()):
        options = [("dst_kernels", "theano" if "-" in order else "tensorflow")]
        if any(other.startswith("o") for other in orders):
            options.append(("dim_ordering", "th" if order.startswith("o") else "tf"))
        name = ", ".join(choice for _, choice in options)
        yield Case(name, layout, containers(layout)[0], Start(spec, contract), tuple(options))


def cases_of_sources(layout, spec):
    """Other sources: one grey channel, float16, a .pth that records nothing of itself, and one of two networks."""
    contract, first = json.dumps(own_contract(layout)), containers(layout)[0]
    yield Case("", layout, first, Start(f"{spec},channels=1", contract))
    yield Case("from float16", layout, first, Start(spec, contract, "half"))
    if held("torchvision", spec):
        yield Case("from .pth", layout, first, Start(spec, contract, "pth"))
        yield Case("one of two", layout, first, Start(spec, contract, "two"), (("within", "state_dict_ema"),))
    for via, last, common in JOURNEYS:
        if last == layout:
            yield Case(f"by way of {via}", layout, first, Start(common, contract), via=via)


# -- numbers that are the same everywhere ------------------------------------------------------------------------------


def uniform(bits, shape):
    """Multiples of 2⁻²³ from 0 up to, not including, 1: exact in float32."""
    whole = bits.random_raw(prod(shape)) >> np.uint64(41)
    return np.ldexp(whole.astype(np.float64), -23).reshape(shape)


@cache
def weights(spec):
    """Name of a slot → random float32 in our axes; a seventh of the variances is too small to absorb an epsilon."""
    bits = np.random.PCG64(1)
    return {
        name: weight(bits, name.rpartition(".")[2], shape).astype(np.float32) for name, shape in shapes(spec).items()
    }


def weight(bits, role, shape):
    """One tensor, whose activations stay of order one."""
    if role == "kernel":
        return np.ldexp(uniform(bits, shape) * 2 - 1, (3 - prod(shape[:-1]).bit_length()) // 2)
    if role in ("scale", "variance"):
        tiny = 2.0**-27 if role == "variance" else 2.0**-13
        return (uniform(bits, shape) + 0.5) * np.where(np.arange(prod(shape)) % 7 == 6, tiny, 1.0)
    return (uniform(bits, shape) - 0.5) / 2


def images(size):
    """Three images n h w c between -2 and 2."""
    return uniform(np.random.PCG64(2), (3, size, size, 3)) * 4 - 2


# -- recording ---------------------------------------------------------------------------------------------------------


def recording():
    """Everything, as golden.json has it."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        return {
            "files": {layout: files_of(layout, folder) for layout in layouts()},
            "names": {layout: names_of(layout) for layout in layouts()},
            "logits": {spec: logits_of(spec, folder) for spec in [*SPECS, *WIDE]},
        }


def files_of(layout, folder, chosen=cases):
    """Case → what was written and what was read back, of every case of a layout or of those that are chosen."""
    return {str(case): outcome(case, folder) for case in chosen(layout)}


def unlike(layout) -> Iterator[Case]:
    """The first case of each container, and of each network with what is special about it: two separate things."""
    seen = set()
    for case in cases(layout):
        parts = {case.ending, (case.start.spec, case.name)}
        if not parts <= seen:
            yield case
        seen |= parts


def names_of(layout):
    """Published network → one digest of its tensors' names in order; these are too large to be written each time."""
    names = {spec: "\n".join(spelled(layout, spec).values()) for spec in PUBLISHED if held(layout, spec)}
    return {spec: hashlib.sha256(text.encode()).hexdigest() for spec, text in names.items()}


def outcome(case, folder):
    """The digests of one case; or that the tool refuses it, or does not read what it wrote."""
    try:
        path = converted(case, folder)
    except PortError:
        return {"refused": True}
    try:
        return digests(path, source_too=case.via is not None)
    except PortError as error:
        return {"unreadable": str(error)}


def converted(case, folder):
    """The file of a case."""
    source = started(case.start, folder)
    if case.via:
        there = folder / f"via{containers(case.via)[0]}"
        source = convert(source, dst=case.via, out=there, force=True).out
    return convert(source, dst=case.layout, out=folder / f"out{case.ending}", force=True, **dict(case.options)).out


def started(start, folder):
    """The file to convert, made once in a folder."""
    ending = ".safetensors" if start.form in ("ours", "half") else ".pth"
    path = folder / (hashlib.sha256(repr(start).encode()).hexdigest() + ending)
    if path.exists():
        return path
    if ending == ".safetensors":
        kind = np.float16 if start.form == "half" else np.float32
        arrays = {name: weights(start.spec)[slot].astype(kind) for slot, name in spelled("keras", start.spec).items()}
        return save(path, arrays, start.spec, json.loads(start.contract))
    arrays = of_torchvision(start.spec)
    if start.form == "pth":
        return save(path, arrays)
    averaged = {f"state_dict_ema.{name}": array for name, array in arrays.items()}
    return save(path, {f"state_dict.{name}": array * 2 for name, array in arrays.items()} | averaged)


def of_torchvision(spec):
    """The weights as torchvision's network holds them."""
    turned = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}  # i o → o i, h w i o → o i h w
    arrays = {name: weights(spec)[slot] for slot, name in spelled("torchvision", spec).items()}
    return {name: np.ascontiguousarray(array.transpose(turned[array.ndim])) for name, array in arrays.items()}


def digests(path, *, source_too=False):
    """What is recorded of a written file."""
    contents, beside, slots = read(path), companion(path), hashlib.sha256()
    also = (contents.manifest["source"]["sha256"],) if source_too else ()
    data = normalised(without_sums(path.read_bytes()), contents.manifest, also=also)
    for name, array in contents.slots.items():
        slots.update(f"{name} {array.dtype.name} {array.shape}\n".encode() + np.ascontiguousarray(array).tobytes())
    return {
        "file": hashlib.sha256(data).hexdigest(),
        **({"companion": hashlib.sha256(beside.read_bytes()).hexdigest()} if beside else {}),
        "read as": contents.taken_for,
        "slots": slots.hexdigest(),
    }


def normalised(data, manifest, *, also=()):
    """A file's bytes with zeros for the digests of its tables, its record's two, those of `also`, and the version."""
    for digest in (*manifest["mappings"].values(), manifest["sha256"], manifest["rest"], *also):
        data = data.replace(digest.encode(), b"0" * len(digest))
    name, version = manifest["tool"].encode().split(b" ")
    for between in (b" ", bytes([3 << 3 | 2, len(version)])):  # as in a manifest; as an ONNX model's next field
        data = data.replace(name + between + version, name + between + b"0" * len(version))
    return data


def without_sums(data):
    """A zip's bytes with zeros for each CRC-32, if they are right, and its comment; any other file's as they are."""
    if not data.startswith(b"PK\x03\x04"):
        return data
    with ZipFile(BytesIO(data)) as archive:
        if archive.testzip():
            return data
        entries, place, comment = archive.infolist(), archive.start_dir, archive.comment
    plain = bytearray(data.removesuffix(comment) + b"0" * len(comment))
    for entry in entries:
        plain[entry.header_offset + 14 : entry.header_offset + 18] = bytes(4)
        plain[place + 16 : place + 20] = bytes(4)
        place += 46 + sum(int.from_bytes(plain[place + at : place + at + 2], "little") for at in (28, 30, 32))
    return bytes(plain)


def logits_of(spec, folder):
    """Contract → float64 logits of three images; maps are even in the stem and odd in a transition."""
    names = ["epsilon 0.001", "ceil rounding", *([] if "cifar" in spec else ["same padding", "blur pool"])]
    pictures, logits = images(19 if "cifar" in spec else 36), {}
    for name in ["the usual", *names]:
        contract = json.dumps(own_contract("keras") | CONTRACTS.get(name, {}))
        logits[name] = read(started(Start(spec, contract), folder)).logits(pictures).tolist()
    return logits


def bound(spec):
    """How far two float64 passes may be apart, in deviations of the logits: terms of all sums, times 2⁻⁵²."""
    return sum(prod(shape[:-1]) for shape in shapes(spec).values()) * 2.0**-52


def main():
    """Write the record."""
    DATA.write_text(json.dumps(recording(), indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
