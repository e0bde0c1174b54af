"""Every layout into ours, every kind into every other: nothing lost, the same function, and back; or refused.

Files are small networks of the published ones' shape, random in every tensor, some variances so small that another
epsilon cannot be absorbed by them. A table that holds only the numbers of one published network gets that one.
"""

import json
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import combinations, product

import numpy as np
import pytest

from densenet_port import formats
from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.errors import MisfitError
from densenet_port.formats.record import SCHEMAS
from densenet_port.layouts import cards as support
from densenet_port.layouts.layout import Layout, layouts
from densenet_port.layouts.transform import FOLDS
from densenet_port.network.architecture import NAMED, Architecture
from densenet_port.network.numpy import forward
from densenet_port.network.units import Slot
from densenet_port.prove import checks
from tests.record.cards import held, keras_file
from tests.support.networks import images
from tests.support.random_weights import random_weights

FULL = 1e-10  # of the logits' deviation: what two float64 passes of the same function must agree to
ULP = 1.0  # a tensor that was rounded on the way out and on the way back
CANDIDATES = [
    Architecture.named("layers=2-3-2,growth_rate=8,init_channels=16,classes=7"),
    Architecture.named("layers=2-3-2,growth_rate=8,init_channels=16,classes=7,stem=deep"),
    Architecture.named("layers=2-3-2,growth_rate=8,init_channels=16,classes=7,stem=cifar"),
    Architecture.named("layers=6-12-24-16,growth_rate=4,init_channels=8,classes=7"),
    Architecture.named("layers=2-3-2,growth_rate=48,init_channels=96,classes=7,stem=deep"),
    *(replace(NAMED[name], classes=7) for name in ("121", "121d")),
    *(  # with heads of several layers, which some layouts have
        Architecture.named(f"layers=2-3-2,growth_rate=8,init_channels=16,classes=7,head={head}")
        for head in ("no-relu/max+mean/norm/dense:512/relu/norm/dense", "mean/dense:512/norm/relu/dense")
    ),
]
TABLES = {layout: Layout.load(layout) for layout in layouts()}
PICTURES = images(2, 32, seed=21)  # maps of 8, 4 and 2 places at the transitions: their pools' rounding says nothing


def weights_of(architecture):
    """Random weights; in every second norm the variances reach down to what trained networks have."""
    weights = random_weights(architecture)
    norms = [unit.name for unit in architecture.units.values() if unit.kind == "norm"]
    for number, unit in enumerate(norms[::2]):
        width = architecture.units[unit].sizes["c"]
        tiny = 10 ** np.random.default_rng(number).uniform(-9, 0, width)
        weights[Slot(unit, "variance")] = tiny.astype(np.float32)
        weights[Slot(unit, "scale")] *= np.sqrt(weights[Slot(unit, "variance")] + np.float32(1e-5))
    return weights


def shared(source, target):
    """The first network that both tables can hold, if there is one."""
    return next((one for one in CANDIDATES if all(support.holds(TABLES[t], one) for t in (source, target))), None)


def contract_between(source, target):
    """The contract of a file of the source: its table's, with the target's stem where it may have any."""
    own, other = TABLES[source].contract, TABLES[target].contract
    free = TABLES[source].carried & {"stem_padding", "stem_pool"}
    free -= {"stem_pool"} if (source, other.stem_pool) == ("caffe", "blur") else set()  # Caffe has no such layer
    return replace(own, **{key: getattr(other, key) for key in free})


@pytest.fixture(scope="module")
def file_of(tmp_path_factory):
    """A file of a layout, told in our words, made once."""

    @cache
    def made(layout, architecture, contract):
        folder = tmp_path_factory.mktemp(layout)
        start = keras_file(folder / "start.safetensors", architecture, contract, weights_of(architecture))
        return read(convert(start, dst=layout, out=folder / f"theirs{TABLES[layout].containers[0]}").out)

    return made


def logits(told, weights=None):
    """In float64; of maps that shrink less, smaller pictures are enough."""
    look_up = weights or told.weights
    pictures = PICTURES[:, :16, :16] if told.architecture.stem == "cifar" else PICTURES
    return forward(told.architecture, told.contract, look_up, pictures)


def apart(found, truth):
    """The largest difference, in deviations of the truth."""
    return float(np.abs(found - truth).max() / truth.std())


def steps(found, exact):
    """The largest distance from exact values, in units of the last place of what was found."""
    far = np.abs(found.astype(np.float64) - exact) / np.spacing(np.abs(found)).astype(np.float64)
    return float(far.max(initial=0.0))


