"""TensorFlow's checkpoints and SavedModels: what TensorFlow writes is read to the bit, and what is changed is found."""

import shutil
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from densenet_port import formats
from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.errors import CorruptError, DiskError, MisfitError
from densenet_port.formats.protobuf import integer, message
from densenet_port.formats.tensorflow.crc32c import crc32c
from tests.support.bundles import entry, put, snappy, table
from tests.support.containers import content, damaged, outcome, true

AGAIN = "fetch or copy the file again"
FORMS = {  # what is named → its container
    "plain.ckpt": "tensorflow",
    "managed": "tensorflow",
    "named/model.ckpt.data-00001-of-00003": "tensorflow",
    "exported": "saved-model",
    "keras2/checkpoint": "tensorflow",
    "keras2-saved/keras_metadata.pb": "saved-model",
}


def slots(network):
    """Slot → its bytes."""
    return {slot: array.tobytes() for slot, array in network.weights.items()}


@pytest.mark.parametrize("part", FORMS)
def test_whatever_tensorflow_writes_is_the_network_that_keras_saved(part, tensorflow):
    """Slot by slot; of an optimiser, of metrics and of counters nothing is left over."""
    if part.startswith("keras2") and find_spec("tf_keras") is None:
        pytest.skip("needs tf_keras, which is Keras 2")
    saved, ported = read(tensorflow / "whole.h5"), read(tensorflow / part)

    assert (ported.checkpoint.container, ported.layout) == (FORMS[part], "keras-applications")
    assert slots(ported) == slots(saved)
    assert ported.contract == saved.contract


def test_what_each_rule_leaves_out(tensorflow):
    """Slots of optimisers, counters, and the second name that Keras 3's export gives to each variable."""
    rules = {}
    for part in ("managed", "named", "exported"):
        ignored = [*read(tensorflow / part).ledger.ignored.values()]
        rules[part] = {rule: ignored.count(rule) for rule in set(ignored)}

    assert rules == {
        "managed": {"optimizer/*": 82, "a single number": 1},
        "named": {"optimizer/*": 66, "a single number": 1},
        "exported": {"the same tensor under another name": 66},
    }


def test_all_files_of_a_checkpoint_are_its_digest(tensorflow, tmp_path):
    """A port records where it came from, whichever of the files was named."""
    records = [
        convert(tensorflow / "named" / part, out=tmp_path / f"{number}.h5").record
        for number, part in enumerate(("model.ckpt.index", "checkpoint"))
    ]
    shutil.copytree(tensorflow / "named", tmp_path / "named")
    data = tmp_path / "named/model.ckpt.data-00002-of-00003"
    data.write_bytes(data.read_bytes() + b"\0")
    other = convert(tmp_path / "named", out=tmp_path / "other.h5").record

    assert records[0]["source"] == records[1]["source"]
    assert other["source"]["sha256"] != records[0]["source"]["sha256"]


# -- a SavedModel's program --------------------------------------------------------------------------------------------


def test_a_program_tells_the_function(tensorflow):
    """What prepares the pictures, and the head's own activation, as the same model's file of Keras says them."""
    program, keras = read(tensorflow / "transfer"), read(tensorflow / "transfer.h5")

    assert (slots(program), program.contract) == (slots(keras), keras.contract)
    assert (program.contract.output, program.contract.input.mean) == ("sigmoid", (0.5, 0.5, 0.5))
    assert set(program.origins.values()) == {"graph"}


PADDING = np.array([[0, 0], [3, 3], [3, 3], [0, 0]], "<i4").tobytes()
EPSILON = np.float32(1.001e-5).tobytes()
CHANGES = {  # bytes of a program → others, how often, and what is said
    "another activation": (
        b"\x12\x04Relu",
        b"\x12\x04Selu",
        1,
        "behind {unit} expected ReLU, found Selu {name}",
    ),
    "another padding": (
        PADDING,
        np.array([[0, 0], [2, 4], [2, 4], [0, 0]], "<i4").tobytes(),
        1,
        "in stem.conv expected padding 3 on every side, found 2×2×4×4 (Conv2D {name})",
    ),
    "another epsilon of one norm": (
        EPSILON,
        np.float32(1e-3).tobytes(),
        1,
        "its layers differ in epsilon: 0.001 and 1.001e-05",
    ),
}


