"""Which layout a file has: its own is found wherever names say so, a near miss is refused and told what is amiss.

Whole messages, because they are all that the owner of a strange file has.
"""

import re
from dataclasses import replace

import pytest
import torch
import torchvision

from densenet_port.errors import MisfitError
from densenet_port.layouts import cards as support
from densenet_port.layouts.identify import identify
from densenet_port.layouts.layout import Layout, layouts
from densenet_port.network.architecture import NAMED
from tests.layouts.test_layout import KEYS, recorded, sketch, spelled
from tests.record.cards import genuine

CONTAINER = {  # ending → what the reader calls it
    ".pth": "pth",
    ".safetensors": "safetensors",
    ".onnx": "onnx",
    ".caffemodel": "caffemodel",
    ".h5": "keras-h5",
    ".weights.h5": "weights-h5",
    ".keras": "keras",
    ".npz": "npz",
}
OF_121 = {layout: [path for name, path in genuine(layout) if name == "121"] for layout in layouts()}
LISTS = [  # the one that is called as the layout is, or else the last
    (layout, max(paths, key=lambda path: (path.stem == f"{layout}-121", path.stem)))
    for layout, paths in OF_121.items()
    if paths
]


def sizes(path):
    """Name → shape and type, of a recorded list."""
    return {name: (tensor.shape, tensor.dtype) for name, tensor in recorded(path).tensors.items()}


# -- a layout's own ----------------------------------------------------------------------------------------------------


def nameless(table, container):
    """Whether a file of the layout is told by running numbers alone, which other layouts' files have there too."""
    return not table.units and any(container in Layout.load(layout).running_containers for layout in layouts())


WRITTEN = [  # the container changes nothing where layers have names
    (layout, ending)
    for layout in layouts()
    for number, ending in enumerate(Layout.load(layout).containers)
    if number == 0 or nameless(Layout.load(layout), CONTAINER[ending])
]


@pytest.mark.parametrize(("layout", "ending"), WRITTEN, ids=[f"{layout} {ending}" for layout, ending in WRITTEN])
def test_every_network_of_a_layout_is_recognised_by_its_names(layout, ending):
    """Without any record of ours; only running numbers in a container that numbers everything leave it open."""
    table, container = Layout.load(layout), CONTAINER[ending]
    held = {name: arch for name, arch in NAMED.items() if support.holds(table, arch)}

    for name, arch in held.items():
        file = sketch(spelled(layout, arch), container=container, **table.when)
        if nameless(table, container):
            with pytest.raises(MisfitError, match=rf"layouts fit equally: .*\b{layout}\b"):
                identify(file)
        else:
            ledger = identify(file)
            assert (ledger.layout.name, ledger.architecture, ledger.problems) == (layout, arch, 0), name


@pytest.mark.parametrize(("layout", "path"), LISTS, ids=[layout for layout, _ in LISTS])
def test_another_head_and_another_input_change_nothing(layout, path):
    """14 classes of grey pictures, as chest X-rays have; and no head at all."""
    ledger, tensors = identify(recorded(path)), sizes(path)
    arch, claims = ledger.architecture, {claim.name: place.unit for place, claim in ledger.claims.items()}
    turns = {"head.dense": {arch.classes: 14}, "stem.conv": {arch.channels: 1}}
    other = {
        name: (tuple(turns.get(claims.get(name), {}).get(size, size) for size in shape), dtype)
        for name, (shape, dtype) in tensors.items()
    }
    bare = {name: size for name, size in other.items() if claims.get(name) != "head.dense"}
    record = Layout.load(layout).when

    ledgers = [identify(sketch(tensors, path, **record)) for tensors in (other, bare)]

    changed = replace(arch, channels=1, classes=14)
    expected = [(layout, changed), (layout, changed.without_head())]
    assert [(one.layout.name, one.architecture) for one in ledgers] == expected


@pytest.mark.parametrize(("layout", "path"), LISTS, ids=[layout for layout, _ in LISTS])
def test_a_tensor_that_is_missing_is_named_and_so_is_one_too_many(layout, path):
    ledger, tensors, record = identify(recorded(path)), sizes(path), Layout.load(layout).when
    lost = next(claim.name for place, claim in ledger.claims.items() if str(place) == "final.norm.variance")
    count = len(ledger.claims)

    errors = [
        refusal(sketch(change, **record))
        for change in (
            {name: size for name, size in tensors.items() if name != lost},
            {**tensors, "other": ((3, 5), "float32")},
        )
    ]

    first = f"final.norm.variance  is missing  (expected {lost}, our shape (1024,))"
    missing = f"""sketch.pth: 1 misfit as {layout} 121
  {first}
  {count - 1} of {count} tensors fit; --src {layout} lists what does not"""
    head = next(claim for place, claim in ledger.claims.items() if str(place) == "head.dense.kernel")
    surplus = f"""sketch.pth: as {layout} 121 the body fits; beside it
  {head.holder} {head.tensor.shape}, other (3, 5)
  --no-top takes the body"""
    assert errors == [missing, surplus]


