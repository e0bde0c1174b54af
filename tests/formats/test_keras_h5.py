"""Keras's HDF5 files are read as Keras means them; ours are Keras's too; hostile ones end in an error of ours."""

import json
import shutil
from io import FileIO
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from densenet_port.errors import CorruptError, MisfitError, UsageError
from densenet_port.formats.keras import h5 as keras_h5
from densenet_port.formats.keras.h5_write import write_legacy, write_weights_h5
from densenet_port.network.contract import Contract
from tests.support.containers import (
    SMALL,
    content,
    damaged,
    outcome,
    telling,
    tensor,
    true,
    weights,
)
from tests.support.keras_process import LOGITS, loaded_by_keras, real_files, truth

RNG = np.random.default_rng(2)
KERNEL = RNG.standard_normal((3, 3, 4, 2)).astype("f4")
VECTOR = RNG.standard_normal(4).astype("f4")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One file of each kind as we write it."""
    folder = tmp_path_factory.mktemp("written")
    write_legacy(folder / "by_order.h5", weights(), telling())
    write_weights_h5(folder / "our.weights.h5", weights(), telling())
    return folder


@pytest.fixture(scope="module")
def reloaded(written):
    """What Keras holds after loading each: its tensors and logits."""
    shutil.copy(written / "by_order.h5", written / "by_name.h5")
    names = ("by_order.h5", "by_name.h5", "our.weights.h5")
    return dict(zip(names, loaded_by_keras(*((SMALL, Contract(), written / name) for name in names)), strict=True))


def copied(name, tmp_path):
    return shutil.copy(real_files() / name, tmp_path / name)


def legacy_file(path, layers, *, text=np.array, group="/"):
    """A legacy file as Keras 1 and 2 wrote it: layers → weight names → arrays, and how lists of names are kept."""
    with h5py.File(path, "w") as file:
        base = file.require_group(group)
        base.attrs["layer_names"] = text([name.encode() for name in layers])
        for layer, arrays in layers.items():
            place = base.require_group(layer)
            place.attrs["weight_names"] = text([name.encode() for name in arrays])
            for name, array in arrays.items():
                place[name] = array
    return path


# -- what Keras wrote ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["automatic.h5", "whole.h5", "compiled.h5"])
def test_a_legacy_file_has_keras_own_tensors_in_the_model_s_order(name):
    """Weights alone, a whole model, and one with its optimizer, whose weights are not the network's."""
    assert content(keras_h5.read(real_files() / name).tensors) == true(truth("automatic"))


def test_a_weights_file_has_keras_own_tensors_class_by_class():
    """Layers are called by the names that Keras 3.6 and later keep."""
    found = keras_h5.read(real_files() / "automatic.weights.h5")

    assert sorted(content(found.tensors)) == sorted(true(truth("automatic")))


def test_layers_of_a_class_come_by_number():
    """`conv2d_10` stands behind `conv2d_9`, though its name sorts before; `stem` is the class's first layer."""
    found = keras_h5.read(real_files() / "automatic.weights.h5")

    kernels = [name for name in found.tensors if name.endswith("/kernel")]
    assert kernels == ["stem/kernel", "conv2d/kernel", *(f"conv2d_{n}/kernel" for n in range(1, 11)), "dense/kernel"]


def test_the_optimizer_s_variables_are_called_so():
    """A compiled model has the same tensors, and those of the optimizer by number."""
    found = keras_h5.read(real_files() / "compiled.weights.h5").tensors

    others = [name for name in found if name not in truth("automatic")]
    assert others == [f"optimizer/{n}" for n in range(len(others))]


@pytest.mark.parametrize("name", ["automatic.weights.h5", "compiled.weights.h5"])
def test_without_names_layers_are_called_after_their_groups(name, tmp_path):
    """Keras before 3.6 kept no names: the first Conv2D is `conv2d`, whatever it was called."""
    path = copied(name, tmp_path)
    with h5py.File(path, "r+") as file:
        file.visititems(lambda _, node: node.attrs.pop("name", None) and None)

    found = keras_h5.read(path)

    kernels = [key for key in found.tensors if key.endswith("/kernel")]
    expected = ["conv2d/kernel", *(f"conv2d_{n}/kernel" for n in range(1, 12)), "dense/kernel"]
    assert (kernels, found.metadata) == (expected, {"named": False, "kernels": "tensorflow"})


