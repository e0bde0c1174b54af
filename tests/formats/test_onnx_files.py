"""ONNX models that we write run anywhere; external data stay in their folder, and hostile files are refused."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from densenet_port import formats
from densenet_port.checkpoint import Tensor
from densenet_port.conversion.compare import diff
from densenet_port.conversion.convert import convert, verify
from densenet_port.conversion.load import read
from densenet_port.errors import ComparisonError, CorruptError, DiskError, MisfitError, UsageError
from densenet_port.formats.onnx import checkpoint as container
from densenet_port.layouts.layout import Layout
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.graph import STEMS, Stem, StemConv
from densenet_port.network.numpy import forward
from tests.support.containers import damaged, outcome, peak, telling
from tests.support.networks import images
from tests.support.onnx_models import PICTURES, SINGLE, SMALL, apart, random_model, tensor_of

# -- what we write -----------------------------------------------------------------------------------------------------

CIFAR = replace(SMALL, stem="cifar", bottleneck=0, reduction=0.0, channels=1)
DEEP = replace(SMALL, stem="deep")
OTHER = replace(SMALL, layers=(2, 1, 2), stem="5x5-norm", reduction=(0.5, 0.0), final_norm=False, head="mean+max/dense")
CONTRACTS = {
    "plain": (SMALL, Contract()),
    "same padding, softmax": (SMALL, Contract(stem_padding="same", output="softmax")),
    "pools that round up, sigmoid": (SMALL, Contract(pool_rounding="ceil", output="sigmoid")),
    "deep stem, blur": (DEEP, Contract(stem_pool="blur", epsilon=1e-3)),
    "CIFAR's stem, grey": (CIFAR, Contract(epsilon=1.1e-5)),
    "no head": (SMALL.without_head(), Contract(epsilon=1.001e-5)),
    "a stem of 3×3 with a norm, tanh": (replace(SMALL, stem="cifar-norm"), Contract(output="tanh")),
    "the same without a pool, relu": (replace(SMALL, stem="cifar-norm"), Contract(stem_pool="none", output="relu")),
    "no pool, log of softmax": (SMALL, Contract(stem_pool="none", output="log_softmax")),
    "fastai's head": (replace(SMALL, head="max+mean/norm/dense:9/relu/norm/dense"), Contract(output="softmax")),
    "functions between": (replace(SMALL, head="max/tanh/dense:6/softmax/dense:4/sigmoid/dense"), Contract()),
    "a stem, transitions and an end of its own": (OTHER, Contract(stem_stride=2, stem_padding="same")),
    "a stem of 7×7 that keeps the size": (SMALL, Contract(stem_stride=1)),
    "no final norm, no head": (replace(SMALL.without_head(), final_norm=False), Contract()),
}
NEW_STEMS = {
    "5x5 and no pool": Stem(convs=(StemConv(5, 2),), norms=True, pool=False),
    "two of 5x5, and a pool": Stem(convs=(StemConv(5, 2, 2), StemConv(5, 2)), norms=True, pool=True),
}
ENDS = {
    "logits": lambda logits: logits,
    "softmax": lambda logits: np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True),
    "sigmoid": lambda logits: 1 / (1 + np.exp(-logits)),
    "relu": lambda logits: np.maximum(logits, 0),
    "tanh": np.tanh,
    "log_softmax": lambda logits: logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A model of ours."""
    path = tmp_path_factory.mktemp("written") / "x.onnx"
    random_model(SMALL, Contract(), path)
    return path


def by_runtime(path, pictures):
    """What ONNX Runtime puts out, without our runner: `n h w c` or `n classes`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: pictures.transpose(0, 3, 1, 2)})
    return output.transpose(0, 2, 3, 1) if output.ndim == 4 else output


@pytest.mark.parametrize("size", [32, 33, 35])  # maps of odd sides at every place where padding and rounding differ
@pytest.mark.parametrize("layout", ["onnx", "onnx-caffe2"])
@pytest.mark.parametrize("case", CONTRACTS)
def test_onnx_runtime_computes_what_the_contract_says(case, layout, size, tmp_path):
    """Any batch and size, to float32's rounding, with the activation that the contract has."""
    architecture, contract = CONTRACTS[case]
    pictures = images(2, size, architecture.channels)[:, :, 1:]
    weights = random_model(architecture, contract, tmp_path / "x.onnx", layout)

    logits = by_runtime(tmp_path / "x.onnx", pictures)

    assert apart(logits, ENDS[contract.output](forward(architecture, contract, weights, pictures))) <= SINGLE


