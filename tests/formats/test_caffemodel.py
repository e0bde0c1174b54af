"""Caffe's weight files: every form that Google's Protocol Buffers can write is read, and they read what is written."""

import json
from dataclasses import replace
from math import prod

import h5py
import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings

from densenet_port import formats
from densenet_port.conversion.convert import convert, verify
from densenet_port.conversion.load import read
from densenet_port.errors import CorruptError, MisfitError, UsageError
from densenet_port.formats.caffe import caffemodel
from densenet_port.layouts.layout import Layout
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.units import Slot
from tests.support.caffe_files import CAFFE, FORMS, blobs_of, net, prototxt, varint, with_old_shapes
from tests.support.containers import content, damaged, outcome, peak, telling, tensor, true, watched
from tests.support.random_weights import random_weights

SMALL = Architecture(layers=(2, 3, 2), growth_rate=8, init_channels=16, classes=7)
WEIGHTS = random_weights(SMALL)
CONTRACT = Contract()
HINT = "fetch or copy the file again"


def saved(folder, proto, name="net.caffemodel"):
    path = folder / name
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return path


IN_CAFFE = {  # axes as they are written → the array that has them, from ours
    "o i h w": lambda array: array.transpose(3, 2, 0, 1),
    "o i 1 1": lambda array: array.T[:, :, None, None],
}


def tensors(arch=SMALL, weights=WEIGHTS, dtype="float32"):
    """The blobs of a network, spelled by the table, factors of one, in order of execution."""
    blobs = {}
    for place, rule in Layout.load("caffe").spell(arch).items():
        array = np.ones(1) if place.part == "factor" else weights[Slot(*place)]
        blobs[rule.name] = tensor(np.ascontiguousarray(IN_CAFFE.get(rule.axes, np.asarray)(array), dtype))
    return blobs


def written(folder, blobs, blueprint=None, **more):
    path, contract = folder / "out.caffemodel", Contract(**more)
    formats.write(path, blobs, telling(SMALL, contract), blueprint or blueprint_of(SMALL, contract))
    return path


def blueprint_of(arch, contract=CONTRACT):
    """What a writer is told of a network."""
    return Layout.load("caffe").blueprint(arch, contract)


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_to_the_bit(form, tmp_path):
    """Names, shapes, types and numbers of the blobs are Google's, however they are written."""
    proto, data = FORMS[form](net(SMALL, WEIGHTS, factor=2.5))

    checkpoint = formats.read(saved(tmp_path, data))

    assert (checkpoint.container, content(checkpoint.tensors)) == ("caffemodel", true(blobs_of(proto)))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_network(form, tmp_path):
    """Whatever the form, the network is the one that was written, to what dividing by a factor of two keeps: all."""
    _, data = FORMS[form](net(SMALL, WEIGHTS, factor=2.0))

    network = read(saved(tmp_path, data))

    errors = {slot: np.abs(array.astype("f8") - WEIGHTS[slot]).max() for slot, array in network.weights.items()}
    assert (network.layout, network.architecture, max(errors.values()) <= (1e-11 if form == "doubles" else 0)) == (
        "caffe",
        SMALL,
        True,
    )


@pytest.mark.parametrize("factor", [1.0, 0.5, 999.982, 1e-3, 0.0])
def test_statistics_are_divided_by_the_factor(factor, tmp_path):
    """Mean and variance are the stored numbers over the stored factor, in float64; a factor of 0 makes them 0."""
    proto = net(SMALL, WEIGHTS, factor=factor)
    mean, variance, stored = (blobs_of(proto)[f"conv3_2/x2/bn#{n}"].astype("f8") for n in range(3))

    network = read(saved(tmp_path, proto))

    values = [network.weights[Slot("block2.layer2.norm2", role)].astype("f8") for role in ("mean", "variance")]
    expected = [blob / stored if factor else 0 * blob for blob in (mean, variance)]
    assert [np.array_equal(a, b) for a, b in zip(values, expected, strict=True)] == [True, True]