def test_names_that_repeat_are_not_used(tmp_path):
    """Two layers of one name cannot both be called by it."""
    path = copied("automatic.weights.h5", tmp_path)
    with h5py.File(path, "r+") as file:
        file["layers/conv2d_2/vars"].attrs["name"] = "stem"

    assert "conv2d_2/kernel" in keras_h5.read(path).tensors


def own_class(path, layers):
    """A weights file of somebody's own class: attribute → the layer's name, and its shapes."""
    with h5py.File(path, "w") as file:
        for attribute, (name, *shapes) in layers.items():
            group = file.create_group(f"{attribute}/vars")
            group.attrs["name"] = name
            for number, shape in enumerate(shapes):
                group[str(number)] = np.zeros(shape, "f4")
    return path


def test_attributes_of_one_s_own_class_are_the_layers_that_keras_named(tmp_path):
    """Their class is that of Keras's name, by which they stand in the order in which they were made."""
    layers = {
        "after": ("batch_normalization_1", *[(8,)] * 4),
        "before": ("batch_normalization", *[(4,)] * 4),
        "fc": ("dense", (8, 3), (3,)),
    }

    found = keras_h5.read(own_class(tmp_path / "x.weights.h5", layers)).tensors

    parts = ("gamma", "beta", "moving_mean", "moving_variance")
    norms = [f"{name}/{part}" for name in ("batch_normalization", "batch_normalization_1") for part in parts]
    assert [*found] == [*norms, "dense/kernel", "dense/bias"]


def test_attributes_that_were_given_names_stay_as_they_are(tmp_path):
    """Nothing tells what `fc` is."""
    layers = {"b": ("dense", (8, 3), (3,)), "a": ("fc", (3, 2), (2,))}

    found = keras_h5.read(own_class(tmp_path / "x.weights.h5", layers)).tensors

    assert [*found] == ["fc/0", "fc/1", "dense/kernel", "dense/bias"]


def test_the_tree_of_tf_keras_2_12_reads_the_same(tmp_path):
    """Its list of layers has another name."""
    path = copied("automatic.weights.h5", tmp_path)
    with h5py.File(path, "r+") as file:
        file.move("layers", "_layer_checkpoint_dependencies")

    expected = keras_h5.read(real_files() / "automatic.weights.h5")
    assert content(keras_h5.read(path).tensors) == content(expected.tensors)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_keeps_its_name_and_values(dtype):
    """bfloat16 comes widened, float16 as it is."""
    found = keras_h5.read(real_files() / f"{dtype}.weights.h5")

    assert sorted(content(found.tensors)) == sorted(true(truth(dtype), dtype))


@pytest.mark.parametrize(("name", "prefix"), [("nested.h5", "body"), ("nested.weights.h5", "functional")])
def test_a_model_within_a_model_stands_before_its_layers(name, prefix):
    """The legacy form knows it by name, the new one by class."""
    inner = ("conv", "norm", "last")
    expected = {f"{prefix}/{k}" if k.split("/")[0] in inner else k: array for k, array in truth("nested").items()}

    assert sorted(content(keras_h5.read(real_files() / name).tensors)) == sorted(true(expected))


def test_variables_of_other_classes_go_by_number(tmp_path):
    """Only a class whose variables are all there has names for them: a norm without scale does not."""
    with h5py.File(tmp_path / "x", "w") as file:
        for n in range(3):
            file[f"layers/batch_normalization/vars/{n}"] = VECTOR
        file["layers/dense/vars/0"] = KERNEL[0, 0]
        file["layers/scale/vars/0"] = VECTOR
        file["vars/0"] = VECTOR

    names = list(keras_h5.read(tmp_path / "x").tensors)
    norms = [f"batch_normalization/{n}" for n in range(3)]
    assert names == [*norms, "dense/kernel", "scale/0", "vars/0"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("automatic.h5", {"form": "legacy weights", "keras_version": "3.15.1", "backend": "numpy"}),
        ("whole.h5", {"form": "whole model", "keras_version": "3.15.1", "backend": "numpy"}),
        ("automatic.weights.h5", {"named": True}),
    ],
)
def test_the_file_s_own_words_are_metadata(name, expected):
    """Version, backend, and of the configuration what is plain."""
    found = dict(keras_h5.read(real_files() / name).metadata)
    found.pop("config", None)
    found.pop("layers", None)

    assert found == expected | {"kernels": "tensorflow"}


# -- what older ones wrote -------------------------------------------------------------------------------------------


def listed(names):
    """A list of names as h5py keeps Python's strings: of variable length, or nothing at all as no floats."""
    return [name.decode() for name in names]


