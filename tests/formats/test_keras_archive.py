"""`.keras` archives are read as Keras means them, Keras builds our networks from ours, hostile ones end in an error."""

import io
import json
import zipfile
from dataclasses import replace

import h5py
import pytest

from densenet_port.errors import CorruptError, UsageError
from densenet_port.formats.keras import archive as keras_archive
from densenet_port.formats.keras.h5_write import write_weights_h5
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.follow import follow
from tests.support.containers import SMALL, blueprint, content, peak, telling, true, weights
from tests.support.keras_process import loaded_by_keras, real_files, truth

CIFAR = Architecture(
    layers=(2, 2), growth_rate=3, init_channels=6, bottleneck=0, reduction=0.0, stem="cifar", channels=1, classes=3
)
DEEP = replace(SMALL, stem="deep")
NETWORKS = {
    "ImageNet's stem": (SMALL, Contract()),
    "same padding, softmax": (SMALL, Contract(epsilon=1e-3, stem_padding="same", output="softmax")),
    "CIFAR's stem, sigmoid, grey": (CIFAR, Contract(epsilon=1.1e-5, output="sigmoid")),
    "without head": (SMALL.without_head(), Contract()),
    "deep stem, blur pool, rounding up": (DEEP, Contract(stem_pool="blur", pool_rounding="ceil")),
    "deep stem, same padding": (DEEP, Contract(stem_padding="same")),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What Keras builds from our archive, and its own network with our weights: name of the case → both."""
    folder = tmp_path_factory.mktemp("built")
    cases = []
    for number, (arch, contract) in enumerate(NETWORKS.values()):
        for name, write in ((".keras", keras_archive.write), (".weights.h5", write_weights_h5)):
            write(folder / f"{number}{name}", weights(arch), telling(arch, contract), blueprint(arch, contract))
            cases.append((arch, contract, folder / f"{number}{name}"))
    found = loaded_by_keras(*cases)
    return dict(zip(NETWORKS, zip(found[::2], found[1::2], strict=True), strict=True))


def archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def members(name="automatic.keras"):
    """The members of an archive that Keras wrote: name → bytes."""
    with zipfile.ZipFile(real_files() / name) as file:
        return {entry: file.read(entry) for entry in file.namelist()}


def without_names(data):
    """The weights as Keras 3.5 kept them, without the names of layers."""
    buffer = io.BytesIO(data)
    with h5py.File(buffer, "r+") as file:
        file.visititems(lambda _, node: node.attrs.pop("name", None) and None)
    return buffer.getvalue()


# -- what Keras wrote ------------------------------------------------------------------------------------------------


def test_an_archive_has_keras_own_tensors_in_the_model_s_order():
    """The configuration lists the layers as the model does."""
    found = keras_archive.read(real_files() / "automatic.keras")

    assert content(found.tensors) == true(truth("automatic"))


def test_version_and_configuration_are_metadata():
    """What the configuration says of the network is its graph."""
    found = dict(keras_archive.read(real_files() / "automatic.keras").metadata)
    assert found.pop("layers")[:3] == ["input_layer", "stem", "batch_normalization"]

    assert found == {"keras_version": "3.15.1", "config": found["config"], "kernels": "tensorflow"}


def test_the_optimizer_comes_last():
    """A compiled model's other half is called so."""
    found = list(keras_archive.read(real_files() / "compiled.keras").tensors)

    network = list(truth("automatic"))
    assert found == [*network, *(f"optimizer/{n}" for n in range(len(found) - len(network)))]


def test_a_model_within_a_model_stands_before_its_layers():
    """By its class, as in `.weights.h5`."""
    inner = ("conv", "norm", "last")
    expected = {f"functional/{k}" if k.split("/")[0] in inner else k: array for k, array in truth("nested").items()}

    assert sorted(content(keras_archive.read(real_files() / "nested.keras").tensors)) == sorted(true(expected))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_layers_have_their_names_where_the_weights_do_not(compression, tmp_path):
    """The configuration gives them; an archive may have been packed anew, in another order."""
    parts = members()
    parts["model.weights.h5"] = without_names(parts["model.weights.h5"])
    path = archive(tmp_path / "x", dict(reversed(parts.items())), compression)

    assert content(keras_archive.read(path).tensors) == true(truth("automatic"))


def test_a_model_of_one_s_own_class_keeps_the_names_in_the_weights(tmp_path):
    """Its configuration lists no layers."""
    config = json.dumps({"class_name": "Net", "config": {"width": 3}})
    path = archive(tmp_path / "x", members() | {"config.json": config})

    assert sorted(content(keras_archive.read(path).tensors)) == sorted(true(truth("automatic")))


# -- what we write ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", NETWORKS)
def test_keras_builds_the_network_that_the_contract_says(case, built):
    """Tensors and outputs are those of Keras's own layers with our weights, bit by bit."""
    from_archive, reference = built[case]

    assert true(from_archive) == true(reference)


@pytest.mark.parametrize("case", NETWORKS)
def test_what_we_write_reads_back_the_same(case, tmp_path):
    """In order, with the epsilon of the contract in its configuration."""
    arch, contract = NETWORKS[case]
    keras_archive.write(tmp_path / "x", weights(arch), telling(arch, contract), blueprint(arch, contract))

    found = keras_archive.read(tmp_path / "x")
    assert content(found.tensors) == content(weights(arch))
    facts = follow(found.graph(), arch, blueprint(arch, contract).layers).facts
    assert facts == {key: getattr(contract, key) for key in facts}


def test_layers_without_weights_give_way_to_ours(tmp_path):
    """No two layers of the network have the same name."""
    taken = {"stem_conv": "input_layer", "stem_norm": "stem_relu", "final_norm": "block1_layer1_concat"}
    tensors, layout = renamed(taken)
    keras_archive.write(tmp_path / "x", tensors, telling(), layout)

    names = [layer["name"] for layer in keras_archive.read(tmp_path / "x").metadata["config"]["config"]["layers"]]
    assert len(set(names)) == len(names)


def test_members_are_stored_without_a_date(tmp_path):
    """The three that Keras reads, in its order."""
    keras_archive.write(tmp_path / "x", weights(), telling(), blueprint())

    with zipfile.ZipFile(tmp_path / "x") as file:
        found = [(entry.filename, entry.compress_type, entry.date_time) for entry in file.infolist()]
    epoch = (1980, 1, 1, 0, 0, 0)
    assert found == [(name, 0, epoch) for name in ("metadata.json", "config.json", "model.weights.h5")]


def test_the_checksums_are_right(tmp_path):
    """A zip tool finds nothing wrong, though the weights were streamed into it."""
    keras_archive.write(tmp_path / "x", weights(), telling(), blueprint())

    with zipfile.ZipFile(tmp_path / "x") as file:
        assert file.testzip() is None


def test_memory_is_that_of_a_tensor(tmp_path):
    """Sixteen megabytes of a network pass through less than five, out and in."""
    arch = Architecture(layers=(2,), growth_rate=512, init_channels=64, bottleneck=1, classes=None)
    tensors = weights(arch)
    total = sum(item.load().nbytes for item in tensors.values())

    def there_and_back():
        keras_archive.write(tmp_path / "x", tensors, telling(arch), blueprint(arch))
        for item in keras_archive.read(tmp_path / "x").tensors.values():
            item.load()

    largest = max(item.load().nbytes for item in tensors.values())
    assert peak(there_and_back) < largest + 2 * 2**20 < total


def without(name):
    return {key: item for key, item in weights().items() if not key.startswith(name)}


def renamed(layers):
    """The tensors and the blueprint of a layout that calls some layers otherwise."""

    def new(name):
        layer, slash, variable = name.partition("/")
        return layers.get(layer, layer) + slash + variable

    ours = blueprint()
    parts = {unit: {part: new(name) for part, name in names.items()} for unit, names in ours.tensors.items()}
    names = {unit: new(layer) for unit, layer in ours.layers.items()}
    return {new(name): item for name, item in weights().items()}, replace(ours, layers=names, tensors=parts)


def exchanged():
    """The first layer's two convolutions, one for the other."""
    names = ("block1_layer1_conv1/kernel", "block1_layer1_conv2/kernel")
    return {name: weights()[names[names[0] == name]] if name in names else item for name, item in weights().items()}


def with_kernels_called_w():
    """The tensors and the blueprint of a layout that calls a kernel as Keras 1 did."""
    ours, conv = blueprint(), "stem_conv/kernel"
    tensors = {name.replace(conv, "stem_conv/W"): item for name, item in weights().items()}
    return tensors, replace(ours, tensors={**ours.tensors, "stem.conv": {"kernel": "stem_conv/W"}})


NETWORK, FIRST, DENSE = f"a .keras of {SMALL.name}", "block1_layer1_conv1/kernel", "head_dense/kernel (12, 5)"


@pytest.mark.parametrize(
    ("tensors", "layout", "message"),
    [
        (without("head_dense"), blueprint(), f"{NETWORK} has 18 layers with weights, found 17"),
        (
            exchanged(),
            blueprint(),
            f"{NETWORK} needs {FIRST} (1, 1, 8, 16) for block1.layer1.conv1, found {FIRST} (3, 3, 16, 4)",
        ),
        (
            without("head_dense/bias"),
            blueprint(),
            f"{NETWORK} needs {DENSE}, head_dense/bias (5,) for head.dense, found {DENSE}",
        ),
        (
            weights(),
            renamed({"stem_conv": "conv1"})[1],
            f"{NETWORK} needs conv1/kernel (7, 7, 3, 8) for stem.conv, found stem_conv/kernel (7, 7, 3, 8)",
        ),
        (*renamed({"stem_conv": "stem/conv"}), "'stem/conv' cannot name a layer of Keras 3"),
        (*with_kernels_called_w(), "stem_conv cannot be written as .weights.h5: its variables are W"),
    ],
)
def test_tensors_of_another_network_are_refused(tensors, layout, message, tmp_path):
    """The configuration would describe another network than the weights are for."""
    with pytest.raises(UsageError) as caught:
        keras_archive.write(tmp_path / "x", tensors, telling(), layout)
    assert caught.value.message == message


def test_tensors_without_a_blueprint_are_refused(tmp_path):
    """There is nothing to build."""
    with pytest.raises(UsageError) as caught:
        keras_archive.write(tmp_path / "x", weights(), telling())
    assert (caught.value.message, caught.value.hint) == (
        "a .keras holds a graph, and nothing says which network the tensors are of",
        "pass a blueprint, or choose .weights.h5, which holds weights alone",
    )


# -- hostile files ---------------------------------------------------------------------------------------------------


def changed(path, old, new):
    """A zip with some bytes of its headers replaced, of the same length."""
    path.write_bytes(path.read_bytes().replace(old, new))
    return path


def no_weights(path):
    return archive(path, {"metadata.json": "{}", "config.json": "{}"})


def no_config(path):
    return archive(path, {"metadata.json": "{}", "model.weights.h5": members()["model.weights.h5"]})


def no_hdf5(path):
    return archive(path, members() | {"model.weights.h5": b"weights, honestly"})


def no_json(path):
    return archive(path, members() | {"config.json": "{"})


def config_without_classes(path):
    return archive(path, members() | {"config.json": '{"config": {"layers": [{}]}}'})


def deep_config(path):
    return archive(path, members() | {"config.json": '{"a":' * 50_000})


def long_config(path):
    return archive(path, members() | {"config.json": " " * (65 * 2**20)}, zipfile.ZIP_DEFLATED)


def encrypted(path):
    return changed(archive(path, members()), b"PK\x01\x02\x14\x03\x14\0\0\0", b"PK\x01\x02\x14\x03\x14\0\x01\0")


def other_compression(path):
    return archive(path, members(), zipfile.ZIP_BZIP2)


def bomb(path):
    """A member that says it unpacks to far more than deflate can."""
    size = len(members()["config.json"])
    archive(path, members(), zipfile.ZIP_DEFLATED)
    return changed(path, size.to_bytes(4, "little"), (2**31).to_bytes(4, "little"))


def twice(path):
    archive(path, members() | {"config.jsoN": "{}"})
    return changed(path, b"config.jsoN", b"config.json")


def member_beyond_the_file(path):
    size = len(members()["model.weights.h5"])
    return changed(archive(path, members()), size.to_bytes(4, "little"), (size + 2**30).to_bytes(4, "little"))


def directory_elsewhere(path):
    archive(path, members())
    data = path.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    path.write_bytes(data[: end + 16] + b"\xff\xff\xff\x7f" + data[end + 20 :])
    return path


HOSTILE = {
    no_weights: "no model.weights.h5 in it",
    no_config: "no config.json in it",
    no_hdf5: "no HDF5",
    no_json: "broken Keras archive: JSONDecodeError",
    config_without_classes: "broken Keras archive: KeyError: 'class_name'",
    deep_config: "broken Keras archive: RecursionError",
    long_config: "config.json has 68157440 bytes",
    encrypted: "of the zip is encrypted, or compressed by other means than deflate",
    other_compression: "of the zip is encrypted, or compressed by other means than deflate",
    bomb: "member 'config.json' of the zip cannot hold 2147483648 bytes in",
    twice: "two members of the zip are called 'config.json'",
    member_beyond_the_file: "beyond the file's",
    directory_elsewhere: "a zip cannot have a directory of",
}


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_a_hostile_archive_is_refused_by_name(make, tmp_path):
    """Nothing is unpacked beyond its bounds, and nothing is guessed."""
    path = make(tmp_path / "x")

    with pytest.raises(CorruptError) as caught:
        keras_archive.read(path)
    assert HOSTILE[make] in caught.value.message


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("metadata.json", True),
        ("config.json", True),
        ("model.weights.h5", True),
        ("assets/words.txt", True),
        ("archive/data.pkl", False),
        ("readme.txt", False),
    ],
)
def test_an_archive_is_known_by_its_first_member(first, expected, tmp_path):
    """PyTorch's files are zips, too."""
    path = archive(tmp_path / "x", {first: "", "model.weights.h5 ": ""})

    assert keras_archive.sniff(path, path.read_bytes()[:4096]) is expected
