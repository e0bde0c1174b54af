"""OpenCV runs Caffe's networks, and every conversion from and to Caffe is the network that OpenCV runs.

Where float32 outputs are compared with float64 ones, the bound is eight times the float32 distance of our own forward
pass in numpy, the factor that `checks.FACTOR32` allows between right implementations of one network.
"""

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

from densenet_port import formats
from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.errors import MisfitError, UsageError
from densenet_port.files import resource
from densenet_port.formats.caffe import prototxt as prototxts
from densenet_port.formats.caffe.layers import BLOBS, layers
from densenet_port.layouts.layout import Layout
from densenet_port.network.architecture import Architecture
from densenet_port.network.blueprint import Blueprint
from densenet_port.network.graph import STEMS
from densenet_port.network.numpy import forward
from densenet_port.network.units import Slot
from densenet_port.prove.checks import FACTOR32
from densenet_port.prove.images import make_probes
from densenet_port.prove.job import Job, Reading
from densenet_port.prove.parity import check, judge
from densenet_port.prove.recording import Recording, Settings, run_port, run_reference
from densenet_port.prove.runners.opencv import run_opencv
from tests.record.cards import keras_file
from tests.support.caffe_files import FORMS, blobs_of, net, prototxt
from tests.support.containers import telling, tensor
from tests.support.networks import images
from tests.support.random_weights import random_weights

SMALL = Architecture(layers=(2, 3, 2), growth_rate=8, init_channels=16, classes=7)
WEIGHTS = random_weights(SMALL)
CEIL = Layout.load("caffe").contract
FLOOR = replace(CEIL, pool_rounding="floor")


def pair(place, proto, name="net", *, words="ceil_mode"):
    """A `.caffemodel` and the `.prototxt` that Google wrote; None leaves the latter out."""
    path = place / f"{name}.caffemodel"
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    if words:
        path.with_suffix(".prototxt").write_text(prototxt(proto, rounding=words))
    return path


def run(path, pictures, taps=(), table=None):
    return run_opencv(
        Job(network="opencv", images=pictures, path=path, reading=Reading(table=table), taps=dict.fromkeys(taps, ""))
    )


def far(measured, weights, contract, pictures, arch=SMALL):
    """Distance of outputs to the float64 truth over that of numpy's float32, both root mean square."""
    truth, rough = (forward(arch, contract, weights, pictures, dtype=kind) for kind in ("float64", "float32"))
    return float(np.sqrt(np.mean((measured - truth) ** 2) / np.mean((rough - truth) ** 2)))


# -- the runner --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 65, 66, 67, 71, 97])
@pytest.mark.parametrize("floor", [False, True], ids=["ceil", "floor"])
def test_opencv_runs_what_caffe_wrote(floor, size, tmp_path):
    """At even and odd sizes, pools up or down, OpenCV's logits are those of the forward pass in numpy."""
    proto, pictures = net(SMALL, WEIGHTS, factor=3.5, floor=floor), images(2, size)

    answer = run(pair(tmp_path, proto), pictures)

    divided = dict(read(tmp_path / "net.caffemodel").weights)
    ratio = far(answer.logits, divided, FLOOR if floor else CEIL, pictures)
    assert (answer.computed_in, answer.logits.shape, ratio <= FACTOR32) == ("float32", (2, 7), True)


@pytest.mark.parametrize("size", [64, 65, 66, 67, 71, 97])
@pytest.mark.parametrize("contract", [CEIL, FLOOR], ids=["ceil", "floor"])
def test_opencv_runs_what_we_write(contract, size, tmp_path):
    """Our .prototxt rounds as its contract says, at every size, without a word on rounding in it."""
    from tests.formats.test_caffemodel import tensors, written

    pictures = images(2, size)
    path = written(tmp_path, tensors(), pool_rounding=contract.pool_rounding)

    answer = run(path, pictures)

    assert far(answer.logits, WEIGHTS, contract, pictures) <= FACTOR32