@pytest.mark.parametrize(
    "text", [np.array, listed, lambda names: np.array(names, h5py.string_dtype())], ids=["fixed", "str", "bytes"]
)
def test_every_kind_of_list_of_names_is_read(text, tmp_path):
    """Fixed or variable length; layers without weights have an empty list of floats."""
    layers = {
        "data": {},
        "conv1": {"conv1_W": KERNEL},
        "conv1_bn": {"conv1_bn_gamma": VECTOR, "conv1_bn_beta": -VECTOR},
    }
    path = legacy_file(tmp_path / "x.h5", layers, text=text)

    expected = {"conv1/W": KERNEL, "conv1_bn/gamma": VECTOR, "conv1_bn/beta": -VECTOR}
    assert content(keras_h5.read(path).tensors) == true(expected)


@pytest.mark.parametrize("spelled", ["conv1/conv/kernel:0", "conv1/conv/kernel", "kernel:0", "kernel"])
def test_the_variable_is_the_last_part_of_its_path(spelled, tmp_path):
    """Keras 2, 3.3 and 3.0 differ in what stands before it; a layer's name may have a slash."""
    path = legacy_file(tmp_path / "x.h5", {"conv1/conv": {spelled: KERNEL}, "conv1/bn": {"conv1/bn/gamma:0": VECTOR}})

    assert content(keras_h5.read(path).tensors) == true({"conv1/conv/kernel": KERNEL, "conv1/bn/gamma": VECTOR})


@pytest.mark.parametrize("spelled", ["conv1_W", "conv1_W:0", "conv1_W_1:0", "conv1/conv1_W:0", "conv1_2/conv1_W_12:0"])
def test_keras_1_puts_the_layer_s_name_before_the_variable_s(spelled, tmp_path):
    """TensorFlow makes names unique in a graph that holds two networks; Keras 2 puts a scope before them."""
    path = legacy_file(tmp_path / "x.h5", {"conv1": {spelled: KERNEL}, "conv1_bn": {"conv1_bn_gamma": VECTOR}})

    assert content(keras_h5.read(path).tensors) == true({"conv1/W": KERNEL, "conv1_bn/gamma": VECTOR})


def test_variables_that_only_their_numbers_tell_apart_keep_them(tmp_path):
    """A layer of one's own may number its weights."""
    path = legacy_file(tmp_path / "x.h5", {"a": {"a_w_1": VECTOR, "a_w_2": -VECTOR}})

    assert content(keras_h5.read(path).tensors) == true({"a/a_w_1": VECTOR, "a/a_w_2": -VECTOR})


def keras_1_file(path, version=None):
    """A file with a norm of Keras 1; a whole model, if it has a version."""
    arrays = {f"bn_{name}": VECTOR for name in ("gamma", "beta", "running_mean", "running_std")}
    legacy_file(path, {"data": {}, "bn": arrays}, group="model_weights" if version else "/")
    if version:
        with h5py.File(path, "r+") as file:
            file.attrs["keras_version"] = version.encode()
    return path


@pytest.mark.parametrize("version", ["1.0.7", "1.0.3"])
def test_norms_that_compute_otherwise_are_refused(version, tmp_path):
    """On Theano, Keras 1.0.7 adds epsilon to the deviation, and before that `running_std` was one."""
    with pytest.raises(MisfitError, match=f"written by Keras {version}, whose norms compute otherwise"):
        keras_h5.read(keras_1_file(tmp_path / "x.h5", version))


@pytest.mark.parametrize("version", ["1.0.8", "1.1.0", "1.2.2"])
def test_a_recorded_version_that_computes_alike_needs_no_word(version, tmp_path):
    """From 1.0.8 on, `running_std` is the variance."""
    assert "notes" not in keras_h5.read(keras_1_file(tmp_path / "x.h5", version)).metadata


def test_what_weights_of_keras_1_cannot_tell_is_said(tmp_path):
    """Neither version nor backend is in the file."""
    told = "running_std is taken as the variance, which it is since 1.0.8 (2016)"
    expected = {
        "form": "legacy weights",
        "layers": ["data", "bn"],
        "notes": [f"a file of Keras 1 that records no version: {told}"],
    }
    assert keras_h5.read(keras_1_file(tmp_path / "x.h5")).metadata == expected


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("theano", {"kernels": "theano", "stem_padding": "symmetric"}),
        ("tensorflow", {"kernels": "tensorflow"}),
        ("cntk", {"kernels": "tensorflow"}),
    ],
)
def test_the_backend_says_how_kernels_are_stored(backend, said, tmp_path):
    """Theano convolves and pads alike on both sides, every other backend correlates and pads as layers say."""
    path = legacy_file(tmp_path / "x.h5", {"conv1": {"conv1/kernel:0": KERNEL}})
    with h5py.File(path, "r+") as file:
        file.attrs["backend"] = backend.encode()

    assert keras_h5.read(path).metadata == {"form": "legacy weights", "backend": backend, **said}