def accounted(told):
    """Whether every tensor of the file is used once or ignored by a rule, and every slot filled."""
    used = len(told.ledger.claims) + len(told.ledger.ignored)
    return (
        told.ledger.problems == 0
        and used == len(told.checkpoint.tensors)
        and set(told.weights) == set(told.architecture.slots)
    )


def misfit(source, target):
    """Why a pair cannot be, by the tables: no network that both hold, or another stem that pads or pools."""
    network = shared(source, target)
    if network is None:
        return "cannot hold this network|has no place for"
    return None if network.stem == "cifar" else stem_misfit(source, target)


def stem_misfit(source, target):
    """Why the same weights are another function in the target, if they are."""
    contract, table = contract_between(source, target), TABLES[target]
    for key in ("stem_padding", "stem_pool"):
        if key not in table.carried and getattr(contract, key) != getattr(table.contract, key):
            return "the same weights would be another function"
    return None


# What a conversion does depends on either side by its epsilon, its stem, what it carries, its folds and its channels'
# order: one layout of each kind. The others are alike where a pair is concerned, and meet our own layout alone.
KINDS = (
    "torchvision",
    "caffe",
    "flyyufelix",
    "keras-applications",
    "keras-hub",
    "kuangliu",
    "timm-blur",
    "titu1994",
    "titu1994-v2",
)


def pairs_of_kinds():
    """Each two kinds in one direction, every second of a kind in the other: there and back goes both ways."""
    for (first, one), (second, other) in combinations(enumerate(KINDS), 2):
        yield (one, other) if (first + second) % 2 else (other, one)


CHOSEN = [
    *((source, "keras") for source in layouts() if source != "keras"),
    *(("keras", target) for target in KINDS),
    *pairs_of_kinds(),
]
POSSIBLE = [pair for pair in CHOSEN if misfit(*pair) is None]
REFUSED = {  # a pair for each reason that each target has
    (target, misfit(source, target)): (source, target)
    for target, source in product(layouts(), layouts())
    if source != target and misfit(source, target)
}


@pytest.fixture
def out(tmp_path):
    """Where a file of a layout is written."""
    return lambda layout, name="out": tmp_path / f"{name}{TABLES[layout].containers[0]}"


@pytest.mark.parametrize(("source", "target"), POSSIBLE, ids=[f"{a} to {b}" for a, b in POSSIBLE])
def test_a_pair_is_the_same_network_there_and_back(file_of, source, target, out):
    """Ledger, function before the one rounding, each rounding, and the tensors that return."""
    before = file_of(source, shared(source, target), contract_between(source, target))

    there = read(convert(before.checkpoint.path, dst=target, out=out(target)).out)
    back = read(convert(there.checkpoint.path, dst=source, out=out(source, "back")).out)

    assert [told.layout for told in (before, there, back)] == [source, target, source]
    assert_same(before, there)
    assert_returned(before, there, back)


def assert_same(before, there):
    """Every tensor accounted for; the same function; each tensor rounded at most once."""
    exact = checks._unrounded(there, before)
    assert (there.architecture, accounted(before), accounted(there)) == (before.architecture, True, True)
    assert apart(logits(there, exact), logits(before)) <= FULL
    assert farthest(there, exact) <= checks.HALF_ULP


def assert_returned(before, there, back):
    """The tensors as they were: to the bit, or to one ULP where an epsilon was absorbed and taken out again.

    A layout that carries the contract keeps the other epsilon, and with it the tensors that go with that.
    """
    epsilons = [told.contract.epsilon for told in (before, there, back)]
    origin = there if epsilons[2] == epsilons[1] else before
    assert (accounted(back), epsilons[2]) == (True, origin.contract.epsilon)
    assert farthest(back, exactly(origin)) <= (origin is before) * ULP


FOLDED = [(source, target) for source, target in product(layouts(), ("keras", "kimm")) if TABLES[source].fold]


