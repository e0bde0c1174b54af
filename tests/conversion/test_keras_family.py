"""Keras's DenseNets by other hands: keras.applications' older names, KerasHub, kimm, titu1994.

Every file is written by Keras from networks of its own layers, which also give the float64 logits to compare with;
names that today's Keras refuses are put in afterwards, as the older software had them.
"""

import json
import re
import shutil
import zipfile
from dataclasses import replace

import h5py
import numpy as np
import pytest

from densenet_port import formats
from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.errors import MisfitError
from densenet_port.network.numpy import forward
from densenet_port.prove.images import Probe
from densenet_port.prove.recording import Settings, plan
from densenet_port.prove.worker import run_all
from tests.support import warm

SIZES = (64, 65)
FULL = 1e-10  # of the logits' deviation: what two right float64 passes must agree to
LAYOUTS = {
    "titu1994": "titu1994",
    "cifar": "titu1994",
    "applications": "keras-applications",
    "chexnet": "keras-applications",
    "hub": "keras-hub",
    "kimm": "kimm",
}
READ = {**LAYOUTS, "transfer": "keras-applications"}  # a user's model around the network is read, and not written
WITHOUT_NAMES = ("titu1994", "cifar")  # their layers have numbers, in the newer containers as everywhere
CONTAINERS = (".h5", "-whole.h5", ".keras", ".weights.h5")


def keras(backend, *arguments):
    """Run the script that has Keras."""
    warm.keras("tests.support.family_script", *arguments, backend=backend)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of files that Keras wrote."""
    folder = tmp_path_factory.mktemp("family")
    keras("tensorflow", "save", folder)
    return folder


def truth(saved, name):
    """What the network was: its logits by size, and its weights by layer and variable."""
    return dict(np.load(saved / f"{name}.npz"))


def pictures(size):
    return np.random.default_rng(size).standard_normal((2, size, size, 3)).astype(np.float32)


def farthest(told, known, sizes=SIZES):
    """The largest difference of a file's logits from the true ones, by size, in their deviations."""
    weights = dict(told.weights)
    found = {size: forward(told.architecture, told.contract, weights, pictures(size)) for size in sizes}
    return [float(np.abs(found[size] - known[str(size)]).max() / known[str(size)].std()) for size in sizes]


def changed(file, path, change):
    """A copy of an HDF5 file, changed."""
    shutil.copy(file, path)
    with h5py.File(path, "r+") as opened:
        change(opened)
    return path


# -- what Keras writes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_file_becomes_the_same_network_with_no_option(saved, tmp_path, name, container):
    """Layout and numbers are told by the file; the port's float64 logits are the network's at an even and an odd size.

    Where a newer container has numbers for names, several layouts fit, and the user must say which.
    """
    said = {"src": "titu1994"} if name in WITHOUT_NAMES and container in (".keras", ".weights.h5") else {}

    done = convert(saved / f"{name}{container}", out=tmp_path / "port.safetensors", **said)

    assert done.source.layout == READ[name]
    assert max(farthest(read(tmp_path / "port.safetensors"), truth(saved, name))) <= FULL


@pytest.mark.parametrize("name", READ)
def test_a_file_without_the_head_is_a_network_without_one(saved, tmp_path, name):
    done = convert(saved / f"{name}-notop.h5", out=tmp_path / "port.safetensors")

    whole = read(saved / f"{name}.h5")
    assert (done.source.layout, done.source.architecture) == (READ[name], whole.architecture.without_head())
    assert set(done.source.weights) == {slot for slot in whole.weights if slot.unit != "head.dense"}


@pytest.mark.parametrize("name", ["titu1994", "hub"])
def test_the_padding_of_the_stem_is_seen_at_even_sizes_alone(saved, name):
    """Taken for a symmetric stem, a "same" one differs at 64 pixels and not at 65."""
    told = read(saved / f"{name}.h5")

    even, odd = farthest(replace(told, contract=replace(told.contract, stem_padding="symmetric")), truth(saved, name))

    assert even > 1e-2
    assert odd <= FULL


# -- what we write ---------------------------------------------------------------------------------------------------

WRITTEN = {
    "titu1994": (".h5", ".weights.h5", ".keras"),
    "cifar": (".h5", ".weights.h5", ".keras"),
    "hub": (".weights.h5",),
    "kimm": (".h5", ".weights.h5", ".keras"),
    "titu1994-notop": (".h5",),
    "hub-notop": (".weights.h5",),
    "kimm-notop": (".weights.h5",),
}