def test_another_contract_would_be_seen(tmp_path):
    """The test above fails for a model that was written with another padding."""
    weights = random_model(SMALL, Contract(stem_padding="same"), tmp_path / "x.onnx")

    logits = by_runtime(tmp_path / "x.onnx", PICTURES[:, :32, :32])

    assert apart(logits, forward(SMALL, Contract(), weights, PICTURES[:, :32, :32])) > SINGLE


@pytest.mark.parametrize("case", CONTRACTS)
def test_what_is_written_passes_onnx_s_own_checker(case, tmp_path):
    """With shapes worked out all through the graph, whose output has the sizes that it says."""
    random_model(*CONTRACTS[case], tmp_path / "x.onnx")

    onnx.checker.check_model(tmp_path / "x.onnx", full_check=True)


@pytest.mark.parametrize("layout", ["onnx", "onnx-caffe2"])
@pytest.mark.parametrize("case", CONTRACTS)
def test_what_is_written_reads_back_the_same_from_the_graph_alone(case, layout, tmp_path):
    """Weights bit by bit, architecture and contract, though the record is gone."""
    architecture, contract = CONTRACTS[case]
    weights = random_model(architecture, contract, tmp_path / "x.onnx", layout)
    model = onnx.load(tmp_path / "x.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "y.onnx")

    network = read(tmp_path / "y.onnx")

    assert (network.layout, network.architecture) == (layout, architecture)
    assert replace(network.contract, input=contract.input) == contract
    assert {s: network.weights[s].tobytes() for s in weights} == {s: a.tobytes() for s, a in weights.items()}


@pytest.mark.parametrize("stem", NEW_STEMS)
def test_a_new_stem_is_written_read_and_run_without_a_word_in_formats(stem, tmp_path, monkeypatch):
    """Graph and reader follow from the network's operations, whatever stands before the first block."""
    monkeypatch.setitem(STEMS, stem, NEW_STEMS[stem])
    architecture = replace(SMALL, stem=stem)
    weights = random_model(architecture, Contract(), tmp_path / "x.onnx")

    network = read(tmp_path / "x.onnx")

    expected = forward(architecture, Contract(), weights, PICTURES)
    assert (network.architecture, apart(by_runtime(tmp_path / "x.onnx", PICTURES), expected) <= SINGLE) == (
        architecture,
        True,
    )


def test_initialisers_are_called_after_units(tmp_path):
    """In order of execution."""
    random_model(SMALL, Contract(), tmp_path / "x.onnx")

    names = [tensor.name for tensor in onnx.load(tmp_path / "x.onnx").graph.initializer]

    assert names[:6] == [f"stem.{name}" for name in ("conv.weight", "norm.scale", "norm.shift", "norm.mean")] + [
        "stem.norm.variance",
        "block1.layer1.norm1.scale",
    ]
    assert names == list(formats.read(tmp_path / "x.onnx").tensors)


def test_the_same_input_gives_the_same_bytes(small, tmp_path):
    """On every run, whatever the file is called."""
    for name in ("x.onnx", "y.onnx"):
        convert(small, dst="onnx", out=tmp_path / name)

    assert (tmp_path / "x.onnx").read_bytes() == (tmp_path / "y.onnx").read_bytes()


@pytest.mark.parametrize("layout", ["onnx", "onnx-caffe2"])
def test_there_and_back_is_bit_identical(layout, small, tmp_path):
    """Keras to ONNX to Keras."""
    convert(small, out=tmp_path / "a.weights.h5")
    convert(tmp_path / "a.weights.h5", dst=layout, out=tmp_path / "b.onnx")
    convert(tmp_path / "b.onnx", out=tmp_path / "c.weights.h5")

    assert diff(read(tmp_path / "a.weights.h5"), read(tmp_path / "c.weights.h5")).same


def test_a_written_model_is_verified_by_its_digests(small, tmp_path):
    """And one changed bit of its weights is found."""
    convert(small, dst="onnx", out=tmp_path / "x.onnx")
    bias = verify(tmp_path / "x.onnx").tensors["head.dense.bias"].load().tobytes()
    data = bytearray((tmp_path / "x.onnx").read_bytes())
    data[data.index(bias)] ^= 1
    (tmp_path / "x.onnx").write_bytes(data)

    with pytest.raises(ComparisonError, match="head.dense.bias: recorded"):
        verify(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("contract", "message"),
    [
        (Contract(epsilon=1e-3), "its graph has the epsilon 1e-05, its record 0.001"),
        (Contract(pool_rounding="ceil"), "its graph has the pool_rounding floor, its record ceil"),
        (Contract(output="softmax"), "its graph has the output logits, its record softmax"),
    ],
)
def test_a_graph_that_was_changed_under_its_record_is_refused(contract, message, written, tmp_path):
    """Both would say what the network is."""
    model = onnx.load(written)
    (entry,) = model.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), "contract": contract.to_json()})
    onnx.save(model, tmp_path / "x.onnx")

    with pytest.raises(MisfitError) as caught:
        formats.read(tmp_path / "x.onnx")
    assert message in caught.value.message


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_other_types_are_written_and_read(dtype, tmp_path):
    """The checker takes them; onnxruntime has no convolution for them on the CPU."""
    weights = random_model(SMALL, Contract(), tmp_path / "x.onnx", dtype=dtype)
    onnx.checker.check_model(tmp_path / "x.onnx", full_check=True)

    network = read(tmp_path / "x.onnx")

    assert {s: network.weights[s].tobytes() for s in weights} == {s: a.tobytes() for s, a in weights.items()}