def test_the_names_of_the_201_are_read_for_any_network(tmp_path):
    """`conv2_2/blk` is the transition as `conv2_blk` is."""
    network = read(saved(tmp_path, net(SMALL, WEIGHTS, long=True)))

    assert (network.ledger.unit_name("transition1.conv"), network.ledger.unit_name("final.norm")) == (
        "conv2_2/blk",
        "conv5_2/blk",
    )


@pytest.mark.parametrize("arch", ["121", "161", "169", "201"])
def test_each_architecture_is_written_with_its_own_names(arch):
    """The blobs that the table spells are those of the published graphs, in name and shape."""
    from tests.record.keys import KEYS, read_keys

    numbers, recorded = Architecture.named(arch), read_keys(KEYS / f"caffe-{arch}.txt").tensors

    spelled = Layout.load("caffe").spell(numbers)

    shapes = {rule.name: _shape(numbers, place, rule) for place, rule in spelled.items()}
    assert shapes == {name: one.shape for name, one in recorded.items()}


def test_blobs_are_read_when_asked_for(tmp_path):
    """Opening a file of 100 MB costs its structure; one blob costs its bytes and no more."""
    path = tmp_path / "large.caffemodel"
    with path.open("wb") as file:
        for number in range(25):
            ending = CAFFE["BlobProto"](shape=shape(1000, 1000, 1, 1)).SerializeToString()
            blob = b"\x2a" + varint(4_000_000) + bytes(4_000_000) + ending
            layer = CAFFE["LayerParameter"](name=str(number)).SerializeToString() + b"\x3a" + varint(len(blob)) + blob
            file.write(b"\xa2\x06" + varint(len(layer)) + layer)

    peaks = [peak(lambda: formats.read(path)), peak(formats.read(path).tensors["7#0"].load)]

    assert peaks[0] < 300_000 < peaks[1] < 4_400_000


# -- what the graph says -----------------------------------------------------------------------------------------------


def contract_of(proto, tmp_path, text=None):
    if text is not None:
        (tmp_path / "net.prototxt").write_text(text)
    return read(saved(tmp_path, proto)).contract


def test_epsilon_comes_from_the_graph_in_the_file(tmp_path):
    """The epsilon of every BatchNorm, as people write it, though Caffe keeps 32 bits of it."""
    assert contract_of(net(SMALL, WEIGHTS, epsilon=1.1e-5), tmp_path).epsilon == 1.1e-5


def test_a_batchnorm_without_epsilon_has_caffes(tmp_path):
    """What the graph leaves out is 1e-5."""
    assert formats.read(saved(tmp_path, net(SMALL, WEIGHTS, epsilon=None))).metadata["epsilon"] == 1e-5


def test_a_prototxt_beside_the_file_goes_first(tmp_path):
    """Caffe runs what the .prototxt says, so epsilon is that one's."""
    text = prototxt(net(SMALL, epsilon=1e-3))

    assert contract_of(net(SMALL, WEIGHTS, epsilon=1e-5), tmp_path, text).epsilon == 1e-3


@pytest.mark.parametrize(
    ("words", "floor", "rounding"),
    [("round_mode", True, "floor"), ("ceil_mode", True, "floor"), ("round_mode", False, "ceil")],
)
def test_rounding_comes_from_the_prototxt(words, floor, rounding, tmp_path):
    """Both words for it are understood, and without one Caffe rounds up."""
    text = prototxt(net(SMALL, floor=floor), rounding=words)

    assert contract_of(net(SMALL, WEIGHTS), tmp_path, text).pool_rounding == rounding


def test_a_rounding_in_the_file_alone_is_not_trusted(tmp_path):
    """Field 13 means FLOOR to BVLC's Caffe and ceil_mode to forks, so the file tells no rounding."""
    assert "pool_rounding" not in formats.read(saved(tmp_path, net(SMALL, WEIGHTS, floor=True))).metadata


def test_norms_that_disagree_are_refused(tmp_path):
    """Two epsilons in one network are no network of ours, and the error shows both."""
    proto = net(SMALL, WEIGHTS)
    proto.layer[2].batch_norm_param.eps = 1e-3

    with pytest.raises(MisfitError) as caught:
        formats.read(saved(tmp_path, proto))

    assert caught.value.message.endswith("net.caffemodel: its norms have the epsilons 1e-05 and 0.001")