@pytest.fixture(scope="module")
def loaded(saved, tmp_path_factory):
    """(name, ending) → what Keras holds after loading the file that went to our own layout and back."""
    folder, cases = tmp_path_factory.mktemp("back"), {}
    for name, endings in WRITTEN.items():
        port, layout = folder / f"{name}.safetensors", LAYOUTS[name.partition("-")[0]]
        convert(saved / f"{name}.h5", out=port)
        for ending in endings:
            cases[name, ending] = folder / f"{name}{ending}"
            convert(port, dst=layout, out=cases[name, ending])
    keras("numpy", "load", *(f"{name}={path}" for (name, _), path in cases.items()))
    return {case: dict(np.load(f"{path}.npz")) for case, path in cases.items()}


@pytest.mark.parametrize(("name", "ending"), [(name, ending) for name in WRITTEN for ending in WRITTEN[name]])
def test_keras_loads_what_went_there_and_back_and_holds_the_very_bits(saved, loaded, name, ending):
    """The network's own loader takes the file: by order, into a model within the model, without a head.

    Automatic names go on counting from session to session, so that those are compared by order.
    """
    known = truth(saved, name.partition("-")[0])

    found = list(loaded[name, ending].values())

    expected = [array for key, array in known.items() if "/" in key][: len(found)]
    assert [array.tobytes() for array in found] == [array.tobytes() for array in expected]


def test_running_numbers_are_written_from_one(saved, tmp_path):
    done = convert(saved / "titu1994.h5", dst="titu1994", out=tmp_path / "again.h5")

    names = list(done.tensors)
    assert (names[0], names[1], names[-1]) == ("conv2d_1/kernel", "batch_normalization_1/gamma", "dense_1/bias")


def test_a_same_stem_does_not_go_where_only_a_symmetric_one_is(saved, tmp_path):
    """KerasHub's weights in kimm's network would be another function."""
    with pytest.raises(MisfitError, match="pads the stem same, kimm only symmetric"):
        convert(saved / "hub.h5", dst="kimm", out=tmp_path / "out.weights.h5")


def test_a_network_within_a_network_has_its_head_outside(saved, tmp_path):
    """As in a transfer: keras.applications' network as a layer, the user's own Dense behind it."""
    config = read(saved / "applications.h5").checkpoint.tensors
    inside = {
        name if name.startswith("predictions/") else f"densenet121/{name}": tensor for name, tensor in config.items()
    }
    formats.write(tmp_path / "nested.weights.h5", inside, lambda: b"{}")

    done = convert(changed(tmp_path / "nested.weights.h5", tmp_path / "x.weights.h5", forget_us), out=tmp_path / "p.h5")

    assert (done.source.layout, done.source.ledger.prefix) == ("keras-applications", "densenet121/")
    assert max(farthest(read(tmp_path / "p.h5"), truth(saved, "applications"))) <= FULL


def test_a_transfer_is_run_by_keras_itself(tmp_path):
    """The 121 of keras.applications within a model, in every container, by Keras's own class and loader."""
    keras("tensorflow", "transfer", tmp_path)
    seen = (Probe(name="noise 64", images=pictures(64)),)
    files = [read(tmp_path / f"transfer{ending}") for ending in (".h5", ".keras", ".weights.h5")]

    plans = [plan(told, "keras.applications", seen, Settings(threads=1)) for told in files]
    runs = run_all([planned.jobs["float64"][0] for planned in plans])

    assert [told.contract.output for told in files] == ["sigmoid", "sigmoid", "softmax"]  # weights alone do not tell
    for told, run in zip(files, runs, strict=True):
        assert set(run.taps) == set(told.architecture.units)
        found = forward(told.architecture, told.contract, told.weights, pictures(64))
        assert np.abs(found - run.logits).max() <= FULL * run.logits.std()