OTHERS = {
    "a tensor too few": (
        lambda tensors: dict(list(tensors.items())[1:]),
        "an ONNX model needs stem.conv of the shapes {'kernel': (8, 3, 7, 7)}, found {}",
    ),
    "a tensor too many": (
        lambda tensors: tensors | {"extra": Tensor((1,), "float32", None)},
        "an ONNX model of layers=2-1,growth_rate=4,init_channels=8,classes=7 has no place for extra",
    ),
    "another shape": (
        lambda tensors: tensors | {"stem.norm.mean": Tensor((9,), "float32", None)},
        (
            "an ONNX model needs stem.norm of the shapes "
            "{'scale': (8,), 'shift': (8,), 'mean': (8,), 'variance': (8,)}, "
            "found {'scale': (8,), 'shift': (8,), 'mean': (9,), 'variance': (8,)}"
        ),
    ),
    "a head of other axes": (
        lambda tensors: tensors | {"head.dense.weight": Tensor((7, 12, 1), "float32", None)},
        (
            "an ONNX model needs head.dense of the shapes {'kernel': (7, 12), 'bias': (7,)}, "
            "found {'kernel': (7, 12, 1), 'bias': (7,)}"
        ),
    ),
    "two types": (
        lambda tensors: tensors | {"head.dense.bias": Tensor((7,), "float64", None)},
        "an ONNX model of the types float32, float64",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_tensors_of_another_network_are_refused(case, tmp_path):
    """The graph would be another's: the error names the unit, the shapes that it needs and those that were given."""
    change, message = OTHERS[case]
    random_model(SMALL, Contract(), tmp_path / "x.onnx")
    tensors = change(dict(formats.read(tmp_path / "x.onnx").tensors))

    with pytest.raises(UsageError) as caught:
        container.write(tmp_path / "y.onnx", tensors, telling(SMALL), blueprint_of(SMALL))
    assert caught.value.message == message


def test_parts_that_no_operator_takes_are_refused(tmp_path):
    """A layout's factor of statistics, say, which is Caffe's."""
    random_model(SMALL, Contract(), tmp_path / "x.onnx")
    tensors = {**formats.read(tmp_path / "x.onnx").tensors, "factor": Tensor((1,), "float32", None)}
    blueprint = blueprint_of(SMALL)
    norm = {**blueprint.tensors["final.norm"], "factor": "factor"}

    with pytest.raises(UsageError) as caught:
        container.write(
            tmp_path / "y.onnx",
            tensors,
            telling(SMALL),
            replace(blueprint, tensors={**blueprint.tensors, "final.norm": norm}),
        )
    assert caught.value.message == (
        "an ONNX model needs final.norm of the shapes "
        "{'scale': (12,), 'shift': (12,), 'mean': (12,), 'variance': (12,)}, "
        "found {'scale': (12,), 'shift': (12,), 'mean': (12,), 'variance': (12,), 'factor': (1,)}"
    )


def test_a_model_is_not_written_without_its_network(tmp_path):
    """Nobody guesses a graph from tensors."""
    random_model(SMALL, Contract(), tmp_path / "x.onnx")

    with pytest.raises(UsageError) as caught:
        formats.write(tmp_path / "y.onnx", formats.read(tmp_path / "x.onnx").tensors, telling(SMALL))

    assert (caught.value.message, (tmp_path / "y.onnx").exists()) == (
        "an ONNX model holds the network's graph, which follows from a blueprint, and none is given",
        False,
    )


def test_memory_is_that_of_a_tensor(tmp_path):
    """Sixteen megabytes of a network pass through less than six, out and in."""
    architecture = Architecture(layers=(2,), growth_rate=512, init_channels=64, bottleneck=1, classes=None)
    tensors = {
        rule: Tensor(shape, "float32", lambda shape=shape: np.zeros(shape, "f4"))
        for rule, shape in shapes(architecture).items()
    }

    def there_and_back():
        container.write(tmp_path / "x", tensors, telling(architecture), blueprint_of(architecture))
        for item in container.read(tmp_path / "x").tensors.values():
            item.load()

    sizes = [4 * int(np.prod(item.shape)) for item in tensors.values()]
    assert peak(there_and_back) < max(sizes) + 2 * 2**20 < sum(sizes)


def blueprint_of(architecture):
    """What a writer is told of a network."""
    return Layout.load("onnx").blueprint(architecture, Contract())


def shapes(architecture):
    """Name → shape of what the layout writes."""
    rules = Layout.load("onnx").spell(architecture)
    units = architecture.units
    return {rule.name: tuple(units[place.unit].sizes[a] for a in rule.axes.split()) for place, rule in rules.items()}


# -- external data -----------------------------------------------------------------------------------------------------


@pytest.fixture
def outside(written, tmp_path):
    """A folder with a model whose stem is in another file, and a secret beside the folder: place of the model → entry.

    The entry is `change(key, value)`, which makes the model say so of its external data, and saves it.
    """
    folder = tmp_path / "folder"
    folder.mkdir()
    model = onnx.load(written)
    held = tensor_of(model, "stem.conv.weight")
    data = held.raw_data
    (folder / "data").write_bytes(bytes(4) + data)
    (tmp_path / "secret").write_bytes(bytes(4) + data)
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "inner").mkdir()
    (folder / "inner/data").symlink_to(folder / "data")
    held.ClearField("raw_data")
    held.data_location = TensorProto.EXTERNAL

    def change(**changes):
        entries = {"location": "data", "offset": "4", "length": str(len(data))} | changes
        del held.external_data[:]
        for key, value in entries.items():
            held.external_data.add(key=key, value=value.replace("TMP", str(tmp_path)))
        (folder / "x.onnx").write_bytes(model.SerializeToString())
        return folder / "x.onnx"

    return change


@pytest.mark.parametrize("location", ["data", "inner/data", "./data"])
def test_external_data_in_the_model_s_folder_are_read(location, outside, written):
    """At their offset, through folders and links that stay inside."""
    path = outside(location=location)

    array = formats.read(path).tensors["stem.conv.weight"].load()

    np.testing.assert_array_equal(array, formats.read(written).tensors["stem.conv.weight"].load())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"location": "../secret"}, "its external data are said to be in '../secret'"),
        ({"location": "inner/../../secret"}, "its external data are said to be in"),
        ({"location": "..\\secret"}, "its external data are said to be in"),
        ({"location": "TMP/secret"}, "its external data are said to be in"),
        ({"location": "C:\\secret"}, "its external data are said to be in 'C:"),
        ({"location": ""}, "its external data are said to be in ''"),
        ({"location": "link"}, "its external data, link, are a link out of the folder"),
        ({"offset": "8"}, "ends at 4712 of data, which has 4708 bytes"),
        ({"offset": "-4"}, "has the offset '-4' in its external data"),
        ({"offset": "9" * 30}, "in its external data"),
        ({"length": "4"}, "has 4 bytes in data, expected 4704"),
        ({"length": "4 kB"}, "has the length '4 kB' in its external data"),
    ],
)
def test_external_data_elsewhere_are_refused(changes, message, outside):
    """No way up, no absolute path, no drive, no link out, and nothing beyond the file."""
    with pytest.raises(CorruptError) as caught:
        formats.read(outside(**changes))
    assert message in caught.value.message