def changed(tensorflow, folder, old, new, count):
    """A copy of a SavedModel whose program has other bytes."""
    shutil.copytree(tensorflow / "exported", folder)
    program = folder / "saved_model.pb"
    data = program.read_bytes()
    assert old in data
    program.write_bytes(data.replace(old, new, count))
    return folder


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_program_is_another_network(change, tensorflow, tmp_path):
    """Refused, by the name of what it is; the variables alone can be had."""
    old, new, count, expected = CHANGES[change]
    folder = changed(tensorflow, tmp_path / "changed", old, new, count)

    with pytest.raises(MisfitError) as caught:
        read(folder)

    parts = expected.replace("{name}", "{unit}").split("{unit}")
    assert all(part in caught.value.message for part in parts), caught.value.message
    assert read(folder / "variables/variables.index").layout == "keras-applications"


def test_an_epsilon_is_taken_from_the_program(tensorflow, tmp_path):
    """Where all norms have it."""
    folder = changed(tensorflow, tmp_path / "changed", EPSILON, np.float32(1e-3).tobytes(), -1)

    network = read(folder)

    assert (network.contract.epsilon, network.origins["epsilon"]) == (1e-3, "graph")


def test_a_program_that_is_not_followed_says_so(tensorflow, tmp_path):
    """The weights are read all the same, and what they do not tell is assumed."""
    folder = changed(tensorflow, tmp_path / "changed", b"serving_default", b"serving_another", -1)

    planned = convert(folder, out=None)

    reason = "it has no signature serving_default, but serve, serving_another"
    assert planned.notes[0] == f"its program is not followed: {reason}"
    assert planned.assumption.startswith("assumed: output softmax, input rgb")


def test_a_saved_model_without_variables(tensorflow, tmp_path):
    """Its weights were left behind."""
    shutil.copytree(tensorflow / "exported", tmp_path / "m", ignore=shutil.ignore_patterns("variables*"))

    with pytest.raises(MisfitError) as caught:
        formats.read(tmp_path / "m")

    assert str(caught.value) == (
        f"{tmp_path}/m: a SavedModel without variables: its weights are constants of its program, or were left behind\n"
        f"  copy the whole folder; or `python -m tf2onnx.convert --saved-model {tmp_path}/m --output {tmp_path}/m.onnx`"
    )


# -- what is broken ----------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(tensorflow, tmp_path):
    """The checkpoint of three shards, to be broken."""
    shutil.copytree(tensorflow / "named", tmp_path / "named")
    return tmp_path / "named/model.ckpt"