def test_a_stem_pool_that_rounds_up_is_told(tmp_path):
    """Without a word on rounding Caffe's stem has another size, and the result says so."""
    text = prototxt(net(SMALL)).replace("round_mode: FLOOR", "")
    (tmp_path / "net.prototxt").write_text(text)

    notes = convert(saved(tmp_path, net(SMALL, WEIGHTS)), out=None).notes

    assert [note.split(" (")[0] for note in notes] == ["the .prototxt lets the stem's pool round up"]


# -- the HDF5 form -----------------------------------------------------------------------------------------------------


def test_the_hdf5_form_is_read(tmp_path):
    """Layers with slashes are groups in groups; gradients are left alone; the .prototxt is found by its stem."""
    proto = net(SMALL, WEIGHTS, factor=2.0)
    with h5py.File(tmp_path / "net.caffemodel.h5", "w") as file:
        for name, array in blobs_of(proto).items():
            file[f"data/{name.replace('#', '/')}"] = array
            file[f"diff/{name.replace('#', '/')}"] = array
    (tmp_path / "net.prototxt").write_text(prototxt(net(SMALL, epsilon=1e-4)))

    network = read(tmp_path / "net.caffemodel.h5")

    same = all(np.array_equal(array, WEIGHTS[slot]) for slot, array in network.weights.items())
    assert (network.checkpoint.container, network.contract.epsilon, same) == ("caffemodel-h5", 1e-4, True)


# -- writing -----------------------------------------------------------------------------------------------------------


def test_google_reads_what_is_written(tmp_path):
    """Google's parser finds every blob in its layer, in Caffe's order, and passes over the record."""
    blobs = tensors()

    proto = CAFFE["NetParameter"].FromString(written(tmp_path, blobs).read_bytes())

    kinds = {layer.type for layer in proto.layer if layer.blobs}
    actual = {name: (array.dtype.name, array.shape, array.tobytes()) for name, array in blobs_of(proto).items()}
    expected = {name: what for name, *what in content(blobs)}
    assert (kinds, {name: list(what) for name, what in actual.items()}) == (
        {"Convolution", "BatchNorm", "Scale"},
        expected,
    )


def test_the_graph_in_the_file_is_the_one_beside_it(tmp_path):
    """Names, types, bottoms, tops and settings of the layers agree in the two files."""
    path = written(tmp_path, tensors())
    beside = text_format.Parse(path.with_suffix(".prototxt").read_text(), CAFFE["NetParameter"]())

    proto = CAFFE["NetParameter"].FromString(path.read_bytes())

    for layer in proto.layer:
        del layer.blobs[:]
    assert list(proto.layer) == list(beside.layer)[1:]  # the text has the input


def test_what_is_written_reads_back(tmp_path):
    """Tensors and record come back from a file as they went in, and each tensor was loaded once."""
    blobs, seen = tensors(), []

    checkpoint = formats.read(written(tmp_path, watched(blobs, seen)))

    assert (sorted(content(checkpoint.tensors)), sorted(seen)) == (sorted(content(blobs)), sorted(blobs))
    assert checkpoint.record["text"] == 'Grüße "aus" \\ Zürich'


def test_doubles_are_written_as_doubles(tmp_path):
    """Float64 goes into double_data."""
    blobs = tensors(weights=random_weights(SMALL, dtype="f8"), dtype="float64")

    checkpoint = formats.read(written(tmp_path, blobs))

    assert {name: what for name, *what in content(checkpoint.tensors)} == {name: what for name, *what in content(blobs)}


def test_the_same_input_gives_the_same_bytes(tmp_path):
    """Both files are the same on every run."""
    pairs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        path = written(tmp_path / name, tensors())
        pairs.append((path.read_bytes(), path.with_suffix(".prototxt").read_bytes()))

    assert pairs[0] == pairs[1]