def test_a_head_of_two_layers_is_not_taken_for_one(saved, tmp_path):
    """Nor a head alone, under a number, for a network."""
    tensors = dict(read(saved / "transfer.h5").checkpoint.tensors)
    head = {name: tensor for name, tensor in tensors.items() if name.startswith("dense_4/")}
    second = {name.replace("dense_4", "dense_5"): tensor for name, tensor in head.items()}

    for number, members in enumerate((tensors | second, head)):
        formats.write(tmp_path / f"{number}.safetensors", members, lambda: b"{}")

    with pytest.raises(MisfitError, match=r"the body fits; beside it\n  dense_4 \(88, 3\), dense_5 \(88, 3\)"):
        read(tmp_path / "0.safetensors")
    with pytest.raises(MisfitError, match="it has no convolutions: 0 norms, 1 dense layer, 0 other tensors"):
        read(tmp_path / "1.safetensors")


@pytest.mark.parametrize("container", ["-whole.h5", ".keras"])
def test_a_maximum_over_the_picture_is_read_as_one(saved, tmp_path, container):
    """No weight shows it, but the graph does; the body is the same."""
    file = edited(saved / f"transfer{container}", tmp_path / f"maximum{container}", pooled)

    assert read(file).architecture.head == "max/dense"
    assert read(saved / f"transfer{container}").architecture.head == "mean/dense"
    assert read(file, no_top=True).architecture.classes is None


def pooled(text):
    return text.replace("GlobalAveragePooling2D", "GlobalMaxPooling2D")


def edited(file, path, change):
    """A copy of a whole model whose configuration, a text, was changed."""
    if file.suffix != ".keras":
        return changed(
            file, path, lambda opened: opened.attrs.update(model_config=change(opened.attrs["model_config"]))
        )
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data.decode()) if name == "config.json" else data)
    return path


def forget_us(file):
    """Take out what densenet-port itself wrote; HDF5 leaves the bytes of what is deleted."""
    record = file["densenet_port/vars/0"]
    record[...] = np.zeros(record.shape, record.dtype)
    del file["densenet_port"]


# -- older names -----------------------------------------------------------------------------------------------------

OLD = {"conv1_conv": "conv1/conv", "conv1_bn": "conv1/bn"}
HEADS = {"keras_applications 1.0": "fc1000", "tf.keras": "predictions"}


def with_old_names(names, file, path, *, relu=True):
    """A legacy file as Keras 2 wrote it: names with a slash, datasets `kernel:0`, and layers without weights listed."""
    with h5py.File(file) as new, h5py.File(path, "w") as old:
        spelled = [names.get(layer, layer) for layer in new.attrs["layer_names"]]
        listed = [name for name in spelled if relu or name != "relu"]
        old.attrs["layer_names"] = np.array([name.encode() for name in listed])
        old.attrs["backend"], old.attrs["keras_version"] = b"tensorflow", b"2.1.6"
        for layer, name in zip(new.attrs["layer_names"], spelled, strict=True):
            group, weights = old.create_group(name), list(new[layer].attrs["weight_names"])
            paths = [f"{name}/{weight.rpartition('/')[2]}:0" for weight in weights]
            group.attrs["weight_names"] = np.array([one.encode() for one in paths]) if paths else np.zeros(0)
            for one, weight in zip(paths, weights, strict=True):
                group.create_dataset(one, data=new[layer][weight][()])
    return path


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("name", ["applications", "chexnet"])
def test_older_names_of_keras_applications_are_read(saved, tmp_path, name, head):
    """`conv1/conv`, and `fc1000` until tf.keras called it `predictions`; a head of 14 classes as well."""
    names = {**OLD, "predictions": head, last_relu(saved, name): "relu"}
    old = with_old_names(names, saved / f"{name}.h5", tmp_path / "old.h5")

    done = convert(old, out=tmp_path / "port.safetensors")

    assert (done.source.layout, done.notes) == ("keras-applications", ())
    assert max(farthest(read(tmp_path / "port.safetensors"), truth(saved, name))) <= FULL


def last_relu(saved, name):
    """What Keras called the last ReLU of a network."""
    with h5py.File(saved / f"{name}.h5") as file:
        return [layer for layer in file.attrs["layer_names"] if layer.startswith("re_lu")][-1]


@pytest.mark.parametrize("container", ["-whole.h5", ".keras"])
def test_a_graph_without_the_last_relu_is_read_as_it_is(saved, tmp_path, container):
    """Keras 2.1.3 to keras_applications 1.0.4 left it out; the weights alone are those of the network that has it."""
    file = edited(saved / f"applications{container}", tmp_path / f"old{container}", without_last_relu)

    assert read(file).architecture.head == "no-relu/mean/dense"
    assert read(saved / "applications.h5").architecture.head == "mean/dense"
    assert convert(saved / "applications.h5", out=None).notes == ()