@pytest.mark.parametrize("name", ["model/conv2_block1_1_conv/kernel", "model/bn/gamma"])
def test_a_flipped_bit_is_found(name, copied):
    """In a large tensor, and in a small one; whoever reads another one does not care."""
    target = formats.read(copied).tensors[name].load().tobytes()
    shard = next(path for path in copied.parent.glob("*.data-*") if target in path.read_bytes())
    data = bytearray(shard.read_bytes())
    at = bytes(data).index(target)
    data[at + len(target) // 2] ^= 4
    shard.write_bytes(data)
    tensors = formats.read(copied).tensors

    with pytest.raises(CorruptError) as caught:
        tensors[name].load()
    for other in tensors.keys() - {name}:
        tensors[other].load()

    assert str(caught.value) == (
        f"{shard}: {name} ({len(target)} bytes at {at}) is not what its checksum says\n  {AGAIN}"
    )


def test_a_shard_that_is_missing(copied):
    """It is named."""
    copied.with_name("model.ckpt.data-00001-of-00003").unlink()

    with pytest.raises(CorruptError) as caught:
        formats.read(copied)

    assert str(caught.value) == (
        f"{copied}.index: its tensors stand in 3 files beside it, and model.ckpt.data-00001-of-00003 is not there\n"
        "  copy all files of the checkpoint"
    )


def test_an_index_that_is_cut(copied):
    """Without its end it is nobody's; a shard without its end is too short."""
    index = copied.with_name("model.ckpt.index")
    shard = copied.with_name("model.ckpt.data-00002-of-00003")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CorruptError, match=r"data-00002-of-00003: \d+ bytes at \d+ reach beyond the file's \d+"):
        formats.read(copied)
    index.write_bytes(index.read_bytes()[:-100])

    with pytest.raises(CorruptError) as caught:
        formats.read(copied)

    assert caught.value.message == f"{index}: does not end as the index of a TensorFlow checkpoint does"