def test_variables_of_the_same_name_keep_their_whole_path(tmp_path):
    """A model as a layer of a model; TensorFlow's `_1` is a name of its own."""
    inner = {"a/kernel:0": KERNEL, "b/kernel:0": -KERNEL, "b/kernel_1:0": 2 * KERNEL}
    path = legacy_file(tmp_path / "x.h5", {"model": inner})

    expected = {"model/a/kernel": KERNEL, "model/b/kernel": -KERNEL, "model/b/kernel_1": 2 * KERNEL}
    assert content(keras_h5.read(path).tensors) == true(expected)


def test_order_is_that_of_the_lists(tmp_path):
    """Never the alphabet's."""
    layers = {"z": {"y": VECTOR, "x": VECTOR}, "a": {"y": VECTOR, "x": VECTOR}}
    path = legacy_file(tmp_path / "x.h5", layers)

    assert list(keras_h5.read(path).tensors) == ["z/y", "z/x", "a/y", "a/x"]


def test_a_list_in_pieces_is_put_together(tmp_path):
    """Keras splits what HDF5 cannot keep in one attribute."""
    path = legacy_file(tmp_path / "x.h5", {name: {f"{name}/gamma:0": VECTOR} for name in "abc"})
    with h5py.File(path, "r+") as file:
        names = file.attrs.pop("layer_names")
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:2], names[2:]

    assert list(keras_h5.read(path).tensors) == ["a/gamma", "b/gamma", "c/gamma"]


def test_a_whole_model_of_keras_1_says_its_version_at_the_root(tmp_path):
    """Its configuration is a JSON text, and its backend is not recorded."""
    path = legacy_file(tmp_path / "x.h5", {"fc6": {"fc6_W": KERNEL[0, 0]}}, group="model_weights")
    norm = {"class_name": "BatchNormalization", "config": {"epsilon": 1.1e-5, "name": "conv1_bn"}}
    config = {"class_name": "Model", "config": {"layers": [norm]}}
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = json.dumps(config).encode()
        file.attrs["keras_version"] = b"1.2.2"
        file["optimizer_weights/fc6_W"] = KERNEL

    found = keras_h5.read(path)
    expected = {"form": "whole model", "keras_version": "1.2.2", "config": config}
    expected |= {"layers": ["conv1_bn"]}
    assert (list(found.tensors), found.metadata) == (["fc6/W"], expected)


# -- the forms of HDF5 -----------------------------------------------------------------------------------------------

STORED = {
    "float64": {"data": KERNEL.astype("f8")},
    "big-endian": {"data": KERNEL.astype(">f4")},
    "unsigned": {"data": np.arange(5, dtype="u4")},
    "integers, big-endian": {"data": np.arange(-3, 3, dtype=">i8")},
    "a scalar": {"data": np.float32(2.5)},
    "empty": {"data": np.empty((3, 0), "f4")},
    "deflated": {"data": KERNEL, "compression": "gzip"},
    "shuffled, deflated and summed": {"data": KERNEL, "compression": 9, "shuffle": True, "fletcher32": True},
    "chunks that do not fit": {"data": KERNEL, "chunks": (2, 3, 3, 2)},
    "many chunks": {"data": np.arange(5000, dtype="f4"), "chunks": (7,), "shuffle": True},
    "growing": {"data": KERNEL, "chunks": (8, 8, 8, 8), "maxshape": (None,) * 4, "compression": "gzip"},
    "growing, empty": {"shape": (0, 4), "dtype": "f4", "maxshape": (None, 4)},
}


@pytest.mark.parametrize("form", STORED)
def test_every_form_of_dataset_reads_as_libhdf5_reads_it(form, tmp_path):
    """Numbers come in this machine's byte order."""
    with h5py.File(tmp_path / "x", "w") as file:
        data = file.create_dataset("layers/scale/vars/0", **STORED[form])[()]

    native = np.asarray(data).astype(data.dtype.newbyteorder("="))
    assert content(keras_h5.read(tmp_path / "x").tensors) == true({"scale/0": native})


