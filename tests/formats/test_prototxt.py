"""Caffe's text format: what Google's writes is read, what is written Google's and OpenCV's parsers read."""

from dataclasses import replace

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_port.errors import CorruptError, MisfitError, PortError
from densenet_port.formats.caffe import prototxt as reader
from densenet_port.formats.caffe.layers import layers
from densenet_port.network.architecture import Architecture
from densenet_port.network.blueprint import Blueprint
from densenet_port.network.contract import Contract, Input
from tests.support.caffe_files import CAFFE, net, prototxt
from tests.support.containers import damaged

SMALL = Architecture(layers=(2, 1), growth_rate=4, init_channels=8, classes=5)
CEIL = Contract(pool_rounding="ceil")
STEM = Contract(stem_stride=1, stem_pool="none")


BLOBS = {  # kind of unit → the blobs of its parts, of which a norm has two layers
    "conv": {"kernel": "#0"},
    "norm": {"mean": "/a#0", "variance": "/a#1", "factor": "/a#2", "scale": "/b#0", "shift": "/b#1"},
    "dense": {"kernel": "#0", "bias": "#1"},
}


def blueprint(arch=SMALL, contract=CEIL, **layers):
    """Layers called after the units, but for those given."""
    names = {unit: unit for unit in arch.units} | layers
    tensors = {
        unit.name: {part: names[unit.name] + blob for part, blob in BLOBS[unit.kind].items()}
        for unit in arch.units.values()
    }
    return Blueprint(architecture=arch, contract=contract, layers=names, tensors=tensors)


def text(arch=SMALL, contract=CEIL, **names):
    network = blueprint(arch, contract, **names)
    return reader.text(network, layers(network))


def parse(tmp_path, content):
    return reader.parse(tmp_path / "net.prototxt", content)


# -- reading -----------------------------------------------------------------------------------------------------------


def test_what_google_writes_is_read(tmp_path):
    """Every layer of a published graph comes with its name, type and settings."""
    proto = net(Architecture.named("121"))

    parsed = parse(tmp_path, prototxt(proto))["layer"]

    expected = [(layer.name, layer.type, list(layer.bottom)) for layer in proto.layer]
    assert [(one["name"][0], one["type"][0], one.get("bottom", [])) for one in parsed] == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="\\\"'")), max_size=4))
def test_texts_are_read_whatever_stands_in_them(tmp_path_factory, texts):
    """Braces, marks and colons between quotes are a text's."""
    proto = CAFFE["NetParameter"](input=texts)

    fields = parse(tmp_path_factory.getbasetemp(), text_format.MessageToString(proto))

    assert fields.get("input", []) == texts