@pytest.mark.parametrize("location", ["missing", "inner"])
def test_missing_external_data_are_the_disk_s_fault(location, outside):
    """With what to do."""
    with pytest.raises(DiskError, match="are missing or no file") as caught:
        formats.read(outside(location=location))
    assert caught.value.hint == "copy it into the model's folder: the weights are in it"


# -- hostile files -----------------------------------------------------------------------------------------------------


def hostile_model(nodes, initialisers=(), output="y"):
    """A graph of nodes from x to an output."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", output)]
    return helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], list(initialisers)))


def joined_again_and_again():
    """2⁶⁰ maps side by side."""
    nodes = [helper.make_node("Concat", [f"v{n}" if n else "x"] * 2, [f"v{n + 1}"], axis=1) for n in range(60)]
    return hostile_model(nodes, output="v60")


def huge_constant():
    """A kernel of 2⁶⁰ elements that the graph makes of four numbers."""
    shape = numpy_helper.from_array(np.array([2**20, 2**20, 2**10, 2**10]), "shape")
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["w"]), helper.make_node("Conv", ["x", "w"], ["y"])]
    return hostile_model(nodes, [shape])


def wider_than_it_is():
    """A tensor whose shape says more than its bytes."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**20] * 4, raw_data=bytes(16))
    return hostile_model([helper.make_node("Conv", ["x", "w"], ["y"])], [tensor])