def test_compact_data_are_read(tmp_path):
    """They stand within the object header."""
    with h5py.File(tmp_path / "x", "w") as file:
        group = file.create_group("layers/scale/vars").id
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple(VECTOR.shape)
        h5py.h5d.create(group, b"0", h5py.h5t.IEEE_F32LE, space, properties).write(space, space, VECTOR)

    assert content(keras_h5.read(tmp_path / "x").tensors) == true({"scale/0": VECTOR})


def test_a_chunk_may_have_been_left_without_a_filter(tmp_path):
    """libhdf5 leaves one out where it does not help, and says so in the chunk's key."""
    with h5py.File(tmp_path / "x", "w") as file:
        data = file.create_dataset("layers/scale/vars/0", (8,), "<f4", chunks=(4,), compression="gzip")
        data[...] = np.repeat(VECTOR, 2)
        data.id.write_direct_chunk((4,), VECTOR.tobytes(), filter_mask=1)

    expected = np.concatenate([np.repeat(VECTOR, 2)[:4], VECTOR])
    assert content(keras_h5.read(tmp_path / "x").tensors) == true({"scale/0": expected})


def test_no_value_is_an_empty_list(tmp_path):
    """As a list of names, and as a tensor."""
    path = legacy_file(tmp_path / "x.h5", {"a": {}, "b": {"gamma": VECTOR}})
    with h5py.File(path, "r+") as file:
        file["a"].attrs["weight_names"] = h5py.Empty("f8")
        file["b"]["gamma_"] = h5py.Empty("f4")
        file["b"].attrs["weight_names"] = np.array([b"gamma", b"gamma_"])

    assert content(keras_h5.read(path).tensors) == true({"b/gamma": VECTOR, "b/gamma_": VECTOR[:0]})


class Slow(FileIO):
    """A file of which the system gives at most 100 bytes at a time; over 2 GiB it does so to every file."""

    def read(self, size=-1):  # noqa: D102 (a file's)
        return super().read(min(size, 100))


def test_a_read_that_comes_in_pieces_is_put_together(written, monkeypatch):
    """The system may give fewer bytes than it was asked for."""
    expected = content(keras_h5.read(written / "our.weights.h5").tensors)
    monkeypatch.setattr(Path, "open", lambda path, *_, **__: Slow(path))

    assert content(keras_h5.read(written / "our.weights.h5").tensors) == expected


def test_many_members_need_more_than_one_node_of_the_tree(tmp_path):
    """A group of 3000 has a B-tree of several levels, and its header has gone on elsewhere."""
    with h5py.File(tmp_path / "x", "w") as file:
        for n in range(3000):
            file[f"layers/scale/vars/{n}"] = np.float32(n)
        for n in range(50):
            file["layers/scale/vars"].attrs[f"note {n}"] = "x" * 100
        file["layers/scale/vars"].attrs["name"] = "given"

    found = [float(item.load()) for item in keras_h5.read(tmp_path / "x").tensors.values()]
    assert found == list(range(3000))


# -- what we write ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["by_order.h5", "by_name.h5", "our.weights.h5"])
def test_keras_loads_what_we_write_bit_by_bit(name, reloaded):
    """By the order of layers, by their names, and by the counters of `.weights.h5`."""
    found = {key: array for key, array in reloaded[name].items() if key != LOGITS}

    assert true(found) == content(weights())


@pytest.mark.parametrize("name", ["by_order.h5", "our.weights.h5"])
def test_what_we_write_reads_back_the_same(name, written):
    """Legacy files keep the order, `.weights.h5` the classes'."""
    assert sorted(content(keras_h5.read(written / name).tensors)) == sorted(content(weights()))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int8", "uint16", "int64"])
@pytest.mark.parametrize("write", [write_legacy, write_weights_h5])
def test_every_type_of_number_survives(write, dtype, tmp_path):
    """bfloat16 comes as float32 and is written as the half that it is."""
    array = np.array([[1, 2, 3], [0, 5, 100]], "float32" if dtype == "bfloat16" else dtype)
    tensors = {"fc/kernel": tensor(array, dtype), "fc/bias": tensor(array[0], dtype)}
    write(tmp_path / "x", tensors, telling())

    assert content(keras_h5.read(tmp_path / "x").tensors) == content(tensors)


def test_libhdf5_reads_every_byte_of_what_we_write(written):
    """Groups, attributes and data, by another's eyes."""
    with h5py.File(written / "our.weights.h5") as file:
        found = {
            f"{node.parent.attrs['name'].decode()}/{node.name.rpartition('/')[2]}": node[()]
            for layer in file["layers"].values()
            for node in layer["vars"].values()
        }

    expected = sorted(item[1:] for item in content(weights()))
    assert sorted(item[1:] for item in true(found)) == expected


