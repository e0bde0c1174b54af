"""Where each entry of a contract is known from, and that what is assumed stays an assumption."""

import json
import zipfile

import h5py
import numpy as np
import pytest
import torch

import densenet_port as dp
from densenet_port.errors import CorruptError, MisfitError, UsageError
from densenet_port.network.contract import ENTRIES, Input, Resize
from tests.support.networks import checkpoint_file

SMALL = "layers=2-1,growth_rate=4,init_channels=8,classes={}"

OF_ALL = tuple(key for key in ENTRIES if key != "head_pool")  # which no head but a flattened map's has


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """State dicts of torchvision's, by their number of classes."""
    folder = tmp_path_factory.mktemp("origins")
    return {classes: checkpoint_file(folder, SMALL.format(classes), "zip") for classes in (1, 7, 1000)}


def origins(network):
    """The entries of each origin."""
    return {origin: [key for key in OF_ALL if network.origins[key] == origin] for origin in network.origins.values()}


def test_a_state_dict_of_the_software_s_own_classes(files):
    """Everything is what torchvision builds; with other classes the pictures were somebody else's."""
    assert origins(dp.read(files[1000])) == {"software": [*OF_ALL]}
    assert origins(dp.read(files[7])) == {"software": [*OF_ALL[:-1]], "assumed": ["input"]}


def test_a_habitual_softmax_is_an_assumption_and_never_over_one_class(tmp_path):
    """Of a layout whose own networks end in one."""
    found = {}
    for classes in (1, 7, 1000):
        file = checkpoint_file(tmp_path, f"layers=1-1,growth_rate=32,init_channels=64,classes={classes}", "zip")
        dp.convert(file, out=tmp_path / "x.safetensors", dst="keras-applications", force=True)
        network = dp.read(without_record(tmp_path / "x.safetensors"))
        found[classes] = network.contract.output, network.origins["output"]

    assert found == {1: ("logits", "assumed"), 7: ("softmax", "assumed"), 1000: ("softmax", "software")}


def without_record(path):
    """The tensors of a safetensors file alone."""
    from safetensors.numpy import load_file, save_file

    save_file(load_file(path), path)
    return path


def test_a_word_of_the_user_s(files):
    """It takes the place of what nothing in the file tells, and nothing else changes."""
    picture = Input(order="bgr", scale=1.0, mean=(104.0, 117.0, 124.0), std=(1.0, 1.0, 1.0))

    network = dp.read(files[7], contract={"epsilon": 1e-3, "input": picture})

    assert (network.contract.epsilon, network.contract.input) == (1e-3, picture)
    assert origins(network) == {
        "user": ["epsilon", "input"],
        "software": ["stem_stride", "stem_padding", "stem_pool", "pool_rounding", "output"],
    }


def test_a_resizing_is_known_where_the_software_s_pictures_are(files, tmp_path):
    """It goes from file to file, is nobody's where the pictures were, and gives way to a word: it is no function."""
    known, own = Resize(), Resize(size=(288, 288), crop=0.95, interpolation="bicubic")
    dp.convert(files[1000], out=tmp_path / "known.safetensors", dst="keras")
    dp.convert(files[7], out=tmp_path / "unknown.safetensors")
    dp.convert(tmp_path / "known.safetensors", out=tmp_path / "own.h5", contract={"resize": own})

    networks = [dp.read(files[1000]), dp.read(files[7])]
    networks += [dp.read(tmp_path / name) for name in ("known.safetensors", "unknown.safetensors", "own.h5")]

    assert [(network.contract.resize, network.origins.get("resize")) for network in networks] == [
        (known, "software"),
        (None, None),
        (known, "software"),
        (None, None),
        (own, "user"),
    ]
    assert "resize" not in networks[3].checkpoint.record["contract"]
    assert dp.diff(tmp_path / "known.safetensors", tmp_path / "own.h5").same


def test_words_that_mean_nothing(files):
    """An entry that is none, a value that none has."""
    with pytest.raises(UsageError, match="a contract has no entry 'momentum'"):
        dp.read(files[7], contract={"momentum": 0.1})
    with pytest.raises(UsageError, match="stem_pool: expected one of max, blur, none, found 'mean'"):
        dp.read(files[7], contract={"stem_pool": "mean"})