def negative_shape():
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[-4, -1], raw_data=bytes(16))
    return hostile_model([helper.make_node("Conv", ["x", "w"], ["y"])], [tensor])


def read_before_it_is_made():
    return hostile_model([helper.make_node("Relu", ["later"], ["y"]), helper.make_node("Relu", ["x"], ["later"])])


def axes_twice():
    """A permutation that is none."""
    tensor = numpy_helper.from_array(np.zeros((8, 3, 7, 7), "f4"), "w")
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[0, 1, 9, 3]),
        helper.make_node("Conv", ["x", "t"], ["y"]),
    ]
    return hostile_model(nodes, [tensor])


def of_the_same_name():
    tensor = numpy_helper.from_array(np.zeros(3, "f4"), "w")
    return hostile_model([helper.make_node("Relu", ["x"], ["y"])], [tensor, tensor])


HOSTILE = {
    joined_again_and_again: "joins 8192 maps, no DenseNet more than 4096",
    huge_constant: "a constant of the shape (1048576, 1048576, 1024, 1024)",
    wider_than_it_is: "w has 16 bytes, expected",
    negative_shape: "w has the shape (-4, -1)",
    read_before_it_is_made: "Relu 'y' reads 'later', which nothing before it makes",
    axes_twice: "Transpose 't' turns a tensor of 4 axes by [0, 1, 9, 3]",
    of_the_same_name: "two initialisers are called 'w'",
}


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_a_hostile_model_is_refused_by_name(make, tmp_path):
    """Before memory is taken for what it claims."""
    (tmp_path / "x.onnx").write_bytes(make().SerializeToString())

    with pytest.raises(CorruptError) as caught:
        formats.read(tmp_path / "x.onnx")
    assert HOSTILE[make] in caught.value.message


def test_a_type_that_holds_no_weights_is_named(tmp_path):
    """Float8 is no corruption."""
    kernel = TensorProto(name="w", data_type=TensorProto.FLOAT8E4M3FN, dims=[4], raw_data=bytes(4))
    model = hostile_model([helper.make_node("Conv", ["x", "w"], ["y"])], [kernel])
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())

    with pytest.raises(MisfitError, match="w has the data type 17"):
        formats.read(tmp_path / "x.onnx")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_model_cut_off_is_refused(part, written, tmp_path):
    """Its graph says how long it is."""
    data = written.read_bytes()

    assert outcome(formats.read, tmp_path / "x", data[: int(part * len(data))]) == "corrupt"


@settings(max_examples=150, deadline=20_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_damage_ends_in_an_error_of_ours_or_in_a_checkpoint(draw, written, tmp_path):
    """In the graph or in the weights; what is left may be another network's."""
    data = draw.draw(damaged(written.read_bytes()))

    assert outcome(container.read, tmp_path / "x", data) in ("read", "corrupt", "misfit", "disk")


def test_other_protobufs_and_files_are_not_taken_for_models(tmp_path):
    """A Caffe network begins with its name; pickles, zips and HDF5 with their own signs."""
    starts = [b"\n\x0bDenseNet121\xa2\x06", b"\x80\x02}q\x00", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x08", b""]

    assert [container.sniff(tmp_path, start) for start in starts] == [False] * len(starts)