def test_keras_before_3_6_finds_the_group_that_it_wants(written):
    """It fails without the root's own variables, of which there are none."""
    with h5py.File(written / "our.weights.h5") as file:
        assert (sorted(file), len(file["vars"])) == (["densenet_port", "layers", "vars"], 0)


def test_libhdf5_can_change_what_we_write(written, tmp_path):
    """Adding to a group and to its attributes leaves a file that reads."""
    path = shutil.copy(written / "our.weights.h5", tmp_path / "x")
    with h5py.File(path, "r+") as file:
        for n in range(20):
            file[f"layers/scale_{n}/vars/0"] = VECTOR
            file["layers"].attrs[f"note {n}"] = "x" * 50
        file["layers/conv2d/vars"].attrs["name"] = "renamed"

    names = set(keras_h5.read(path).tensors)
    assert {"conv2d/kernel", "scale_19/0"} <= names  # unnamed, because the new layers have no names


def test_layers_with_slashes_stand_in_groups(tmp_path):
    """As the names of tf.keras's applications do."""
    tensors = {"conv1/conv/kernel": tensor(KERNEL), "conv1/bn/gamma": tensor(VECTOR), "fc/kernel": tensor(KERNEL[0, 0])}
    write_legacy(tmp_path / "x", tensors, telling())

    with h5py.File(tmp_path / "x") as file:
        found = file["conv1/conv/conv1/conv/kernel"][()]
    assert (content(keras_h5.read(tmp_path / "x").tensors), found.tobytes()) == (content(tensors), KERNEL.tobytes())


def test_variables_of_keras_1_make_a_file_of_keras_1(tmp_path):
    """Names as it gives them, of fixed length; no version or backend, by which Keras 2 would take it for its own."""
    tensors = {"conv1/W": tensor(KERNEL), "conv1_scale/gamma": tensor(VECTOR), "fc6/b": tensor(VECTOR)}
    write_legacy(tmp_path / "x", tensors, telling())

    with h5py.File(tmp_path / "x") as file:
        lists = {layer: file[layer].attrs["weight_names"] for layer in file.attrs["layer_names"].astype(str)}
        found = {layer: (names.dtype.kind, *names.tolist(), *file[layer]) for layer, names in lists.items()}
        attributes = list(file.attrs)
    expected = {"conv1": "conv1_W", "conv1_scale": "conv1_scale_gamma", "fc6": "fc6_b"}
    assert (attributes, found) == (["layer_names"], {a: ("S", b.encode(), b) for a, b in expected.items()})
    assert content(keras_h5.read(tmp_path / "x").tensors) == content(tensors)


def test_a_long_list_of_layers_is_split_as_keras_splits_it(tmp_path):
    """HDF5 keeps 64 KiB in an attribute."""
    tensors = {f"a_layer_with_quite_a_long_name_{n}/gamma": tensor(VECTOR + n) for n in range(2000)}
    write_legacy(tmp_path / "x", tensors, telling())

    with h5py.File(tmp_path / "x") as file:
        pieces = [key for key in file.attrs if key.startswith("layer_names")]
    assert (pieces, content(keras_h5.read(tmp_path / "x").tensors)) == (
        ["layer_names0", "layer_names1"],
        content(tensors),
    )


@pytest.mark.parametrize(
    ("layer", "shapes"),
    [
        ("conv1", {"kernel": (3, 3, 4, 2), "bias": (2,)}),
        ("scale", {"gamma": (4,), "beta": (4,)}),
        ("fc", {"kernel": (4, 2)}),
        ("conv1", {"weight": (3, 3, 4, 2)}),
    ],
)
def test_a_layer_that_no_class_has_cannot_be_a_weights_file(layer, shapes, tmp_path):
    """The file would load into another layer, or into none."""
    tensors = {f"{layer}/{name}": tensor(np.zeros(shape, "f4")) for name, shape in shapes.items()}

    with pytest.raises(UsageError, match=f"{layer} cannot be written as .weights.h5: its variables are"):
        write_weights_h5(tmp_path / "x", tensors, telling())


