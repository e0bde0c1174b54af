"""Folders of the Hub: timm writes them, or KerasHub's own texts stand in them; what they say is believed or refused.

Networks are timm's own, small ones with random statistics; of the published ones timm tells the names, the shapes and
the configuration, and no number of them is looked at.
"""

import json
import shutil
import struct
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import save_torch_state_dict
from timm.models import save_for_hf
from timm.models._hub import save_config_for_hf

import densenet_port as dp
from densenet_port.conversion import folder as folders
from densenet_port.errors import CorruptError, DiskError, MisfitError, UsageError
from densenet_port.network.contract import Input, Resize
from tests.support.networks import checkpoint_file, images
from tests.support.torch_networks import logits, randomised

ALONE = "correct it, or read the weights from a folder without it"
SMALL = {"growth_rate": 8, "block_config": (2, 3, 2)}
LABELS = [f"finding {number}" for number in range(14)]
PRESET = Path(__file__).parents[1] / "data" / "keras-hub"  # what KerasHub 0.32.0 wrote with Keras 3.15.1
PUBLISHED = {
    "densenet121": ("torchvision", "121", "max"),
    "densenet161": ("torchvision", "161", "max"),
    "densenet169": ("torchvision", "169", "max"),
    "densenet201": ("torchvision", "201", "max"),
    "densenetblur121d": ("timm-blur", "121d", "blur"),
    "densenet264d": ("timm-deep", "264d", "max"),
}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A fine-tune as timm writes it: 14 classes, one channel, a mean, a crop and names of its own."""
    folder = tmp_path_factory.mktemp("tuned")
    return small_folder(
        folder,
        "densenet121",
        14,
        1,
        model_config={"label_names": LABELS},
        data_config={"mean": (0.5,), "std": (0.25,), "crop_pct": 1.0, "input_size": (1, 320, 320)},
    )


def small_folder(folder, name, classes, channels, **words):
    """A small network of timm's, by timm's own writer."""
    network = randomised(
        lambda: timm.create_model(name, num_classes=classes, in_chans=channels, **SMALL), channels, seed=3
    )
    save_for_hf(network, folder, safe_serialization="both", **words)
    return folder


def loaded(folder):
    """The network that timm makes of a folder, evaluating."""
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def changed(folder, to, change):
    """A copy of a folder, with a change of what its configuration holds."""
    shutil.copytree(folder, to)
    content = json.loads((to / "config.json").read_text())
    change(content)
    (to / "config.json").write_text(json.dumps(content))
    return to


# -- timm --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_of_timms(name, tmp_path, monkeypatch):
    """Their names, shapes and configuration by timm, in and out; the numbers are zeros that take no room."""
    with torch.device("meta"):
        network = timm.create_model(name)
    (tmp_path / "in").mkdir()
    save_config_for_hf(network, tmp_path / "in" / "config.json")
    hollow(tmp_path / "in" / "model.safetensors", network.state_dict())
    monkeypatch.setattr(folders, "write_plan", lambda part, path, *_: path.touch() or replace(part, out=path))

    read = dp.read(tmp_path / "in")
    read.write(f"{tmp_path}/out/", layout=read.layout)

    contract = read.contract
    assert (read.layout, read.architecture.name, contract.stem_pool) == PUBLISHED[name]
    assert contract.resize == Resize(size=(224, 224), crop=0.875, interpolation="bicubic")
    assert {read.origins[key] for key in ("input", "resize", "stem_pool")} == {"record"}
    first, second = (json.loads((tmp_path / at / "config.json").read_text()) for at in ("in", "out"))
    own = first["pretrained_cfg"]
    for key in ("tag", "test_input_size", "test_crop_pct", "pool_size", "license"):  # of how it was trained
        own.pop(key, None)
    assert second == first


def hollow(path, state):
    """A safetensors file of tensors of a state dict's names and shapes, with a hole where their zeros are."""
    header, at = {}, 0
    for key, tensor in state.items():
        size = prod(tensor.shape) * tensor.element_size()
        kind = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        header[key] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with path.open("r+b") as file:
        file.truncate(8 + len(text) + at)