@pytest.mark.parametrize("ending", [".weights.h5", ".keras", ".safetensors", ".h5"])
def test_origins_stay_from_file_to_file(files, tmp_path, ending):
    """A graph that densenet-port wrote knows no more than what it was written from."""
    first, second = tmp_path / f"first{ending}", tmp_path / f"second{ending}"
    dp.convert(files[7], out=first, contract={"stem_pool": "none"})
    dp.convert(first, out=second)

    kept = {
        "software": ["epsilon", "stem_stride", "stem_padding", "pool_rounding", "output"],
        "user": ["stem_pool"],
        "assumed": ["input"],
    }
    assert origins(dp.read(first)) == kept
    assert origins(dp.read(second)) == kept


def test_a_record_is_contradicted_by_no_word_but_an_assumption_is(files, tmp_path):
    """What was assumed when a file was written may be known by somebody now."""
    path = tmp_path / "x.weights.h5"
    dp.convert(files[7], out=path)

    network = dp.read(path, contract={"epsilon": 1e-3})

    assert (network.contract.epsilon, network.origins["epsilon"]) == (1e-3, "user")


def test_a_graph_that_was_changed_under_its_record_is_refused(files, tmp_path):
    """Whichever of the two is right."""
    path = tmp_path / "x.keras"
    dp.convert(files[7], out=path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data.replace(b'"epsilon": 1e-05', b'"epsilon": 0.001'))

    with pytest.raises(MisfitError, match=r"its graph has the epsilon 0.001, its record 1e-05"):
        dp.read(path)


def test_origins_that_are_none_are_damage(files, tmp_path):
    """What stands in a record is checked when it is read."""
    path = tmp_path / "x.weights.h5"
    dp.convert(files[7], out=path)
    with h5py.File(path, "r+") as file:
        record = json.loads(bytes(file["densenet_port/vars/0"][()]))
        kept = {key: value for key, value in record.items() if key not in ("schema", "sha256", "rest")}
        text = json.dumps(kept | {"origins": {"epsilon": "hearsay"}})
        del file["densenet_port/vars/0"]
        file["densenet_port/vars/0"] = np.frombuffer(text.encode(), np.uint8)

    with pytest.raises(
        CorruptError, match="origins.epsilon: expected one of graph, record, statistics, software, user, assumed"
    ):
        dp.read(path)


def test_a_target_that_leaves_an_activation_out_says_so(files, tmp_path):
    """And one that keeps it says nothing."""
    words = {"output": "sigmoid"}

    left = dp.convert(files[7], out=tmp_path / "x.pth", dst="torchvision", contract=words)
    kept = dp.convert(files[7], out=tmp_path / "x.onnx", dst="onnx", contract=words)

    assert "the network ends in sigmoid, and a file of torchvision in logits" in left.notes
    assert [note for note in kept.notes if "sigmoid" in note] == []


def test_the_line_of_assumptions(files, tmp_path):
    """One line, of what nothing in the file tells; nothing of it where a record says the rest."""
    rest = "as torchvision's software builds it, which weights alone do not tell"
    picture = "input rgb, scale 255, mean 0.485/0.456/0.406, std 0.229/0.224/0.225"

    lines = {
        classes: dp.convert(file, out=tmp_path / f"{classes}.weights.h5").assumption for classes, file in files.items()
    }

    assert (lines[1000], lines[7]) == (f"assumed: {rest}", f"assumed: {picture}; the rest {rest}")
    assert dp.convert(tmp_path / "7.weights.h5", out=tmp_path / "y.weights.h5").assumption == f"assumed: {picture}"


@pytest.mark.parametrize("rename", [str, lambda name: name.replace("dense", "thick").replace("norm", "n")])
def test_a_state_dict_in_memory_is_read_like_its_file(files, tmp_path, rename):
    """By a table or by structure; what is written of it records the digest of what it held."""
    state = torch.load(files[7], weights_only=True)
    renamed = {rename(name): tensor for name, tensor in state.items()}
    torch.save(renamed, tmp_path / "state.pth")

    network, of_file = dp.read(renamed), dp.read(tmp_path / "state.pth")

    assert (network.layout, network.architecture) == (of_file.layout, of_file.architecture)
    assert all(np.array_equal(network.weights[slot], array) for slot, array in of_file.weights.items())
    written = dp.read(network.write(tmp_path / "out.safetensors").out)
    assert len(written.checkpoint.record["source"]["sha256"]) == 64
    assert dp.read({name: tensor.numpy() for name, tensor in renamed.items()}).architecture == network.architecture