@pytest.mark.parametrize("contract", [CEIL, FLOOR], ids=["ceil", "floor"])
@pytest.mark.parametrize("stem", STEMS)
def test_opencv_runs_every_stem_of_ours(stem, contract, tmp_path):
    """Caffe's layers follow from the network's operations, whatever stands before the first block."""
    arch = replace(SMALL, stem=stem, bottleneck=0)
    weights, pictures, path = random_weights(arch), images(2, 45), tmp_path / "net.caffemodel"
    parts = {unit.name: blob_names(unit) for unit in arch.units.values()}
    blobs = {name: blob(weights, unit, part) for unit, names in parts.items() for part, name in names.items()}
    blueprint = Blueprint(architecture=arch, contract=contract, layers={unit: unit for unit in parts}, tensors=parts)
    formats.write(path, blobs, telling(arch, contract), blueprint)

    loaded = cv2.dnn.readNetFromCaffe(str(path.with_suffix(".prototxt")), str(path))
    loaded.enableFusion(False)
    loaded.enableWinograd(False)
    loaded.setInput(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))

    assert far(loaded.forward().reshape(2, -1), weights, contract, pictures, arch) <= FACTOR32


OTHERS = {
    "fastai's head": ({"head": "max+mean/norm/dense:9/relu/norm/dense"}, {}),
    "functions between": ({"head": "max/tanh/dense:6/softmax/dense:4/sigmoid/dense"}, {}),
    "a flattened map": ({"head": "flatten:2/dense"}, {}),
    "a pool and a flattened map": ({"head": "flatten:2/norm/dense:6/relu/dense"}, {"head_pool": 2}),
    "no final norm": ({"final_norm": False}, {}),
    "transitions that differ": ({"reduction": (0.5, 0.0)}, {}),
    "a stem of 7×7 that keeps the size": ({}, {"stem_stride": 1}),
    "a stem of 5×5 without a pool": ({"stem": "5x5-norm"}, {"stem_pool": "none", "stem_stride": 2}),
    "CIFAR's stem": ({"stem": "cifar"}, {}),
}


@pytest.mark.parametrize("rounding", ["ceil", "floor"])
@pytest.mark.parametrize("case", OTHERS)
def test_any_body_and_head_goes_there_and_back_and_runs(case, rounding, tmp_path):
    """Bit by bit, the contract from the graph alone; OpenCV computes it."""
    numbers, entries = OTHERS[case]
    arch, contract = replace(SMALL, **numbers), replace(CEIL, pool_rounding=rounding, **entries)
    weights = random_weights(arch)
    source = read(keras_file(tmp_path / "a.safetensors", arch, contract, weights))
    path = source.write(tmp_path / "net.caffemodel", layout="caffe").out

    network = read(path)

    assert network.architecture == arch
    assert {s: network.weights[s].tobytes() for s in weights} == {s: a.tobytes() for s, a in weights.items()}
    texts = {"prototxt": prototxt_file(path), "caffemodel": alone(path, tmp_path)}
    for metadata in texts.values():
        known = {key: metadata[key] for key in ("stem_stride", "pool_rounding", "head_pool") if key in metadata}
        assert known == {key: getattr(contract, key) for key in known}
        assert metadata["stem_pool"] == ("none" if case in ("CIFAR's stem", "a stem of 5×5 without a pool") else "max")
    pictures = images(2, network.graph.smallest_side if "flattened" in case else 45)
    assert far(run(path, pictures).logits, weights, contract, pictures, arch) <= FACTOR32


def prototxt_file(path):
    """What the `.prototxt` beside a file says."""
    return prototxts.read(path.with_suffix(".prototxt"))


def alone(path, folder):
    """What a file says without one."""
    (folder / "alone.caffemodel").write_bytes(path.read_bytes())
    return formats.read(folder / "alone.caffemodel").metadata


def test_a_map_that_its_pool_does_not_divide_is_refused_by_caffe(tmp_path):
    """Which makes one place more of it: no other function."""
    arch, contract = replace(SMALL, head="flatten:2/dense"), replace(CEIL, head_pool=2)
    source = read(keras_file(tmp_path / "a.safetensors", arch, contract, random_weights(arch)))
    path = source.write(tmp_path / "net.caffemodel", layout="caffe").out
    side = next(side for side in range(source.graph.smallest_side, 512) if source.graph.sides(side)["final.relu"] == 5)

    with pytest.raises(MisfitError, match="OpenCV cannot run it"):
        run(path, images(1, side))