def without_last_relu(text):
    """A configuration whose last ReLU is passed by."""
    config = json.loads(text)
    layers = config["config"]["layers"]
    relu = [layer for layer in layers if layer["class_name"] == "ReLU"][-1]
    pool = next(layer for layer in layers if layer["class_name"] == "GlobalAveragePooling2D")
    pool["inbound_nodes"] = relu["inbound_nodes"]
    layers.remove(relu)
    return json.dumps(config)


# -- files without names ---------------------------------------------------------------------------------------------


def forget(file):
    """Take the layers' names out of a `.weights.h5`, as Keras before 3.6 had none."""
    named = []
    file.visititems(lambda _, node: named.append(node) if "name" in node.attrs else None)
    for node in named:
        del node.attrs["name"]


@pytest.mark.parametrize("name", ["titu1994", "applications", "kimm", "hub-notop"])
def test_weights_without_names_fit_several_layouts_and_the_user_says_which(saved, tmp_path, name):
    """Candidates are shown; told which one it is, the order is enough."""
    family = name.partition("-")[0]
    if name.endswith("-notop"):
        convert(saved / f"{name}.h5", dst="keras-hub", out=tmp_path / "named.weights.h5")
    named = tmp_path / "named.weights.h5" if name.endswith("-notop") else saved / f"{name}.weights.h5"
    nameless = changed(named, tmp_path / "nameless.weights.h5", bare)

    with pytest.raises(MisfitError, match=f"layouts fit equally: .*{LAYOUTS[family]}"):
        convert(nameless, out=None)

    done = convert(nameless, out=tmp_path / "port.safetensors", src=LAYOUTS[family])
    named_weights = read(named, src=LAYOUTS[family]).weights
    assert {slot: array.tobytes() for slot, array in done.source.weights.items()} == {
        slot: array.tobytes() for slot, array in named_weights.items()
    }


def bare(file):
    """As `forget`, and without what densenet-port itself wrote."""
    forget(file)
    if "densenet_port" in file:
        forget_us(file)


def test_a_classifier_of_kerashub_is_known_by_the_class_of_its_backbone(saved, tmp_path):
    """That is the one name that a file of an older Keras keeps."""
    nameless = changed(saved / "hub.weights.h5", tmp_path / "nameless.weights.h5", forget)

    done = convert(nameless, out=tmp_path / "port.safetensors")

    assert done.source.layout == "keras-hub"
    assert max(farthest(read(tmp_path / "port.safetensors"), truth(saved, "hub"))) <= FULL


def test_what_numbers_alone_say_is_told(saved, tmp_path):
    """A network that only looks like titu1994's would have another epsilon or stem."""
    done = convert(saved / "titu1994.h5", out=None)

    said = "its layers have no names of their own: taken by their order for titu1994's"
    assert f"{said} (epsilon 1.1e-05 and same stem padding)" in done.notes


def test_a_norm_that_is_missing_in_the_order_is_told(saved, tmp_path):
    """Without names, what is left would be counted wrongly."""

    def lose(file):
        layers = [name for name in file.attrs["layer_names"] if name != "batch_normalization_4"]
        file.attrs["layer_names"] = layers

    broken = changed(saved / "titu1994.h5", tmp_path / "broken.h5", lose)

    with pytest.raises(MisfitError, match="its norms are not: expected 18, found 17"):
        convert(broken, out=None)


# -- near misses -----------------------------------------------------------------------------------------------------


def test_kerashub_and_keras_applications_are_told_apart(saved, tmp_path):
    """A file with the layers of one and a transition of the other is neither: its structure tells what is what."""

    def mix(file):
        swap = {"transition1_bn": "pool2_bn", "transition1_conv": "pool2_conv"}
        for old, new in swap.items():
            file.move(old, new)
        file.attrs["layer_names"] = [swap.get(name, name) for name in file.attrs["layer_names"]]

    mixed = changed(saved / "hub-notop.h5", tmp_path / "mixed.h5", mix)

    numbers = "layers=2-3-2,growth_rate=8,init_channels=64"
    assert read(mixed).layout == "structure"
    with pytest.raises(MisfitError, match=f"10 misfits as keras-hub {numbers}"):
        read(mixed, src="keras-hub")