FORMS = {
    "a message with a colon": "a: { b: 1 }",
    "a message in angles": "a < b: 1 >",
    "commas and semicolons": "a { b: 1, };",
    "comments": "# first\na { # here\n b: 1 } # last",
    "no space": "a{b:1}",
    "a list of one": "a { b: [1] }",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_spelling_means_the_same(form, tmp_path):
    """The text format's other ways to write a message are understood."""
    assert parse(tmp_path, FORMS[form]) == {"a": [{"b": ["1"]}]}


def test_lists_and_texts_in_a_row_are_read(tmp_path):
    """A list gives several values; texts that follow each other are one."""
    fields = parse(tmp_path, "a: [1, -2.5e-3, FLOOR] b: 'x' \"y\"\n'z' a: 4")

    assert fields == {"a": ["1", "-2.5e-3", "FLOOR", "4"], "b": ["xyz"]}


BROKEN = {
    'layer { name: "x"': "line 1: ends where '}' is expected",
    "layer }": "line 1: a field has no value",
    "a: 1\nb: }": "line 2: '}' where a value is expected",
    "a 1": "line 1: a field has no value",
    'a: 1\n\n"b": 2': "line 3: '\"b\"' where a field's name is expected",
    'a: "open': "line 1: '\"open' is no part of a network's text",
    "a: [1, 2": "line 1: ends where a value is expected",
    "a {" * 40: "line 1: messages are nested more than 32 deep",
    "a: " + "[" * 40: "line 1: '[' where a value is expected",
}


@pytest.mark.parametrize("content", BROKEN)
def test_what_is_no_such_text_is_refused_by_line(content, tmp_path):
    """A text that is broken is refused, with the line and what stands there."""
    with pytest.raises(CorruptError) as caught:
        parse(tmp_path, content)

    assert caught.value.message == f"{tmp_path / 'net.prototxt'}, {BROKEN[content]}"


TEXT = prototxt(net(SMALL)).encode()


@settings(max_examples=150, deadline=None)
@given(damaged(TEXT))
def test_damage_is_an_error_of_ours_or_another_network(tmp_path_factory, data):
    """Whatever is changed in a text, it is read, or refused with an error of ours."""
    path = tmp_path_factory.getbasetemp() / "damaged.prototxt"
    path.write_bytes(data)

    try:
        keys = set(reader.read(path))
    except PortError as error:
        keys = {error.kind}

    told = {"epsilon", "stem_stride", "stem_pool", "pool_rounding", "head_pool"}
    assert keys <= {*told, "notes", "prototxt", "corrupt", "misfit"}


def test_settings_that_are_no_numbers_are_refused(tmp_path):
    """A layer whose epsilon is a word is an error of ours."""
    path = tmp_path / "net.prototxt"
    path.write_text('layer { name: "n" type: "BatchNorm" batch_norm_param { eps: small } }')

    with pytest.raises(CorruptError) as caught:
        reader.read(path)

    assert caught.value.message == (
        f"{path}: a layer's settings cannot be read: could not convert string to float: 'small'"
    )


def test_pools_that_disagree_are_refused(tmp_path):
    """Transitions of which one rounds down and one up are no network of ours."""
    path, content = (
        tmp_path / "net.prototxt",
        prototxt(net(Architecture(layers=(1, 1, 1), growth_rate=4, init_channels=8))),
    )
    path.write_text(content.replace("stride: 2\n    pad: 0", "stride: 2 round_mode: FLOOR", 1))

    with pytest.raises(MisfitError) as caught:
        reader.read(path)

    assert caught.value.message == f"{path}: its average pools round ceil and floor"


def test_a_network_without_norms_or_pools_says_nothing(tmp_path):
    """A text of other layers has no epsilon and no rounding to tell."""
    path = tmp_path / "net.prototxt"
    path.write_text('name: "x" input: "data" layers { name: "r" type: RELU }')

    assert reader.read(path) == {"notes": [], "prototxt": "net.prototxt"}


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "contract", [CEIL, Contract(), Contract(epsilon=1.001e-5), STEM], ids=["ceil", "floor", "epsilon", "stem"]
)
def test_what_is_written_says_its_contract(contract, tmp_path):
    """Epsilon, stem and rounding come back from the text, and nothing in it is remarkable."""
    path = tmp_path / "net.prototxt"
    path.write_text(text(contract=contract))

    assert reader.read(path) == {
        "epsilon": contract.epsilon,
        "stem_stride": contract.stem_stride,
        "stem_pool": contract.stem_pool,
        "pool_rounding": contract.pool_rounding,
        "notes": [],
        "prototxt": "net.prototxt",
    }


def test_only_words_that_every_caffe_knows_are_written():
    """BVLC's schema, without a word on rounding, accepts the text of each contract."""
    for contract in (CEIL, Contract()):
        proto = text_format.Parse(text(contract=contract), CAFFE["NetParameter"]())

        assert [layer.pooling_param.HasField("round_mode") for layer in proto.layer] == [False] * len(proto.layer)


def test_every_bottom_is_a_top_before_it():
    """The layers stand in order of execution, and all that they make is read but the end."""
    proto = text_format.Parse(text(), CAFFE["NetParameter"]())
    tops, read = [], set()
    for layer in proto.layer:
        assert set(layer.bottom) <= set(tops)
        tops += layer.top
        read |= set(layer.bottom)

    assert set(tops) - read == {"head.dense"}


def test_a_name_that_a_unit_has_is_left_to_it():
    """A layer of ours that would be called as a weighted one gets another name."""
    taken = {"stem.conv": "stem.pool", "head.dense": "data_"}

    proto = text_format.Parse(text(**taken), CAFFE["NetParameter"]())

    assert len({layer.name for layer in proto.layer}) == len(proto.layer)


def test_any_name_is_quoted():
    """Quotes, backslashes, line ends and other letters in a layer's name come back from Google's parser."""
    name = 'a"b\\c\nd é 网'

    proto = text_format.Parse(text(**{"stem.conv": name}), CAFFE["NetParameter"]())

    assert proto.layer[1].name == name


def test_the_head_of_the_text_tells_how_to_use_it():
    """Numbers of the input, output and rounding stand in front, as comments."""
    grey = Input(order="grey", scale=1.0, mean=(0.5,), std=(0.25,))

    assert text(contract=replace(CEIL, input=grey)).splitlines()[:5] == [
        "# DenseNet layers=2-1,growth_rate=4,init_channels=8,classes=5, written by densenet-port.",
        "# Input: grey, x = (pixel / 1 - mean) / std, mean 0.5, std 0.25, pixels 0 to 255.",
        "# Output: 5 logits, without softmax.",
        "# Pools: the stem's rounds down, the transitions' round up,",
        "# at every size of the input and in every Caffe: two 2x2 max pools are the 3x3 one, rounded down.",
    ]