def refusal(file):
    """What the owner of a file is told."""
    with pytest.raises(MisfitError) as error:
        identify(file)
    return str(error.value)


# -- near misses -------------------------------------------------------------------------------------------------------


def shifted(tensors, by):
    """The norms in a dense layer numbered otherwise: KerasHub counts them from 1, keras.applications from 0."""
    return {re.sub(r"(?<=_)\d(?=_bn/)", lambda hit: str(int(hit[0]) + by), n): size for n, size in tensors.items()}


def without(tensors, part):
    return {name: size for name, size in tensors.items() if part not in name}


def resnet(prefix=""):
    """Torchvision's ResNet-50."""
    with torch.device("meta"):
        state = torchvision.models.resnet50().state_dict()
    return {prefix + name: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for name, v in state.items()}


def keras_resnet():
    """The kernels and norms of keras.applications.ResNet50, whose names are DenseNet's up to a point."""
    found, width = {"conv1_conv/kernel": ((7, 7, 3, 64), "float32")}, 64
    for stage, (count, narrow) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=2):
        for block in range(1, count + 1):
            place = f"conv{stage}_block{block}"
            kernels = {"1": (1, 1, width, narrow), "2": (3, 3, narrow, narrow), "3": (1, 1, narrow, 4 * narrow)}
            if block == 1:
                kernels["0"] = (1, 1, width, 4 * narrow)
            width = 4 * narrow
            for number, shape in kernels.items():
                found[f"{place}_{number}_conv/kernel"] = shape, "float32"
                for part in ("gamma", "beta", "moving_mean", "moving_variance"):
                    found[f"{place}_{number}_bn/{part}"] = shape[-1:], "float32"
    return found


NEXT_STEP = (
    "only a DenseNet is converted; if it is one, a table of your own names its tensors "
    "(--mapping, see docs/add-a-layout.md)"
)


def no_chain(count, module):
    """What the owner of another network of convolutions is told."""
    return f"""sketch.pth: no chain of convolutions that each add the same number of channels: \
among its {count} the longest is 1 layer ({module})
  {NEXT_STEP}"""


KERAS, HUB, TORCH = (sizes(KEYS / f"{name}-121.txt") for name in ("keras-applications", "keras-hub", "torchvision"))
AUTOMATIC = sizes(KEYS / "titu1994-121.txt")
NEAR = {
    "torchvision without norms": (
        without(TORCH, "norm"),
        """sketch.pth: its 121 norms have no tensors at all, as torchvision 121
  if they are InstanceNorm without parameters, they measure every input anew, which no layout's DenseNet does: nothing \
converts it""",
    ),
    "running numbers without norms": (
        without(AUTOMATIC, "batch_normalization"),
        f"""sketch.pth: its convolutions are those of a DenseNet 121, its norms are not: expected 121, found 0
  there is none for stem.norm, of 64 channels
  {NEXT_STEP}""",
    ),
    "torchvision's ResNet-50": (resnet(), no_chain(53, "layer3.0.conv2")),
    "torchvision's ResNet-50 in a bigger model": (resnet("net."), no_chain(53, "net.layer3.0.conv2")),
    "keras.applications' ResNet-50": (keras_resnet(), no_chain(53, "conv4_block1_2_conv")),
    "nothing at all": ({}, f"sketch.pth: it has no tensors\n  {NEXT_STEP}"),
    "a table of words": (
        {"embedding.weight": ((100, 30), "float32")},
        f"sketch.pth: it has no convolutions: 0 norms, 1 dense layer, 0 other tensors\n  {NEXT_STEP}",
    ),
}


@pytest.mark.parametrize("name", NEAR)
def test_what_is_nearly_a_densenet_is_refused_and_told_why(name):
    """Three lines at the most: what it lacks in a DenseNet's words, and the next step."""
    tensors, message = NEAR[name]
    container = "keras-h5" if tensors.keys() & AUTOMATIC.keys() else "pth"

    assert refusal(sketch(tensors, container=container)) == message


@pytest.mark.parametrize(
    ("tensors", "layout"), [(shifted(KERAS, 1), "keras-applications"), (shifted(HUB, -1), "keras-hub")]
)
def test_names_that_contradict_the_sizes_are_overruled(tensors, layout):
    """One library's numbers under another's names: sizes and neighbourhood say which norm is which."""
    file = sketch(tensors)

    ledger = identify(file)

    assert (ledger.layout.name, ledger.architecture, ledger.problems) == ("structure", NAMED["121"], 0)
    with pytest.raises(MisfitError, match=f"688 misfits as {layout} 121"):
        identify(file, src=layout)