def test_the_first_norm_of_one_is_not_the_second_of_the_other(saved):
    """`_1_bn` is norm1 in KerasHub's names and norm2 in keras.applications'."""
    hub, applications = read(saved / "hub.h5"), read(saved / "applications.h5")

    spelled = {told.layout: told.ledger.unit_name("block1.layer1.norm2") for told in (hub, applications)}

    assert spelled == {"keras-hub": "stack1_block1_2_bn", "keras-applications": "conv2_block1_1_bn"}


def test_a_head_alone_is_no_network(tmp_path):
    """KerasHub's presets keep it in a file of its own, `task.weights.h5`."""
    with h5py.File(tmp_path / "task.weights.h5", "w") as file:
        group = file.create_group("layers/dense/vars")
        group.attrs["name"] = "predictions"
        group["0"], group["1"] = np.ones((64, 7), "f4"), np.ones(7, "f4")
        file.create_group("vars")

    with pytest.raises(MisfitError) as error:
        convert(tmp_path / "task.weights.h5", out=None)

    assert "it holds a head without a network: predictions/kernel, predictions/bias" in error.value.message
    assert error.value.hint == (
        "take the file of the whole network; KerasHub's presets keep the body in another one beside it"
    )


# -- what a whole model says -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["-whole.h5", ".keras"])
def test_a_whole_model_says_its_output(saved, container):
    """CheXNet's is a sigmoid, keras.applications' a softmax; weights alone do not tell."""
    found = {name: read(saved / f"{name}{container}").contract.output for name in ("chexnet", "applications")}

    assert found == {"chexnet": "sigmoid", "applications": "softmax"}
    assert read(saved / "chexnet.h5").contract.output == "softmax"


@pytest.mark.parametrize(("epsilon", "padding"), [(1e-3, "same"), (1e-5, "valid")])
def test_a_whole_model_that_only_looks_like_titu1994s_says_its_own_contract(saved, tmp_path, epsilon, padding):
    """Automatic names are any Keras user's; the graph's own epsilon and padding count."""

    def other(text):
        config = json.loads(text)
        layers = config["config"]["layers"]
        for layer in list(layers):
            if layer["class_name"] == "BatchNormalization":
                layer["config"]["epsilon"] = epsilon
            if layer["config"].get("strides") == [2, 2] and layer["class_name"] != "AveragePooling2D":
                layer["config"]["padding"] = padding
                if padding == "valid":
                    zeros_before(layer, layers)
        return json.dumps(config)

    told = read(edited(saved / "titu1994-whole.h5", tmp_path / "other.h5", other))

    expected = {"same": "same", "valid": "symmetric"}[padding]
    assert (told.contract.epsilon, told.contract.stem_padding) == (epsilon, expected)


def zeros_before(layer, layers):
    """Put half a kernel of zeros around what a layer reads."""
    width = (layer["config"].get("kernel_size") or layer["config"]["pool_size"])[0] // 2
    name = f"zeros_{width}"
    pad = {"class_name": "ZeroPadding2D", "name": name, "config": {"name": name, "padding": [[width] * 2] * 2}}
    layers.append(pad | {"inbound_nodes": layer["inbound_nodes"]})
    text = json.dumps(layer["inbound_nodes"])
    (history,) = re.findall(r'"keras_history": (\[[^]]*\])', text)
    layer["inbound_nodes"] = json.loads(text.replace(history, json.dumps([name, 0, 0])))


def test_an_archive_without_names_says_whose_class_it_holds(saved, tmp_path):
    """Its classes are registered as kimm's, so that an archive of a Keras before 3.6 needs no option."""
    convert(saved / "kimm.h5", out=tmp_path / "port.safetensors")
    convert(tmp_path / "port.safetensors", dst="kimm", out=tmp_path / "named.weights.h5")
    nameless = changed(tmp_path / "named.weights.h5", tmp_path / "nameless.weights.h5", bare)
    config = {"class_name": "DenseNet121", "config": {"name": "m"}, "registered_name": "kimm>DenseNet121"}
    with zipfile.ZipFile(tmp_path / "published.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.write(nameless, "model.weights.h5")

    done = convert(tmp_path / "published.keras", out=None)

    assert (done.source.layout, len(done.source.weights)) == ("kimm", 91)