def test_a_list_of_checkpoints_that_are_gone(copied):
    """A folder whose list names another; those that are there are named."""
    (copied.parent / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model.ckpt-7"\n')

    with pytest.raises(CorruptError) as caught:
        formats.read(copied.parent)

    assert str(caught.value) == (
        f"{copied.parent}/checkpoint: names the checkpoint '/elsewhere/model.ckpt-7', which is not there\n"
        f"  give one that is: {copied}.index"
    )


def test_a_folder_of_several_and_of_none(copied, tmp_path):
    """Which one is for its owner to say; a prefix of nothing is a path that is wrong."""
    (copied.parent / "checkpoint").unlink()
    shutil.copy(f"{copied}.index", copied.parent / "a.index")

    with pytest.raises(MisfitError) as caught:
        formats.read(copied.parent)
    with pytest.raises(DiskError) as nothing:
        formats.read(tmp_path / "model")

    assert str(caught.value) == (
        f"{copied.parent}: a folder of 2 TensorFlow checkpoints\n"
        f"  give one of them: {copied.parent}/a.index, {copied}.index"
    )
    assert nothing.value.message == f"{tmp_path}/model: cannot be read: No such file or directory"


def test_a_partitioned_variable(tensorflow):
    """TensorFlow itself joins it."""
    path = tensorflow / "parted/model.ckpt"

    with pytest.raises(MisfitError) as caught:
        formats.read(path)

    assert str(caught.value) == (
        f"{path}.index: w is in 2 slices, as a partitioned variable is\n  in Python, `import tensorflow as tf, numpy "
        f"as np; r = tf.train.load_checkpoint('{path}'); np.savez('{path}.npz', **{{n: r.get_tensor(n) for n in "
        "r.get_variable_to_shape_map()})`, then convert that"
    )


# -- by hand -----------------------------------------------------------------------------------------------------------

ONE = np.arange(6, dtype="f4").reshape(2, 3)
DATA = ONE.tobytes()
HOSTILE = {
    "another size": (entry(ONE, size=20), "a of the shape (2, 3) has 20 bytes, expected 24"),
    "a shape of terabytes": (entry(ONE, shape=(1 << 40, 3)), "has 24 bytes, expected 13194139533312"),
    "a negative axis": (entry(ONE, shape=(-2, -3)), "a has the shape (-2, -3)"),
    "beyond the data": (entry(ONE, offset=1), "24 bytes at 1 reach beyond the file's 24"),
    "a negative place": (entry(ONE, offset=-24), "a has the shape (2, 3)"),
    "another shard": (entry(ONE, shard=1), "a stands in data file 1 of 1"),
    "no message": (b"\x0f", "a field of number 1 and wire type 7"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_forged_entry_is_refused(case, tmp_path):
    """Under a good checksum."""
    forged, expected = HOSTILE[case]

    with pytest.raises(CorruptError) as caught:
        formats.read(put(tmp_path, {"a": forged}, DATA))

    assert expected in caught.value.message


def test_headers_that_are_not_read(tmp_path):
    """No shard, more than anybody has, big-endian, a version to come."""
    headers = {
        b"": (CorruptError, "a TensorFlow checkpoint of 0 data files"),
        integer(1, 1 << 40): (CorruptError, "a TensorFlow checkpoint of 1099511627776 data files"),
        integer(1, 1) + integer(2, 1): (MisfitError, "a TensorFlow checkpoint written on a big-endian machine"),
        b"".join((integer(1, 1), *message(3, [integer(2, 2)]))): (MisfitError, "of version 2, at most 1 is read"),
    }
    for header, (kind, expected) in headers.items():
        with pytest.raises(kind) as caught:
            formats.read(put(tmp_path, {}, b"", header=header))
        assert expected in caught.value.message


def test_a_packed_index(tmp_path):
    """Blocks that Snappy packed, with copies from near and far."""
    arrays = {f"layer_{number:03d}/kernel": np.full((2, 3), number, "f4") for number in range(200)}
    entries = {name: entry(array, offset=24 * number) for number, (name, array) in enumerate(arrays.items())}
    path = put(tmp_path, entries, b"".join(array.tobytes() for array in arrays.values()), pack=snappy)

    assert path.stat().st_size < len(table({key.encode(): value for key, value in entries.items()})) / 2
    assert content(formats.read(path).tensors) == true(arrays)


@pytest.mark.parametrize(
    ("packed", "expected"),
    [
        (b"\x05\x00a", "Snappy unpacks to 1 bytes, expected 5"),
        (b"\x05\x00a\x01\x02", "Snappy copies what is not there"),
        (b"\xff\xff\xff\xff\x0f\x00a", "a block that unpacks to 4294967295 bytes"),
        (b"\x01\xfc\xff\xff\xff\xff", "Snappy unpacks to 0 bytes, expected 1"),
    ],
)
def test_what_snappy_cannot_have_packed(packed, expected, tmp_path):
    """No more is unpacked than is announced."""
    with pytest.raises(CorruptError) as caught:
        formats.read(put(tmp_path, {}, b"", pack=lambda _: packed))

    assert expected in caught.value.message


@settings(max_examples=25, deadline=20_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_index_or_program_is_an_error_of_ours(data, tensorflow, tmp_path):
    """Or nothing that matters was damaged."""
    part = data.draw(st.sampled_from(["variables/variables.index", "saved_model.pb"]))
    folder = tmp_path / "m"
    if not folder.exists():
        shutil.copytree(tensorflow / "exported", folder)
    original = (tensorflow / "exported" / part).read_bytes()

    result = outcome(lambda _: formats.read(folder), folder / part, data.draw(damaged(original)))
    (folder / part).write_bytes(original)

    assert result in {"read", "corrupt", "misfit"}


@pytest.mark.parametrize("program", [b"", b"\x08\x01"], ids=["empty", "its version alone"])
def test_a_program_without_a_graph_is_an_error_of_ours(program, tensorflow, tmp_path):
    """As a copy that broke off leaves it."""
    shutil.copytree(tensorflow / "exported", tmp_path / "m")
    (tmp_path / "m" / "saved_model.pb").write_bytes(program)

    with pytest.raises(CorruptError, match="a SavedModel without a graph"):
        formats.read(tmp_path / "m")


def test_the_checksum_is_castagnoli_s():
    """Of RFC 3720's examples, and in lanes as byte by byte, whatever is left over."""
    assert (crc32c(b"123456789"), crc32c(bytes(32))) == (0xE3069283, 0x8A9136AA)
    random = np.random.default_rng(5)
    for size in (4095, 4096, 4097, 70_001):
        data = random.bytes(size)
        piecewise = 0
        for start in range(0, size, 1000):
            piecewise = crc32c(data[start : start + 1000], piecewise)
        assert crc32c(data) == piecewise