def test_a_fine_tune_goes_in_and_out(tuned, tmp_path):
    """Its pictures, its classes' names and its logits; no ImageNet's mean anywhere."""
    read = dp.read(tuned)
    done = dp.convert(tuned, dst="torchvision", out=f"{tmp_path}/new/")

    picture = Input(order="grey", mean=(0.5,), std=(0.25,))
    assert (read.contract.input, read.checkpoint.metadata["labels"]) == (picture, LABELS)
    assert read.contract.resize == Resize(size=(320, 320), crop=1.0, interpolation="bicubic")
    assert (done.contract, done.record["labels"]) == (read.contract, LABELS)
    source, port, pixels = loaded(tuned), loaded(tmp_path / "new"), images(2, 64, 1)
    assert np.array_equal(logits(port, pixels), logits(source, pixels))
    configs = [timm.data.resolve_model_data_config(network) for network in (source, port)]
    assert (configs[1], port.pretrained_cfg["label_names"]) == (configs[0], LABELS)
    again = dp.read(tmp_path / "new")
    assert (again.contract, again.origins, again.checkpoint.metadata["labels"]) == (read.contract, read.origins, LABELS)
    assert dp.verify(tmp_path / "new").path == tmp_path / "new" / "model.safetensors"


def test_a_blur_pool_by_its_name_alone(tmp_path):
    """Numbers that timm does not publish are of two layouts; the configuration says which."""
    small_folder(tmp_path / "blur", "densenetblur121d", 5, 3)

    read = dp.read(tmp_path / "blur")

    pixels = images(2, 64)
    source = logits(loaded(tmp_path / "blur"), pixels)
    assert (read.layout, read.origins["stem_pool"]) == ("timm-blur", "record")
    assert np.abs(read(pixels) - source).max() <= 1e-10 * source.std()


def test_a_network_of_full_size_goes_in_and_out(tmp_path):
    """Timm's densenetblur121d: timm makes the same network of the new folder."""
    network = timm.create_model("densenetblur121d").eval()
    save_for_hf(network, tmp_path / "in", safe_serialization=True)

    dp.convert(tmp_path / "in", dst="timm-blur", out=f"{tmp_path}/out/")

    pixels = images(1, 32)
    assert np.array_equal(logits(loaded(tmp_path / "out"), pixels), logits(network, pixels))


def test_what_is_assumed_is_not_written_as_a_fact(tuned, tmp_path):
    """A file without a configuration has nobody's mean; the folder that is written leaves it to timm."""
    shutil.copy(tuned / "model.safetensors", tmp_path / "alone.safetensors")

    done = dp.convert(tmp_path / "alone.safetensors", dst="torchvision", out=f"{tmp_path}/new/")

    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["pretrained_cfg"].keys() == {
        *("custom_load", "fixed_input_size", "num_classes", "first_conv", "classifier")
    }
    assert "how pictures are prepared is an assumption, and not written into config.json" in done.notes
    assert dp.read(tmp_path / "new").origins["input"] == "assumed"