@pytest.mark.parametrize(
    "name", ["kernel", "/kernel", "a//kernel", "a/./kernel", "a/b/", "a\0b/kernel", "x" * 2000 + "/a"]
)
def test_a_name_that_keras_cannot_have_is_refused(name, tmp_path):
    """Every tensor has a layer and a variable."""
    with pytest.raises(UsageError, match="cannot be written for Keras"):
        write_legacy(tmp_path / "x", {name: tensor(VECTOR)}, telling())


@pytest.mark.parametrize("names", [("a/b", "a/a/b/c"), ("a/a/b/c", "a/b")])
def test_a_tensor_and_a_group_cannot_share_a_name(names, tmp_path):
    """`a/b` is the dataset /a/a/b; the layer `a/a/b` would be a group there."""
    with pytest.raises(UsageError, match="a dataset of the same name"):
        write_legacy(tmp_path / "x", {name: tensor(VECTOR) for name in names}, telling())


def test_a_type_that_hdf5_has_not_is_refused(tmp_path):
    """Truth values are an enumeration there."""
    with pytest.raises(UsageError, match="a/b: bool cannot be written as HDF5"):
        write_legacy(tmp_path / "x", {"a/b": tensor(np.array([True]))}, telling())


def test_a_record_that_grows_stops_the_writing(tmp_path):
    """Its length stands in the head, too."""
    texts = iter([b'{"a":%d}' % 10**digits for digits in range(5)])

    with pytest.raises(MisfitError, match="densenet_port: expected uint8"):
        write_legacy(tmp_path / "x", {"a/gamma": tensor(VECTOR)}, lambda: next(texts))


# -- hostile files ---------------------------------------------------------------------------------------------------


def external_link(file):
    file["layers/conv2d"] = h5py.ExternalLink("other.h5", "/layers/conv2d")


def soft_link(file):
    file["layers/conv2d"] = h5py.SoftLink("/somewhere")


def soft_link_in_a_new_group(file):
    file["layers/x"] = h5py.ExternalLink("other.h5", "/")
    file["layers/conv2d"] = h5py.SoftLink("/somewhere")
    del file["layers/x"]