def test_a_function_that_caffe_does_not_have_is_refused(tmp_path):
    """Between dense layers; behind the last one it is left out."""
    arch = replace(SMALL, head="mean/dense:4/log_softmax/dense")
    source = read(keras_file(tmp_path / "a.safetensors", arch, CEIL, random_weights(arch)))

    with pytest.raises(UsageError) as caught:
        source.write(tmp_path / "net.caffemodel", layout="caffe")
    assert caught.value.message == "no Caffe graph is made of a network with a log_softmax (head.log_softmax1)"


def test_a_head_of_inner_products_flattens_its_map_itself():
    """As files have it whose matrices have two axes."""
    arch = replace(SMALL, head="flatten:2/dense:4/relu/dense")
    made = layers(Layout.load("caffe").blueprint(arch, CEIL), "InnerProduct")

    assert [layer.kind for layer in made[-4:]] == ["Flatten", "InnerProduct", "ReLU", "InnerProduct"]


def blob_names(unit):
    """Part → blob of a unit whose layers are called after it, and numbered."""
    numbered = enumerate(BLOBS[unit.kind])
    return {part: f"{unit.name}/{layer}#{n}" for layer, parts in numbered for n, part in enumerate(parts)}


def blob(weights, unit, part):
    """A part of a unit as Caffe stores it, statistics times a factor of one."""
    if part == "factor":
        return tensor(np.ones(1, "f4"))
    array = weights[Slot(unit, part)]
    if array.ndim == 2:
        return tensor(array.T[:, :, None, None])
    return tensor(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array)


def test_a_file_alone_gets_a_graph(tmp_path):
    """Without a .prototxt beside it OpenCV runs the file by a graph of ours, which stays nowhere and proves nothing."""
    pictures = images(2, 65)
    path = pair(tmp_path, net(SMALL, WEIGHTS, long=True), words=None)

    answer = run(path, pictures)

    assert (far(answer.logits, WEIGHTS, CEIL, pictures) <= FACTOR32, list(tmp_path.iterdir())) == (True, [path])
    assert answer.read_by == "table"


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("doubles", "old layers")])
def test_opencv_reads_the_forms_that_we_read(form, tmp_path):
    """OpenCV's importer sees the same network as read in every form but doubles and the types of old layers."""
    proto, data = FORMS[form](net(SMALL, WEIGHTS))
    pictures, path = images(2, 64), pair(tmp_path, data, words=None)
    if "InnerProduct" not in form:
        path.with_suffix(".prototxt").write_text(prototxt(net(SMALL), rounding="ceil_mode"))

    answer = run(path, pictures)

    assert (far(answer.logits, WEIGHTS, CEIL, pictures) <= FACTOR32, len(blobs_of(proto))) == (True, 109)
    assert answer.read_by == ("table" if "InnerProduct" in form else "file")


def test_a_factor_of_zero_is_opencvs(tmp_path):
    """A norm whose factor is 0 has mean and variance 0, in OpenCV as in Caffe."""
    pictures = images(2, 64)
    proto = net(SMALL, WEIGHTS, factor={"transition1.norm": 0.0, "block2.layer1.norm1": 123.4})
    zero = WEIGHTS | {Slot("transition1.norm", role): 0 * WEIGHTS[Slot("transition1.norm", role)] for role in STATS}

    answer = run(pair(tmp_path, proto), pictures)

    assert far(answer.logits, zero, CEIL, pictures) <= FACTOR32


STATS = ("mean", "variance")