PLANTED = {
    "classes": (
        lambda content: content.update(num_classes=10, label_names=LABELS[:10]),
        "{config} says densenet121 with classes 10, and {weights} has classes 14",
    ),
    "architecture": (
        lambda content: content.update(architecture="densenet169", model_args={"in_chans": 1}),
        (
            "{config} says densenet169 with layers 6-12-32-32, growth_rate 32, init_channels 64, "
            "and {weights} has layers 2-3-2, growth_rate 8, init_channels 16"
        ),
    ),
    "another": (
        lambda content: content.update(architecture="resnet50"),
        (
            "{config}: architecture: expected one of densenet121, densenet161, densenet169, densenet201, "
            "tv_densenet121, densenetblur121d, densenet264d, found 'resnet50'"
        ),
    ),
    "channels": (
        lambda content: content["model_args"].update(in_chans=3),
        "{config} says densenet121 with channels 3, and {weights} has channels 1",
    ),
    "mean": (
        lambda content: content["pretrained_cfg"].update(mean=[0.5, 0.5]),
        "{config}: pretrained_cfg.mean: expected one number, one for each channel, found [0.5, 0.5]",
    ),
    "crop": (
        lambda content: content["pretrained_cfg"].update(crop_pct=7),
        "{config}: pretrained_cfg.crop_pct: expected a share of the picture, found 7",
    ),
    "head": (
        lambda content: content["pretrained_cfg"].update(classifier="head.fc"),
        "{config}: pretrained_cfg.classifier: 'head.fc' is no name in {weights}, where it is 'classifier'",
    ),
    "labels": (
        lambda content: content.update(label_names=LABELS[:2]),
        "{config}: label_names: expected 14 names, one for each class, found '2 names'",
    ),
    "activation": (
        lambda content: content["model_args"].update(act_layer="silu"),
        "{config}: model_args.act_layer: expected 'relu', found 'silu'",
    ),
    "argument": (
        lambda content: content["model_args"].update(aa_layer="blurpc"),
        "{config}: model_args.aa_layer: nobody here knows what it does",
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_configuration_of_another_network(tuned, tmp_path, fault):
    """Both sides are named, and so for a file that is named by itself."""
    change, expected = PLANTED[fault]
    folder = changed(tuned, tmp_path / "x", change)

    for path in (folder, folder / "pytorch_model.bin"):
        weights = folder / "model.safetensors" if path == folder else path
        with pytest.raises(MisfitError) as caught:
            dp.read(path)
        text = expected.format(config=folder / "config.json", weights=weights)
        assert (caught.value.message, caught.value.hint) == (text, ALONE)


def test_the_maximum_in_front_of_the_head_is_heard(tuned, tmp_path):
    """Weights are the same for a mean; the configuration tells."""
    folder = changed(tuned, tmp_path / "x", lambda content: content.update(global_pool="max"))
    (config := json.loads((folder / "config.json").read_text()))["model_args"]["global_pool"] = "max"
    (folder / "config.json").write_text(json.dumps(config))

    read = dp.read(folder)

    pixels = images(2, 64, 1)
    truth = logits(loaded(folder), pixels)
    assert (read.architecture.head, np.abs(read(pixels) - truth).max() <= 1e-10 * truth.std()) == ("max/dense", True)


def test_a_configuration_that_is_none(tuned, tmp_path):
    """No JSON is damage, nor one without end; somebody else's is said and not believed, what is assumed stays so."""
    folder = tmp_path / "x"
    shutil.copytree(tuned, folder)
    (folder / "config.json").write_text('{"architecture": ')
    with pytest.raises(CorruptError, match=f"{folder}/config.json: is no JSON: Expecting value"):
        dp.read(folder)

    (folder / "config.json").write_text(f"[{'[],' * 600_000}[]]")
    with pytest.raises(CorruptError, match=f"{folder}/config.json: is a JSON text of more than 524288 values"):
        dp.read(folder)

    (folder / "config.json").write_text('{"architectures": ["DenseNetModel"], "model_type": "densenet"}')
    read = dp.read(folder)
    assert read.origins["input"] == "assumed"
    assert read.checkpoint.metadata["notes"] == [
        (
            f"{folder}/config.json is neither of keras-hub nor timm: nothing is taken from it, and what it says of "
            "pictures is not known"
        )
    ]


def test_a_word_against_the_configuration(tuned):
    """The folder knows what it is."""
    with pytest.raises(UsageError, match="the input is Input.* by the file's own record, and Input"):
        dp.read(tuned, contract={"input": Input()})


# -- shards ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[True, False], ids=["safetensors", "bin"])
def sharded(request, tuned, tmp_path_factory):
    """The fine-tune in shards, as huggingface_hub writes them."""
    folder = tmp_path_factory.mktemp("sharded")
    state = loaded(tuned).state_dict()
    save_torch_state_dict(state, folder, max_shard_size="60KB", safe_serialization=request.param)
    shutil.copy(tuned / "config.json", folder)
    return folder


def test_shards_are_one_checkpoint(sharded, tuned, tmp_path):
    """Every tensor is there once, and what is written of them records a digest of all the files."""
    (index,) = sharded.glob("*.index.json")

    written = dp.convert(sharded, out=tmp_path / "x.safetensors")

    difference = dp.diff(index, tuned)
    source = difference.first.checkpoint
    assert (difference.same, source.path, len(source.parts) > 1) == (True, index, True)
    assert written.contract.input == Input(order="grey", mean=(0.5,), std=(0.25,))
    assert len(written.record["source"]["sha256"]) == 64
    shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    (sharded / shards[0]).rename(tmp_path / "away")
    try:
        with pytest.raises(CorruptError) as caught:
            dp.read(sharded)
    finally:
        (tmp_path / "away").rename(sharded / shards[0])
    assert caught.value.message == f"{index}: 1 of {len(shards)} shards are missing: {shards[0]}"


def test_an_index_that_does_not_say_what_is_there(sharded, tmp_path):
    """A shard elsewhere, a tensor in another shard, in none, and one too many."""
    folder = tmp_path / "x"
    shutil.copytree(sharded, folder)
    (index,) = folder.glob("*.index.json")
    content = json.loads(index.read_text())
    places = content["weight_map"]
    name, shard = next(iter(places.items()))
    other = next(place for place in places.values() if place != shard)
    faults = {
        "../x": ({**places, name: f"../{shard}"}, f"the shard '../{shard}' is not in the index's folder"),
        "other": ({**places, name: other}, f"{name} is in {shard}, the index says {other}"),
        "none": (
            {key: places[key] for key in places if key != name},
            f"{name} is in {shard}, the index does not have it",
        ),
        "more": ({**places, "x": shard}, f"{shard} lacks x, which the index says is in it"),
    }

    for changed_places, expected in faults.values():
        index.write_text(json.dumps({**content, "weight_map": changed_places}))
        with pytest.raises(CorruptError) as caught:
            dp.read(folder)
        assert caught.value.message == f"{index}: {expected}"


# -- KerasHub ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def preset(tmp_path):
    """A preset with KerasHub's own texts and weights of ours in its layout; KerasHub's are tested by `make owners`."""
    spec = "layers=2-3-2,growth_rate=8,init_channels=64,classes=7"
    source = dp.read(checkpoint_file(tmp_path, spec, "zip"), contract={"stem_padding": "same", "epsilon": 1.001e-5})
    source.write(f"{tmp_path}/preset/", layout="keras-hub")
    for text in PRESET.iterdir():
        shutil.copy(text, tmp_path / "preset")
    return tmp_path / "preset"


def test_a_preset_of_kerashubs(preset, tmp_path):
    """Backbone and head are one network; how pictures are prepared is the preset's own."""
    read = dp.read(preset)
    dp.convert(preset, dst="keras-hub", out=f"{tmp_path}/new/")

    picture = Input(mean=(0.485, 0.485, 0.485), std=(0.229, 0.229, 0.229))
    assert (read.layout, read.architecture.classes, read.contract.input) == ("keras-hub", 7, picture)
    assert read.contract.resize is None
    assert read.checkpoint.metadata["notes"] == [
        f"{preset}/config.json: how it resizes pictures is not kept: it resizes without antialiasing"
    ]
    assert dp.diff(preset, tmp_path / "new").same
    assert dp.read(preset / "model.weights.h5").architecture.classes is None
    texts = [json.loads((folder / "config.json").read_text()) for folder in (preset, tmp_path / "new")]
    del texts[0]["config"]["dtype"]
    assert texts[1] == texts[0]


def test_a_preset_of_another_network(preset, tmp_path):
    """Blocks, classes, another class of KerasHub's; and a stem that KerasHub pads otherwise is not written."""
    faults = {
        "config.json": ("stackwise_num_repeats", [2, 3, 3], "says keras_hub>DenseNetBackbone with layers 2-3-3, and"),
        "task.json": ("num_classes", 8, "says keras_hub>DenseNetBackbone with classes 8, and"),
    }
    for name, (key, value, expected) in faults.items():
        folder = tmp_path / key
        shutil.copytree(preset, folder)
        content = json.loads((folder / name).read_text())
        content["config"][key] = value
        (folder / name).write_text(json.dumps(content))
        with pytest.raises(MisfitError, match=expected):
            dp.read(folder)
    content = json.loads((preset / "config.json").read_text())
    (preset / "config.json").write_text(json.dumps({**content, "registered_name": "keras_hub>ResNetBackbone"}))
    with pytest.raises(MisfitError, match="registered_name: expected one of keras_hub>DenseNetBackbone, found"):
        dp.read(preset)


# -- where it is written -----------------------------------------------------------------------------------------------


def test_a_folder_appears_whole_or_not_at_all(tuned, tmp_path, monkeypatch):
    """A failure leaves nothing; what is there stays without --force, and other software's weights stay anyway."""
    out = tmp_path / "out"

    def broken(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("densenet_port.files._sync", broken)
        with pytest.raises(DiskError, match=f"{out}/model.safetensors: cannot be written: No space left on device"):
            dp.convert(tuned, dst="torchvision", out=f"{out}/")
    assert sorted(tmp_path.iterdir()) == []
    dp.convert(tuned, dst="torchvision", out=f"{out}/")
    first = (out / "model.safetensors").read_bytes()

    with pytest.raises(UsageError, match=f"{out}: exists already, and is not empty"):
        dp.convert(tuned, dst="torchvision", out=out)
    (out / "README.md").write_text("mine")
    dp.convert(tuned, dst="torchvision", out=out, force=True)
    assert {path.name for path in out.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert (out / "model.safetensors").read_bytes() == first
    (out / "pytorch_model.bin").write_text("another network")
    with pytest.raises(UsageError, match=f"{out}: has pytorch_model.bin, which would not go with what is written"):
        dp.convert(tuned, dst="torchvision", out=out, force=True)


def test_what_does_not_come_as_a_folder(tuned, tmp_path):
    """Another layout, a network that timm's class is not, and pictures that its configuration has no words for."""
    known = "folders are written in keras-hub, torchvision, timm-blur, timm-deep"
    with pytest.raises(UsageError) as caught:
        dp.convert(tuned, dst="caffe", out=f"{tmp_path}/x/")
    assert (caught.value.message, caught.value.hint) == (
        f"{tmp_path}/x: caffe does not come as a folder",
        f"name a file; {known}",
    )
    wide = checkpoint_file(tmp_path, "layers=1-1,growth_rate=4,init_channels=12", "zip")
    with pytest.raises(MisfitError, match="timm's densenet121 has 8 init_channels, this network 12"):
        dp.convert(wide, dst="torchvision", out=f"{tmp_path}/x/")
    plain = checkpoint_file(tmp_path, "layers=1-1,growth_rate=4,init_channels=8", "zip")
    blue = Input(order="bgr", scale=1.0, mean=(104.0, 117.0, 124.0), std=(1.0, 1.0, 1.0))
    with pytest.raises(MisfitError, match="timm's configuration has no word for 3 channels in the order bgr"):
        dp.convert(plain, dst="torchvision", out=f"{tmp_path}/x/", contract={"input": blue})
    assert not (tmp_path / "x").exists()


@pytest.mark.owners
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {}) for name in ("densenet121", "densenet161", "densenet169", "densenet201")),
        *((name, {}) for name in ("densenetblur121d", "densenet264d")),
        ("densenet121", {"num_classes": 14, "in_chans": 1}),
    ],
    ids=str,
)
def test_whole_folders_of_timms_go_there_and_back(name, settings, tmp_path):
    """Written by timm with random weights, and by us; timm's own logits of both are the same."""
    torch.manual_seed(0)
    model = timm.create_model(name, **settings).eval()
    save_for_hf(model, tmp_path / "theirs", safe_serialization=True)

    network = dp.read(tmp_path / "theirs")
    network.write(f"{tmp_path / 'back'}/", layout=network.layout)
    again = timm.create_model(f"local-dir:{tmp_path / 'back'}", pretrained=True).eval()

    images = torch.randn(1, settings.get("in_chans", 3), 64, 64)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    assert network.origins["input"] == network.origins["resize"] == "record"