def test_a_prototxt_in_the_way_stops_the_conversion(tmp_path):
    """The file that goes beside is not overwritten without --force either."""
    source = saved(tmp_path, net(SMALL, WEIGHTS))
    (tmp_path / "out.prototxt").write_text("mine")

    with pytest.raises(UsageError) as caught:
        convert(source, out=tmp_path / "out.caffemodel", dst="caffe")

    assert (caught.value.message, (tmp_path / "out.caffemodel").exists()) == (
        f"{tmp_path / 'out.prototxt'}: exists already",
        False,
    )


WRONG = {
    "half precision": (
        lambda blobs: {name: replace(one, dtype="float16") for name, one in blobs.items()},
        "conv1#0: Caffe has no float16",
    ),
    "a layer too few": (
        lambda blobs: dict(list(blobs.items())[:-2]),
        "a .caffemodel needs head.dense of the shapes {'kernel': (7, 36, 1, 1), 'bias': (7,)}, found {}",
    ),
    "a layer too many": (
        lambda blobs: {**blobs, "extra#0": blobs["conv1#0"]},
        "a .caffemodel of layers=2-3-2,growth_rate=8,init_channels=16,classes=7 has no place for extra#0",
    ),
    "a kernel of another shape": (
        lambda blobs: {**blobs, "conv1#0": blobs["conv2_1/x1#0"]},
        "a .caffemodel needs stem.conv of the shapes {'kernel': (16, 3, 7, 7)}, found {'kernel': (32, 16, 1, 1)}",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_tensors_of_no_caffe_network_are_refused(name, tmp_path):
    """What a file could not hold is said, and nothing is written."""
    change, message = WRONG[name]

    with pytest.raises(UsageError) as caught:
        written(tmp_path, change(tensors()))

    assert (caught.value.message, list(tmp_path.iterdir())) == (message, [])


@pytest.mark.parametrize(("name", "place"), [("conv1", "<layer>#0"), ("conv1#1", "conv1#0"), ("#0", "<layer>#0")])
def test_a_name_that_is_no_blob_s_is_refused(name, place, tmp_path):
    """Blobs are numbered in the order that Caffe has them in."""
    blobs, blueprint = tensors(), blueprint_of(SMALL)
    blobs[name] = blobs.pop("conv1#0")
    blueprint = replace(blueprint, tensors={**blueprint.tensors, "stem.conv": {"kernel": name}})

    with pytest.raises(UsageError) as caught:
        written(tmp_path, blobs, blueprint)

    assert (caught.value.message, caught.value.hint) == (f"{name!r} cannot name a blob", f"expected {place}")


def test_a_file_is_not_written_without_its_network(tmp_path):
    """Nobody guesses a graph from blobs."""
    with pytest.raises(UsageError) as caught:
        formats.write(tmp_path / "out.caffemodel", tensors(), telling(SMALL))

    assert (caught.value.message, list(tmp_path.iterdir())) == (
        "a .caffemodel holds the network's graph, which follows from a blueprint, and none is given",
        [],
    )


REFUSED = {
    "TensorFlow's padding (stem.conv)": {"stem_padding": "same"},
    "a pad (stem.pad)": {"stem_pool": "blur"},
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_stem_that_caffe_does_not_have_is_refused(kind, tmp_path):
    """A graph of another function is never written; the error names the operation."""
    with pytest.raises(UsageError) as caught:
        written(tmp_path, tensors(), **REFUSED[kind])

    assert (caught.value.message, list(tmp_path.iterdir())) == (
        f"no Caffe graph is made of a network with {kind}",
        [],
    )


def test_writing_holds_one_blob_at_a_time(tmp_path):
    """Large tensors pass through one after another."""
    arch = Architecture(layers=(1,), growth_rate=512, init_channels=64, classes=5)  # kernels of 128 kB, 0.5 and 37 MB
    blobs = {
        rule.name: replace(
            tensor(np.broadcast_to(np.float32(1), shape)), load=lambda shape=shape: np.ones(shape, np.float32)
        )
        for rule, shape in (
            (rule, _shape(arch, place, rule)) for place, rule in Layout.load("caffe").spell(arch).items()
        )
    }
    largest = max(4 * prod(one.shape) for one in blobs.values())

    used = peak(lambda: formats.write(tmp_path / "l.caffemodel", blobs, telling(arch), blueprint_of(arch)))

    assert used < largest + 2_000_000


def _shape(arch, place, rule):
    sizes = arch.units[place.unit].sizes
    return tuple(1 if axis == "1" else sizes[axis] for axis in rule.axes.split())


# -- there and back ----------------------------------------------------------------------------------------------------


def test_keras_to_caffe_to_keras_keeps_every_bit(tmp_path):
    """What a Caffe file takes on its way, tensors and contract, it gives back."""
    source = saved(tmp_path, net(SMALL, WEIGHTS))
    steps = [tmp_path / "a.weights.h5", tmp_path / "b.caffemodel", tmp_path / "c.weights.h5"]
    for start, end, dst in zip([source, *steps], steps, ["keras", "caffe", "keras"], strict=False):
        convert(start, out=end, dst=dst)

    first, last = read(steps[0]), read(steps[2])

    same = [first.weights[slot].tobytes() == last.weights[slot].tobytes() for slot in SMALL.slots]
    assert (all(same), first.contract) == (True, last.contract)


@pytest.mark.parametrize("rounding", ["floor", "ceil"])
def test_the_graph_carries_the_rounding_without_the_record(rounding, tmp_path):
    """A file that another program saved again has no record; its graph or .prototxt still says how pools round."""
    path = written(tmp_path, tensors(), pool_rounding=rounding)
    bare = CAFFE["NetParameter"].FromString(path.read_bytes())
    bare.DiscardUnknownFields()
    saved(tmp_path, bare, "alone.caffemodel")
    path.write_bytes(bare.SerializeToString())

    roundings = [read(tmp_path / name).contract.pool_rounding for name in ("alone.caffemodel", "out.caffemodel")]

    assert roundings == [rounding, rounding]


@pytest.mark.parametrize("factor", [1.0, 3.0, 999.982, 0.0])
def test_caffe_to_keras_to_caffe_rounds_once(factor, tmp_path):
    """The divided statistics come back within half an ULP, and to the bit where nothing was to be divided."""
    source = saved(tmp_path, net(SMALL, WEIGHTS, factor=factor))
    convert(source, out=tmp_path / "k.weights.h5")
    convert(tmp_path / "k.weights.h5", out=tmp_path / "back.caffemodel", dst="caffe")

    first, back = read(source), read(tmp_path / "back.caffemodel")

    errors = []
    for slot in SMALL.slots:
        exact, rounded = first.weights[slot].astype("f8"), back.weights[slot]
        errors.append(float(np.max(np.abs(rounded - exact) / np.spacing(np.abs(rounded)))))
    assert max(errors) <= (0 if factor in (0.0, 1.0) else 0.5)
    assert verify(tmp_path / "back.caffemodel").record["layout"] == "caffe"


def test_the_input_is_caffes():
    """The contract's words for the input give (pixel − mean) · 0.017, blue first, in float32's arithmetic."""
    from densenet_port.network.pictures import prepared

    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    expected = (pixels[..., ::-1].astype("f8") - [103.94, 116.78, 123.68]) * 0.017

    pictures = prepared(pixels, Layout.load("caffe").contract.input)

    largest = 255 * 0.017  # the quotient, which like scale, mean and difference is rounded by half an ULP at most
    assert np.max(np.abs(pictures - expected)) <= 4 * np.spacing(np.float32(largest)) / 2


# -- hostile files -----------------------------------------------------------------------------------------------------


def one_blob(**fields):
    """A network of one layer with one blob."""
    proto = CAFFE["NetParameter"](name="one")
    proto.layer.add(name="conv1", type="Convolution").blobs.add(**fields)
    return proto.SerializeToString()


def shape(*dims):
    return CAFFE["BlobShape"](dim=dims)


def twice():
    proto = CAFFE["NetParameter"]()
    for _ in range(2):
        proto.layer.add(name="conv1", type="Convolution").blobs.add(data=[1.0], shape=shape(1))
    return proto.SerializeToString()


BROKEN = {
    "more numbers than the shape": (one_blob(data=[1, 2, 3], shape=shape(2)), "conv1#0 is 2, and holds 3 numbers"),
    "fewer numbers": (one_blob(data=[1], shape=shape(2, 2)), "conv1#0 is 2 x 2, and holds 1 numbers"),
    "no numbers": (one_blob(shape=shape(2, 2)), "conv1#0 is 2 x 2, and holds 0 numbers"),
    "sizes whose product overflows": (
        one_blob(data=[1.0], shape=shape(2**32, 2**32)),
        "conv1#0 is 4294967296 x 4294967296, and holds 1 numbers",
    ),
    "negative sizes": (one_blob(data=[1.0], shape=shape(-1, -1)), "conv1#0 is -1 x -1, and holds 1 numbers"),
    "an old size among new ones": (
        one_blob(data=[1.0], num=1, shape=shape(1)),
        "conv1#0 is 1 x 0 x 0 x 0, and holds 1 numbers",
    ),
    "too many axes": (
        one_blob(data=[1.0], shape=shape(*[1] * 33)),
        f"conv1#0 is {' x '.join('1' * 32)}, and holds 1 numbers",
    ),
    "two layers of one name": (twice(), "two layers with blobs are called 'conv1'"),
    "a record that is no object": (
        one_blob(data=[1.0], shape=shape(1)) + b"\xca\xce\xff\xff\x0f\x02[]",
        "its record: expected an object, found []",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(name, tmp_path):
    """The error names the blob or the layer, what it claims and what it holds."""
    data, detail = BROKEN[name]
    path = saved(tmp_path, data)

    with pytest.raises(CorruptError) as caught:
        formats.read(path)

    assert caught.value.message == f"{path}: {detail}"


def test_a_file_that_is_cut_off_is_refused_anywhere(tmp_path):
    """Wherever a file ends too early, it is said to be broken or not to be a checkpoint at all."""
    data = one_blob(data=[1.0] * 40, shape=shape(40))
    path = tmp_path / "net.caffemodel"

    outcomes = {outcome(formats.read, path, data[:end]) for end in range(len(data))}

    assert outcomes == {"corrupt"}


DATA = net(
    Architecture(layers=(1,), growth_rate=2, init_channels=4, classes=2),
    random_weights(Architecture(layers=(1,), growth_rate=2, init_channels=4, classes=2)),
).SerializeToString()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damaged(DATA))
def test_damage_is_an_error_of_ours_or_other_numbers(tmp_path, data):
    """Whatever is changed in a file, it is read, or refused with an error that names it."""
    assert outcome(formats.read, tmp_path / "net.caffemodel", data) in ("read", "corrupt", "misfit")


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"\n\n\n\n", b"hello", b"\n\x05hello", b"\x08\x07\x12\x03abc", bytes(64), b"\xa2\x06\x02\x10\x01"],
)
def test_other_files_are_not_taken_for_caffes(data, tmp_path):
    """A file that does not begin as a NetParameter is nobody's."""
    path = saved(tmp_path, data)

    assert caffemodel.sniff(path, data[:4096]) is False


def test_a_damaged_prototxt_is_named(tmp_path):
    """The error is about the file that is broken, and its line."""
    path = saved(tmp_path, with_old_shapes(net(SMALL, WEIGHTS)))
    (tmp_path / "net.prototxt").write_text('name: "x"\nlayer { name: }\n')

    with pytest.raises(CorruptError) as caught:
        formats.read(path)

    assert str(caught.value) == (
        f"{tmp_path / 'net.prototxt'}, line 2: '}}' where a value is expected\n  repair it, or move it away"
    )


def test_the_record_is_where_it_is_said_to_be(tmp_path):
    """The last field of the file has the number that the format's description names."""
    data = written(tmp_path, tensors()).read_bytes()

    text = data[data.rindex(b'{"architecture"') :]

    assert (json.loads(text)["architecture"], b"\xca\xce\xff\xff\x0f" in data) == (SMALL.to_json(), True)