@pytest.mark.parametrize("contract", [CEIL, FLOOR], ids=["ceil", "floor"])
def test_every_unit_can_be_followed(contract, tmp_path):
    """The tap of a unit is its own output, before the ReLU; but for convolutions that ours pools before."""
    from tests.formats.test_caffemodel import tensors, written

    pictures, units = images(2, 65), list(SMALL.units)
    truth, rough = {}, {}
    forward(SMALL, contract, WEIGHTS, pictures, tap=truth.__setitem__)
    forward(SMALL, contract, WEIGHTS, pictures, tap=rough.__setitem__, dtype="float32")
    path = written(tmp_path, tensors(), pool_rounding=contract.pool_rounding)

    taps = run(path, pictures, units).taps

    pooled = [] if contract is CEIL else ["transition1.conv", "transition2.conv"]
    rms = {unit: [np.sqrt(np.mean((side[unit] - truth[unit]) ** 2)) for side in (taps, rough)] for unit in taps}
    assert ([unit for unit in units if unit not in taps], max(a / b for a, b in rms.values()) <= FACTOR32) == (
        pooled,
        True,
    )


def test_a_network_without_head_gives_its_last_map(tmp_path):
    """Without a head the output is the last map after its ReLU, height and width before the channels."""
    pictures = images(2, 64)
    convert(pair(tmp_path, net(SMALL, WEIGHTS)), out=tmp_path / "body.caffemodel", dst="caffe", no_top=True)

    logits = run(tmp_path / "body.caffemodel", pictures).logits

    assert far(logits, WEIGHTS, CEIL, pictures, SMALL.without_head()) <= FACTOR32


def test_digests_are_of_the_blobs_that_opencv_holds(tmp_path):
    """Every blob is there once, under its layer's name, with the bytes of the file."""
    from densenet_port.checkpoint import array_digest

    proto = net(SMALL, WEIGHTS)

    digests = run(pair(tmp_path, proto), images(2, 64)).variables

    assert digests == {name: array_digest(blob) for name, blob in blobs_of(proto).items()}


def test_doubles_are_no_network_of_opencvs(tmp_path):
    """OpenCV would read nothing of a file of doubles, so the error says what to do."""
    _, data = FORMS["doubles"](net(SMALL, WEIGHTS))
    path = pair(tmp_path, data, words=None)

    with pytest.raises(UsageError) as caught:
        run(path, images(2, 64))

    assert caught.value.message == f"{path}: OpenCV reads .caffemodel files of float32 alone"


def test_a_prototxt_of_another_network_is_told(tmp_path):
    """OpenCV's own error comes as ours, with the question that helps."""
    path = pair(tmp_path, net(SMALL, WEIGHTS))
    other = prototxt(net(replace(SMALL, layers=(2, 4, 2))), rounding="ceil_mode")
    path.with_suffix(".prototxt").write_text(other)

    with pytest.raises(MisfitError) as caught:
        run(path, images(2, 64))

    assert (caught.value.message.startswith(f"{path}: OpenCV cannot run it: "), caught.value.hint) == (
        True,
        "do net.prototxt and the file go together?",
    )


# -- the check ---------------------------------------------------------------------------------------------------------


def failed(result):
    return [one.name for one in result.checks if not one.passed]


def test_a_port_of_a_caffe_network_passes(tmp_path):
    """From Caffe to Keras and back again, at even and odd sizes, with numbers that had to be divided."""
    source = pair(tmp_path, net(SMALL, WEIGHTS, factor=999.982))
    convert(source, out=tmp_path / "k.weights.h5")
    convert(tmp_path / "k.weights.h5", out=tmp_path / "back.caffemodel", dst="caffe")

    results = [
        check(tmp_path / "k.weights.h5", against=source, backend="numpy", sizes=(64, 65)),
        check(tmp_path / "back.caffemodel", against=source, sizes=(64, 65)),
    ]

    assert [(failed(one), one.sides["reference"]["name"]) for one in results] == [([], "opencv")] * 2


def test_a_fold_and_another_epsilon_are_proven_together(tmp_path):
    """A target that divides the factor out and fixes another epsilon rounds two tensors of a norm, each once."""
    table = tmp_path / "fixed.toml"
    text = (resource("mappings") / "keras.toml").read_text(encoding="utf-8")
    table.write_text(re.sub(r"^carried .*", "", text, flags=re.MULTILINE).replace("1e-5", "1.001e-5"), encoding="utf-8")
    source = pair(tmp_path, net(SMALL, WEIGHTS, factor=999.982))
    done = convert(source, out=tmp_path / "k.weights.h5", dst=table)

    result = check(tmp_path / "k.weights.h5", against=source, backend="numpy", sizes=())

    assert (done.contract.epsilon, bool(done.absorbed["scale"]), failed(result)) == (1.001e-5, True, [])