def external_storage(file):
    file.create_dataset("layers/conv2d/vars/0", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def virtual_dataset(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "/x", (4,))
    file.create_virtual_dataset("layers/conv2d/vars/0", layout)


def ring(file):
    file["layers/conv2d/vars/0"] = KERNEL
    file["layers/conv2d/again"] = file["layers"]


def bush(file):
    for depth in range(40):
        file.create_group(f"layers{depth}")
    for depth in range(39):
        file[f"layers{depth}/left"] = file[f"layers{depth}/right"] = file[f"layers{depth + 1}"]


def never_written(file):
    file.create_dataset("layers/conv2d/vars/0", (2**40,), "f4")


def bomb_of_zeros(file):
    file.create_dataset("layers/conv2d/vars/0", (2**33,), "f4", chunks=(2**20,), compression="gzip")


def giant_chunk(file):
    file.create_dataset("layers/conv2d/vars/0", (4,), "f4", chunks=(2**29,), maxshape=(None,), compression="gzip")


def missing_chunks(file):
    file.create_dataset("layers/conv2d/vars/0", (100,), "f4", chunks=(10,))[:30] = 1


def same_bytes_again(file):
    file["layers/conv2d/vars/0"] = np.zeros(100_000, "f4")
    for n in range(1, 200):
        file[f"layers/conv2d/vars/{n}"] = file["layers/conv2d/vars/0"]


def words(file):
    file["layers/conv2d/vars/0"] = "words"


def fixed_words(file):
    file["layers/conv2d/vars/0"] = np.array([b"words"])


def pairs(file):
    file["layers/conv2d/vars/0"] = np.zeros(3, [("a", "f4"), ("b", "i4")])


def opaque(file):
    file["layers/conv2d/vars/0"] = np.zeros(3, "V2")


def nothing(file):
    file.attrs["note"] = "no weights here"


def two_of_a_name(file):
    for path in ("layers/scale", "_layer_checkpoint_dependencies/scale"):
        file[f"{path}/vars/0"] = VECTOR


def members_in_a_heap(file):
    for n in range(20):
        file[f"layers/conv2d_{n}/vars/0"] = KERNEL
    file["layers/x"] = h5py.ExternalLink("other.h5", "/")


def group_for_a_weight(file):
    file.attrs["layer_names"] = np.array([b"a"])
    file.create_group("a").attrs["weight_names"] = np.array([b"gamma"])
    file.create_group("a/gamma")


def names_in_a_square(file):
    file.attrs["layer_names"] = np.array([[b"a", b"b"], [b"c", b"d"]])


def no_list_of_weights(file):
    file.attrs["layer_names"] = np.array([b"a"])
    file["a/gamma"] = VECTOR


def missing_layer(file):
    file.attrs["layer_names"] = np.array([b"a"])


def layer_of_numbers(file):
    file.attrs["layer_names"] = np.array([1.5])


def repeated_layer(file):
    file.attrs["layer_names"] = np.array([b"a", b"a"])
    file.create_group("a").attrs["weight_names"] = np.array([b"gamma"])
    file["a/gamma"] = VECTOR


def dataset_for_a_layer(file):
    file.attrs["layer_names"] = np.array([b"a"])
    file["a"] = VECTOR


def deep_json(file):
    file.attrs["layer_names"] = np.array([], "f8")
    file.attrs["model_config"] = '[{"a":' * 20_000


def record_of_another_kind(file):
    file["layers/conv2d/vars/0"] = KERNEL
    file["densenet_port/vars/0"] = np.frombuffer(b"[1, 2]", "u1")


HOSTILE = {
    external_link: "is a link of kind 'external', which is refused",
    soft_link: "is a link of kind 'soft', which is refused",
    soft_link_in_a_new_group: "is a link of kind 'soft', which is refused",
    external_storage: "stand in another file, which is refused",
    virtual_dataset: "stand in other files, which is refused",
    ring: "more than 64 deep",
    bush: "form a loop or exceed",
    never_written: "its datasets claim 4398046511104 bytes",
    bomb_of_zeros: "its datasets claim 34359738368 bytes",
    giant_chunk: "its datasets claim 2147483648 bytes",
    missing_chunks: "lacks some of its chunks",
    same_bytes_again: "its datasets claim",
    words: "holds values of type object",
    fixed_words: "holds values of type |S5",
    pairs: "datatype of class 6",
    opaque: "holds values of type |V2",
    nothing: "holds no Keras weights",
    two_of_a_name: "two tensors are called scale/0",
    members_in_a_heap: "'x' is a link of kind 'external', which is refused",
    group_for_a_weight: "/a/gamma lacks the message 0x3 of a dataset",
    names_in_a_square: "attribute layer_names is cut off or has several axes",
    no_list_of_weights: "layer 'a' has no list of its weights",
    missing_layer: "/ has no member 'a'",
    layer_of_numbers: "an attribute holds float64, expected strings",
    repeated_layer: "two tensors are called a/gamma",
    dataset_for_a_layer: "layer 'a' has no list of its weights",
    deep_json: "broken HDF5: RecursionError",
    record_of_another_kind: "its record: expected an object, found [1, 2]",
}


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_a_hostile_file_is_refused_by_name(make, tmp_path):
    """Nothing leaves the file, nothing runs for long, nothing takes more memory than the file could hold."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        make(file)

    with pytest.raises(CorruptError) as caught:
        keras_h5.read(tmp_path / "x.h5")
    assert HOSTILE[make] in caught.value.message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"TREE", b"tree", "no node of a B-tree"),
        (b"SNOD", b"snod", "no symbol node"),
        (b"HEAP", b"heap", "no local heap"),
        (b"GCOL", b"gcol", "no global heap"),
        (b"moving_mean\0", b"beta\0\0\0\0\0\0\0\0", "two members of /batch_normalization/batch_normalization have"),
    ],
)
def test_a_broken_structure_is_named(old, new, message, tmp_path):
    """Not what happens to follow from it."""
    (tmp_path / "x.h5").write_bytes((real_files() / "automatic.h5").read_bytes().replace(old, new))

    with pytest.raises(CorruptError, match=message):
        keras_h5.read(tmp_path / "x.h5")


def test_only_hdf5_is_taken_for_it(written, tmp_path):
    """By the signature, never by name."""
    head = (written / "our.weights.h5").read_bytes()[:4096]

    assert [keras_h5.sniff(tmp_path, data) for data in (head, head[1:], b"")] == [True, False, False]


@pytest.mark.parametrize("name", ["automatic.h5", "whole.h5", "automatic.weights.h5", "our.weights.h5", "by_order.h5"])
@settings(max_examples=150, deadline=20_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_damage_ends_in_an_error_of_ours_or_in_a_checkpoint(name, draw, written, tmp_path):
    """libhdf5 hangs on some of these, and crashes on others."""
    folder = written if (written / name).exists() else real_files()
    data = draw.draw(damaged((folder / name).read_bytes()))

    assert outcome(keras_h5.read, tmp_path / "x", data) in ("read", "corrupt")