@pytest.mark.parametrize(("source", "target"), FOLDED, ids=[f"{a} to {b}" for a, b in FOLDED])
def test_a_fold_with_something_in_it_is_the_same_network_there_and_back(file_of, source, target, out):
    """What we write has identities in a fold; a file that was trained has not.

    Each slot returns as the float32 nearest to what the fold makes, or as its neighbour: one rounding of the fold, and
    where an epsilon is absorbed one on the way out and one on the way back, which together come to less than two ULP.
    """
    plain = file_of(source, shared(source, target), contract_between(source, target))
    before = read(trained(plain, out(source, "trained")), src=source)

    there = read(convert(before.checkpoint.path, src=source, dst=target, out=out(target)).out)
    back = read(convert(there.checkpoint.path, dst=source, out=out(source, "back")).out)

    assert farthest(plain, exactly(before)) > 1e3
    assert_same(before, there)
    nearest = {slot: array.astype(np.float32) for slot, array in exactly(before).items()}
    assert farthest(back, nearest) <= (ULP if before.contract.epsilon != there.contract.epsilon else 0)


def trained(told, path):
    """The file again, with random numbers wherever a fold had ones and zeros, and statistics times a factor."""
    random, fold, tensors = np.random.default_rng(3), FOLDS[told.ledger.layout.fold], {}
    constant = {part: value for part, value in fold.written.items() if not isinstance(value, str)}
    for place, claim in told.ledger.claims.items():
        array = claim.tensor.load()
        if place.unit.endswith(("norm", "norm1", "norm2")) and place.part in constant:
            array = (array + random.uniform(0.3, 0.6, array.shape)).astype(array.dtype)
        tensors[claim.name] = held(array)
    blueprint = told.ledger.layout.blueprint(told.architecture, told.contract)
    kept = {key: entry for key, entry in told.checkpoint.record.items() if key not in ("tensors", "sha256", "rest")}
    record = {**kept, "schema": SCHEMAS[0]}  # without digests
    formats.write(path, tensors, lambda: json.dumps(record).encode(), blueprint)
    return path


def exactly(told):
    """Every slot, as it is computed."""
    return dict(told.weights)


def farthest(told, exact):
    """The largest distance of any tensor from its exact values, in units of the last place."""
    return max(steps(told.weights[slot], exact[slot]) for slot in exact)


@pytest.mark.parametrize(("source", "target"), REFUSED.values(), ids=lambda layout: layout)
def test_a_pair_that_is_no_function_of_the_same_weights_is_refused(file_of, source, target, out):
    """The error says what stands against it, and no file is left."""
    held = shared(source, target) or next(one for one in CANDIDATES if support.holds(TABLES[source], one))
    before = file_of(source, held, contract_between(source, target))

    with pytest.raises(MisfitError, match=misfit(source, target)):
        convert(before.checkpoint.path, dst=target, out=out(target))

    assert list(out(target).parent.iterdir()) == []


# -- full size ---------------------------------------------------------------------------------------------------------


def journeys():
    """Architecture, source and target: each network once, by the layouts that were used least.

    Layouts whose head no published network has are left out.
    """
    used = Counter(), Counter()
    ways = {name: ways_of(name) for name in sorted(NAMED, key=lambda name: NAMED[name].trainable)}
    for name in sorted(ways, key=lambda name: len(ways[name])):  # networks that few layouts hold choose first
        pair = min(ways[name], key=lambda pair: (used[0][pair[0]] + used[1][pair[1]], pair))
        for side in (0, 1):
            used[side][pair[side]] += 1
        yield name, *pair


def ways_of(name):
    """The pairs of layouts that can hold a network, with one stem."""
    known = [layout for layout in layouts() if support.holds(TABLES[layout], NAMED[name])]
    return [(a, b) for a in known for b in known if a != b and stem_misfit(a, b) is None]


JOURNEYS = list(journeys())


def test_every_published_network_is_on_a_journey():
    """Once; and no layout is on more than two on one side."""
    names, sources, targets = (Counter(column) for column in zip(*JOURNEYS, strict=True))

    assert (names, max(*sources.values(), *targets.values()) <= 2) == (Counter([*NAMED]), True)


@pytest.mark.parametrize(("name", "source", "target"), JOURNEYS, ids=[" ".join(journey) for journey in JOURNEYS])
def test_a_full_size_network_is_the_same_in_both_layouts(name, source, target, tmp_path):
    """1000 classes, or what the network has."""
    contract, ending = contract_between(source, target), TABLES[source].containers[0]
    start = keras_file(tmp_path / "start.safetensors", NAMED[name], contract, weights_of(NAMED[name]))

    before = read(convert(start, dst=source, out=tmp_path / f"before{ending}").out)
    there = read(convert(before.checkpoint.path, dst=target, out=tmp_path / f"there{TABLES[target].containers[0]}").out)

    assert_same(before, there)