@pytest.fixture(scope="module")
def ported(tmp_path_factory):
    """A Caffe network with factors, its port in Keras, and its reference's answers."""
    place = tmp_path_factory.mktemp("ported")
    source = read(pair(place, net(SMALL, WEIGHTS, factor=3.5)))
    convert(source.checkpoint.path, out=place / "k.weights.h5")
    probes = make_probes(source, (65,), 2, None, 0)
    return source, read(place / "k.weights.h5"), run_reference(source, probes)


PLANTED = {  # what a converter would do to one norm's numbers, and what the diagnosis calls it
    "caffe-factor": lambda own: own | {role: own[role] * np.float32(3.5) for role in STATS},
    "affine-at-start": lambda own: own | {"scale": 0 * own["scale"] + 1, "shift": 0 * own["shift"]},
    "scale-shift-swapped": lambda own: own | {"scale": own["shift"], "shift": own["scale"]},
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_port_that_forgot_what_caffe_needs_is_named(fault, ported, tmp_path):
    """A factor that was not divided, a Scale that was left out or swapped: the check fails and says which."""
    from tests.support.ports import weights_of, written

    (source, port, reference), unit = ported, "block2.layer2.norm1"
    weights = weights_of(port)
    own = {role: weights[Slot(unit, role)] for role in ("scale", "shift", *STATS)}
    weights |= {Slot(unit, role): array for role, array in PLANTED[fault](own).items()}
    damaged = written(port, weights, port.contract, tmp_path / "d.weights.h5")

    result = judge(damaged, source, reference, run_port(damaged, reference.probes, Settings(backend="numpy")))

    named = [(one["mistake"], one["units"]) for one in result.diagnosis]
    assert (result.passed, result.where, named) == (False, unit, [(fault, [unit])])


def test_a_graph_that_is_not_ours_is_noticed(tmp_path):
    """Numpy's float64 stands for OpenCV only while both are one network; a stem that rounds its pool up is another."""
    path = pair(tmp_path, net(SMALL, WEIGHTS))
    beside = path.with_suffix(".prototxt")
    beside.write_text(beside.read_text().replace("ceil_mode: false", ""))
    source = read(path)

    side = run_reference(source, make_probes(source, (), 2, None, 0))

    result = judge(source, source, side, side)
    assert failed(result)[0] == "opencv in float32 is numpy in float64, noise 64"


def test_a_saved_reference_keeps_its_measure(tmp_path):
    """A reference that was saved can be judged without the checkpoint it was made from."""
    source, saved = pair(tmp_path, net(SMALL, WEIGHTS)), tmp_path / "side.npz"
    convert(source, out=tmp_path / "k.weights.h5")
    check(tmp_path / "k.weights.h5", against=source, backend="numpy", sizes=(), save_reference=saved)

    result = check(tmp_path / "k.weights.h5", reference=saved, backend="numpy", sizes=())

    assert (failed(result), list(Recording.load(saved).metadata["rounding"])) == (
        [],
        [probe.name for probe in result.probes],
    )


# -- the published sizes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arch", "long"), [("121", False), ("201", True)])
def test_a_full_size_network_is_the_same_in_opencv(arch, long, tmp_path):
    """A whole network with random statistics, factors and its own names, even and odd: our logits are OpenCV's."""
    numbers = Architecture.named(arch)
    weights, pictures = random_weights(numbers), images(1, 61 if long else 225)
    path = pair(tmp_path, net(numbers, weights, factor=999.982, long=long))

    answer = run(path, pictures)

    network = read(path)
    divided = dict(network.weights)
    ratio = far(answer.logits, divided, network.contract, pictures, numbers)
    assert (network.architecture.name, ratio <= FACTOR32) == (arch, True)
