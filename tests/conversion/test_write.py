"""A conversion accounts for every tensor, gives the same bits, and fails without a trace."""

import hashlib
import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from densenet_port import files
from densenet_port.conversion.compare import diff
from densenet_port.conversion.convert import convert, verify
from densenet_port.conversion.load import read
from densenet_port.errors import ComparisonError, CorruptError, DiskError, MisfitError, UsageError
from densenet_port.layouts.transform import rounded
from densenet_port.network.architecture import Architecture
from densenet_port.network.units import Slot
from tests.conftest import SMALL
from tests.support.networks import FORMS, torchvision_network

ENDINGS = [".weights.h5", ".h5", ".keras", ".safetensors"]


def state_of(path):
    """The state dict in a file that torch can load, as numpy arrays."""
    return {name: value.numpy() for name, value in torch.load(path, weights_only=True).items()}


def expected_weights(state):
    """What read must hold, turned by hand from torch's own arrays: slot → array."""
    wanted = {}
    for slot in Architecture.named(SMALL).slots:
        unit = slot.unit.replace("block", "features.denseblock").replace(".layer", ".denselayer")
        unit = unit.replace("transition", "features.transition")
        unit = {"stem.conv": "features.conv0", "stem.norm": "features.norm0", "final.norm": "features.norm5"}.get(
            unit, unit
        )
        unit = "classifier" if unit == "head.dense" else unit
        ends = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "variance": "running_var"}
        array = state[f"{unit}.{ends.get(slot.role, 'bias')}"]
        wanted[slot] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return wanted


def same_bits(found, wanted):
    """Whether two mappings of arrays agree in keys, shapes, types and every bit."""
    return list(found) == list(wanted) and all(
        found[key].dtype == wanted[key].dtype and np.array_equal(found[key], wanted[key]) for key in found
    )


def loaded(told):
    return dict(told.weights)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "half"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_form_converts_to_every_container_bit_by_bit(files, tmp_path, form, ending):
    """Whatever torch wrote, what is read back is torch's own numbers, turned."""
    out = tmp_path / f"out{ending}"

    convert(files[form], out=out)

    assert same_bits(loaded(read(out)), expected_weights(state_of(files["zip"])))


def test_half_precision_is_widened_exactly(files, tmp_path):
    """A checkpoint in float16 becomes float32 with the same values, and says so."""
    done = convert(files["half"], out=tmp_path / "out.weights.h5")

    wanted = {slot: array.astype(np.float32) for slot, array in expected_weights(state_of(files["half"])).items()}
    assert same_bits(loaded(read(tmp_path / "out.weights.h5")), wanted)
    assert done.notes == ("the checkpoint holds float16: its rounding stays in the weights",)


@pytest.mark.parametrize("middle", ENDINGS)
def test_there_and_back_gives_the_same_tensors(small, tmp_path, middle):
    """Torchvision → ours → torchvision is the identity, and torch itself takes the file, strictly."""
    convert(small, out=tmp_path / f"ours{middle}")
    convert(tmp_path / f"ours{middle}", dst="torchvision", out=tmp_path / "back.pth")

    before, after = state_of(small), state_of(tmp_path / "back.pth")
    assert same_bits(after, {name: value for name, value in before.items() if not name.endswith("num_batches_tracked")})
    torchvision_network(SMALL, 1).load_state_dict(torch.load(tmp_path / "back.pth", weights_only=True), strict=True)


@pytest.mark.parametrize("ending", [*ENDINGS, ".pth"])
def test_the_same_input_gives_the_same_bytes(small, tmp_path, ending):
    """Two runs, byte for byte, whatever the file is called."""
    dst = "torchvision" if ending == ".pth" else "keras"
    (tmp_path / "renamed.bin").write_bytes(small.read_bytes())

    convert(small, dst=dst, out=tmp_path / f"a{ending}")
    convert(tmp_path / "renamed.bin", dst=dst, out=tmp_path / f"b{ending}")

    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


@pytest.mark.parametrize("ending", [*ENDINGS, ".pth"])
def test_a_file_knows_what_it_is(small, tmp_path, ending):
    """The manifest holds architecture, contract, source, tables and a digest of every tensor; they verify."""
    dst = "torchvision" if ending == ".pth" else "keras"
    done = convert(small, dst=dst, out=tmp_path / f"out{ending}")

    checkpoint = verify(tmp_path / f"out{ending}")

    assert {**checkpoint.record, "rest": None} == {**json.loads(json.dumps(done.record)), "rest": None}
    assert checkpoint.record["source"]["sha256"] == hashlib.sha256(small.read_bytes()).hexdigest()
    assert Architecture.from_json(checkpoint.record["architecture"]) == Architecture.named(SMALL)
    assert (checkpoint.record["layout"], set(checkpoint.record["tensors"])) == (dst, set(checkpoint.tensors))


def test_a_changed_tensor_does_not_verify(small, tmp_path):
    """One flipped bit in one tensor is found and named."""
    out = tmp_path / "out.safetensors"
    convert(small, out=out)
    data = bytearray(out.read_bytes())
    data[-5] ^= 1
    out.write_bytes(data)

    with pytest.raises(
        ComparisonError, match=r"1 tensors are not the ones that were written\n  head_dense/bias: recorded"
    ):
        verify(out)


def test_a_file_without_digests_cannot_be_verified(small):
    """Only what was promised can be checked."""
    with pytest.raises(MisfitError, match="carries no digests"):
        verify(small)


@pytest.mark.parametrize("ending", [".h5", ".weights.h5"])
def test_another_epsilon_is_absorbed_and_given_back(tmp_path, ending):
    """Towards keras.applications only what absorbs differs, within half an ULP; back again all is within one."""
    arch = "layers=2-3-2,growth_rate=32,init_channels=64,classes=7"
    source = tmp_path / "source.pth"
    torch.save(torchvision_network(arch, 0).state_dict(), source)

    done = convert(source, dst="keras-applications", out=tmp_path / f"apps{ending}")
    convert(tmp_path / f"apps{ending}", dst="torchvision", out=tmp_path / "back.pth")

    first, apps, back = (loaded(read(path)) for path in (source, tmp_path / f"apps{ending}", tmp_path / "back.pth"))
    assert done.absorbed == {"from": 1e-5, "to": 1.001e-5, "scale": []}
    for slot, array in first.items():
        exact = array.astype(np.float64) - 1e-8 if slot.role == "variance" else array
        assert np.all(
            np.abs(apps[slot] - exact)
            <= np.spacing(np.abs(apps[slot])) * (0.5 + 1e-6 if slot.role == "variance" else 0)
        )
        assert np.all(np.abs(back[slot].astype(np.float64) - array) <= np.spacing(np.abs(array)))


def test_a_variance_too_small_to_absorb_comes_back_through_the_scale(tmp_path):
    """The record in the file, not the numbers, says which tensor absorbed: denormal variances survive a round trip."""
    network = torchvision_network("layers=2-3-2,growth_rate=32,init_channels=64,classes=7", 0)
    network.features.norm0.running_var[:3] = torch.tensor([6e-45, 0.0, 1.5e-8])
    torch.save(network.state_dict(), tmp_path / "source.pth")

    done = convert(tmp_path / "source.pth", dst="keras-applications", out=tmp_path / "apps.h5")
    convert(tmp_path / "apps.h5", out=tmp_path / "ours.weights.h5")  # the record goes along
    convert(tmp_path / "ours.weights.h5", dst="torchvision", out=tmp_path / "back.pth")

    first, back = (loaded(read(tmp_path / name)) for name in ("source.pth", "back.pth"))
    assert done.absorbed["scale"] == ["stem.norm"]
    assert all(np.all(np.abs(back[s].astype("f8") - a) <= np.spacing(np.abs(a))) for s, a in first.items())


# -- what a converted file holds -------------------------------------------------------------------------------------


def test_the_head_can_be_left_out(small, tmp_path):
    """--no-top drops the head's two tensors and says by whose word."""
    done = convert(small, out=tmp_path / "out.weights.h5", no_top=True)

    told = read(tmp_path / "out.weights.h5")
    dropped = [name for name, rule in done.source.ledger.ignored.items() if rule == "--no-top"]
    assert (told.architecture.classes, dropped) == (None, ["classifier.weight", "classifier.bias"])
    assert not [slot for slot in told.weights if slot.unit == "head.dense"]


def test_a_replaced_head_is_carried_over(tmp_path):
    """Fourteen classes behind a Sequential are a head like any other."""
    network = torchvision_network(SMALL, 0)
    network.classifier = torch.nn.Sequential(torch.nn.Linear(network.classifier.in_features, 14), torch.nn.Sigmoid())
    torch.save(network.state_dict(), tmp_path / "chexnet.pth")

    convert(tmp_path / "chexnet.pth", out=tmp_path / "out.weights.h5")

    told = read(tmp_path / "out.weights.h5")
    assert told.architecture.classes == 14
    assert np.array_equal(told.weights[Slot("head.dense", "bias")], network.classifier[0].bias.detach().numpy())


def test_a_network_without_head_converts(small, tmp_path):
    """A headless checkpoint has a headless architecture."""
    state = torch.load(small, weights_only=True)
    torch.save({k: v for k, v in state.items() if not k.startswith("classifier")}, tmp_path / "body.pth")

    assert convert(tmp_path / "body.pth", out=tmp_path / "out.h5").source.architecture.classes is None


@pytest.mark.parametrize("channels", [1, 4])
def test_other_input_channels_follow_from_the_shapes(tmp_path, channels):
    """A grey or a multispectral stem needs no option."""
    torch.save(torchvision_network(f"{SMALL},channels={channels}", 0).state_dict(), tmp_path / "c.pth")

    assert convert(tmp_path / "c.pth", out=tmp_path / "out.weights.h5").source.architecture.channels == channels


def test_double_precision_is_kept_on_demand_and_rounding_is_said(small, tmp_path):
    """float64 in, float32 out by default with a note; --dtype float64 keeps every bit."""
    torch.save({k: v.double() for k, v in torch.load(small).items()}, tmp_path / "double.pth")

    noted = convert(tmp_path / "double.pth", out=tmp_path / "single.weights.h5").notes
    convert(tmp_path / "double.pth", out=tmp_path / "double.weights.h5", dtype="float64")

    assert noted == ("the checkpoint holds float64; what is written is rounded to float32 (--dtype float64 keeps it)",)
    assert diff(read(tmp_path / "double.pth"), read(tmp_path / "double.weights.h5")).same


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_bfloat16_is_torch_s_own_rounding(ending, small, tmp_path):
    """To the nearest, halves to even: what `tensor.bfloat16()` makes; and it is said."""
    out = tmp_path / f"out{ending}"

    done = convert(small, out=out, dst="torchvision", dtype="bfloat16")

    state = torch.load(out, weights_only=True) if ending == ".pth" else load_file(out)
    weights = {name: value for name, value in torch.load(small).items() if not name.endswith("tracked")}
    assert {name: value.dtype for name, value in state.items()} == dict.fromkeys(weights, torch.bfloat16)
    assert all(torch.equal(state[name], value.bfloat16()) for name, value in weights.items())
    assert done.notes[0] == (
        "the checkpoint holds float32; what is written is rounded to bfloat16, to the nearest, halves to even "
        "(--dtype float32 keeps it)"
    )
    verify(out)


def test_a_bfloat16_of_a_float64_is_rounded_once(tmp_path):
    """By way of float32 what lies a hair off a half would become that half, and go to the even side."""
    halves = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8])  # between two numbers of eight digits
    hair = 2.0**-40 * np.array([1, -1, -1])

    assert rounded(halves, "bfloat16").tolist() == [1, 1 + 2**-6, -1]
    assert rounded(halves + hair, "bfloat16").tolist() == [1 + 2**-7, 1 + 2**-7, -1 - 2**-7]
    assert rounded(np.array([np.inf, 3.4e38, -0.0]), "bfloat16").tolist() == [np.inf, np.inf, 0]
    assert np.isnan(rounded(np.array([np.nan], "f4"), "bfloat16")).all()


@pytest.mark.parametrize("ending", [".h5", ".weights.h5", ".npz"])
def test_containers_without_bfloat16_say_which_have_it(ending, small, tmp_path):
    """Before anything is written."""
    out = tmp_path / f"out{ending}"

    with pytest.raises(UsageError) as caught:
        convert(small, out=out, dtype="bfloat16")

    assert str(caught.value) == (
        f"{out}: no {ending} holds bfloat16\n  write .safetensors, .pth, .pt, or another --dtype"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layout", ["torchvision", "keras", "caffe"])
def test_an_npz_of_any_layout_is_numpy_s(layout, small, tmp_path):
    """`numpy.load` reads it without pickles, under the layout's names; the record is an array of bytes beside them."""
    planned = convert(small, out=tmp_path / "out.npz", dst=layout)

    with np.load(tmp_path / "out.npz") as archive:
        arrays = dict(archive)
    record = json.loads(arrays.pop("densenet_port").item())

    assert same_bits(arrays, {name: tensor.load() for name, tensor in planned.tensors.items()})
    assert record == {**planned.record, "rest": "0" * 64}  # whose digits are the archive's comment
    assert read(tmp_path / "out.npz").layout == layout
    assert diff(read(small), read(tmp_path / "out.npz")).same


@pytest.mark.parametrize(
    ("numbers", "note"),
    [
        ({"conv0.weight": np.nan}, "stem_conv/kernel holds NaN or infinity, as the checkpoint does"),
        (
            {"norm0.running_var": np.inf, "norm5.bias": -np.inf},
            "stem_norm/moving_variance and 1 more hold NaN or infinity, as the checkpoint does",
        ),
        ({"norm0.running_var": 3e38, "norm0.running_mean": -3e38}, None),
    ],
)
def test_numbers_that_are_none_are_told(small, tmp_path, numbers, note):
    """They are written as they are: the port is what the checkpoint was."""
    state = torch.load(small)
    for name, number in numbers.items():
        state[f"features.{name}"].view(-1)[:2] = number
    torch.save(state, tmp_path / "in.pth")

    done = convert(tmp_path / "in.pth", out=tmp_path / "out.safetensors")

    assert [text for text in done.notes if "NaN" in text] == [text for text in [note] if text]


def test_a_number_that_the_type_cannot_hold_is_refused(small, tmp_path):
    """An overflow to infinity is never written."""
    state = torch.load(small)
    state["features.norm0.running_var"][0] = 1e6
    torch.save(state, tmp_path / "big.pth")

    with pytest.raises(MisfitError, match=r"stem.norm.variance holds numbers that float16 cannot"):
        convert(tmp_path / "big.pth", out=tmp_path / "out.weights.h5", dtype="float16")
    assert [path.name for path in tmp_path.iterdir()] == ["big.pth"]


def test_diff_sees_one_changed_number(small, tmp_path):
    """Equal files are the same across layouts; one ULP in one tensor is one row."""
    state = torch.load(small)
    state["features.norm5.bias"][3] = torch.nextafter(state["features.norm5.bias"][3], torch.tensor(9.0))
    torch.save(state, tmp_path / "other.pth")
    convert(small, out=tmp_path / "out.weights.h5")

    equal = diff(read(small), read(tmp_path / "out.weights.h5"))
    changed = diff(read(tmp_path / "other.pth"), read(tmp_path / "out.weights.h5"))

    assert (equal.same, equal.differing) == (True, ())
    assert (changed.same, [(d.slot, d.ulps) for d in changed.differing]) == (
        False,
        [(Slot("final.norm", "shift"), 1.0)],
    )


# -- failures, each in its own words ---------------------------------------------------------------------------------


def altered(small, tmp_path, change):
    """A copy of the small checkpoint after `change(state)`."""
    state = OrderedDict(torch.load(small))
    change(state)
    torch.save(state, tmp_path / "altered.pth")
    return tmp_path / "altered.pth"


def refused(error_type, tmp_path, *args, **kwargs):
    """The error of a conversion that must fail, write nothing and leave an old output as it was."""
    out = tmp_path / "out.weights.h5"
    out.write_bytes(b"old")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(error_type) as error:
        convert(*args, out=out, force=True, **kwargs)
    assert out.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    return str(error.value)


def test_the_wrong_architecture_is_named_with_the_right_one(small, tmp_path):
    """The first differing sizes are shown, and the architecture that every shape fits."""
    other = Architecture.named("layers=2-3-2,growth_rate=8,init_channels=24,classes=7")

    said = refused(MisfitError, tmp_path, small, arch=other)

    assert said == (
        f"{small} does not fit --arch layers=2-3-2,growth_rate=8,init_channels=24,classes=7\n"
        "  stem.conv.kernel  expected o=24 i=3 h=7 w=7, found o=16 i=3 h=7 w=7  (features.conv0.weight)\n"
        "  stem.norm.scale  expected c=24, found c=16  (features.norm0.weight)\n"
        "  stem.norm.shift  expected c=24, found c=16  (features.norm0.bias)\n"
        "  55 tensors differ or are unknown; "
        "every shape fits --arch layers=2-3-2,growth_rate=8,init_channels=16,classes=7"
    )


def test_a_missing_tensor_is_named(small, tmp_path):
    """Our slot, the name expected, and the shape it would have."""
    path = altered(small, tmp_path, lambda state: state.pop("features.denseblock2.denselayer3.conv2.weight"))

    assert refused(MisfitError, tmp_path, path) == (
        f"{path}: 1 misfit as torchvision layers=2-3-2,growth_rate=8,init_channels=16\n"
        "  block2.layer3.conv2.kernel  is missing  "
        "(expected features.denseblock2.denselayer3.conv2.weight, our shape (3, 3, 32, 8))\n"
        "  90 of 91 tensors fit; --src torchvision lists what does not"
    )


def test_a_tensor_too_many_is_named(small, tmp_path):
    """What no line of the table claims stops the conversion."""
    path = altered(small, tmp_path, lambda state: state.update({"attention.weight": torch.rand(3, 4)}))

    assert refused(MisfitError, tmp_path, path) == (
        f"{path}: as torchvision layers=2-3-2,growth_rate=8,init_channels=16 the body fits; beside it\n"
        "  classifier (7, 36), attention (3, 4)\n"
        "  --no-top takes the body"
    )


def test_a_tensor_of_the_wrong_shape_is_named(small, tmp_path):
    """Axes by name, expected and found."""
    path = altered(small, tmp_path, lambda state: state.update({"features.norm5.bias": torch.rand(9)}))

    assert "final.norm.shift  expected c=36, found c=9  (features.norm5.bias)" in refused(MisfitError, tmp_path, path)


def test_two_ways_to_fill_a_slot_are_refused(small, tmp_path):
    """A Sequential of two Linear layers is not one head."""

    def two_heads(state):
        state["classifier.0.weight"], state["classifier.0.bias"] = torch.rand(5, 36), torch.rand(5)

    path = altered(small, tmp_path, two_heads)

    assert refused(MisfitError, tmp_path, path) == (
        f"{path}: as torchvision layers=2-3-2,growth_rate=8,init_channels=16 the body fits; beside it\n"
        "  classifier (7, 36), classifier.0 (5, 36)\n"
        "  --no-top takes the body"
    )


def test_a_quantised_tensor_is_refused(small, tmp_path):
    """Integers where weights should be."""
    path = altered(
        small, tmp_path, lambda state: state.update({"features.norm5.bias": torch.ones(36, dtype=torch.int8)})
    )

    assert "features.norm5.bias is int8, expected one of float16" in refused(MisfitError, tmp_path, path)


def test_a_truncated_file_is_corrupt(small, tmp_path):
    """Half a download is an error at every cut."""
    data = small.read_bytes()
    for share in (0.1, 0.5, 0.99):
        (tmp_path / "cut.pth").write_bytes(data[: int(len(data) * share)])
        assert str(tmp_path / "cut.pth") in refused(CorruptError, tmp_path, tmp_path / "cut.pth")


def test_a_missing_file_is_said(tmp_path):
    """The path is shown."""
    path = tmp_path / "none.pth"

    assert (
        refused(DiskError, tmp_path, path) == f"{path}: cannot be read: No such file or directory\n  is the path right?"
    )


def test_another_network_is_refused_with_its_misfits(tmp_path):
    """A ResNet is no DenseNet, and each layout says why."""
    torch.save(
        {"conv1.weight": torch.rand(64, 3, 7, 7), "fc.weight": torch.rand(10, 64), "fc.bias": torch.rand(10)},
        tmp_path / "r.pth",
    )

    said = refused(MisfitError, tmp_path, tmp_path / "r.pth")

    assert said.startswith(f"{tmp_path / 'r.pth'}: ")
    assert "no DenseNet without block1.layer1.conv1" in said


def test_an_unknown_layout_is_refused(small, tmp_path):
    """Before the file is even opened."""
    assert refused(UsageError, tmp_path, small, src="mxnet").startswith("unknown layout 'mxnet'")


def test_a_layout_that_cannot_hold_the_network_says_so(small, tmp_path):
    """keras.applications knows one growth rate."""
    with pytest.raises(
        MisfitError, match="keras-applications cannot hold this network: growth_rate must be 32, found 8"
    ):
        convert(small, dst="keras-applications", out=tmp_path / "out.h5")


@pytest.mark.parametrize(
    ("out", "dst", "message"),
    [
        ("out.bin", "keras", "unknown ending"),
        ("out.pth", "keras", "keras does not come as .pth"),
        ("old.weights.h5", "keras", "exists already"),
        ("folder.weights.h5", "keras", "is a directory"),
        ("nowhere/out.weights.h5", "keras", "cannot be written: No such file or directory"),
    ],
)
def test_an_output_that_cannot_be_is_refused(small, tmp_path, out, dst, message):
    """Wrong ending, wrong container, an old file, a folder, no folder: nothing changes."""
    (tmp_path / "old.weights.h5").write_bytes(b"old")
    (tmp_path / "folder.weights.h5").mkdir()
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises((UsageError, DiskError), match=message):
        convert(small, dst=dst, out=tmp_path / out)

    assert (sorted(tmp_path.rglob("*")), (tmp_path / "old.weights.h5").read_bytes()) == (before, b"old")


def test_a_layout_that_has_another_container_is_named(small, tmp_path):
    """The next step is to ask for a layout that comes in what was asked for."""
    with pytest.raises(UsageError) as caught:
        convert(small, out=tmp_path / "out.onnx")

    assert caught.value.hint.endswith("; .onnx is what --dst onnx, onnx-caffe2 can write")


def test_the_checkpoint_is_never_its_own_output(small, tmp_path):
    """Not even with --force, not even by another name."""
    (tmp_path / "a.pth").write_bytes(small.read_bytes())
    (tmp_path / "b.pth").symlink_to("a.pth")

    with pytest.raises(UsageError, match="is the checkpoint itself"):
        convert(tmp_path / "a.pth", dst="torchvision", out=tmp_path / "b.pth", force=True)


def test_a_failure_in_mid_write_leaves_the_old_file(small, tmp_path, monkeypatch):
    """The disk fills up after some tensors: the old file stays, and nothing else does."""
    convert(small, out=tmp_path / "out.safetensors")
    old, real = (tmp_path / "out.safetensors").read_bytes(), files._sync

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_sync", full)
    with pytest.raises(DiskError, match="out.safetensors: cannot be written: No space left on device"):
        convert(small, out=tmp_path / "out.safetensors", force=True, dtype="float64")
    monkeypatch.setattr(files, "_sync", real)

    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]
    assert (tmp_path / "out.safetensors").read_bytes() == old


@pytest.mark.parametrize("call", [1, 2])
def test_a_failure_leaves_the_old_file_and_its_companion(small, tmp_path, monkeypatch, call):
    """The weights' sync fails, or that of the graph beside them: neither is a new one."""
    convert(small, dst="caffe", out=tmp_path / "out.caffemodel")
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    torch.save(torchvision_network(SMALL, 1).state_dict(), tmp_path / "other.pth")
    real, calls = files._sync, []

    def full(path):
        calls.append(path)
        if len(calls) == call:
            raise OSError(28, "No space left on device")
        real(path)

    monkeypatch.setattr(files, "_sync", full)
    with pytest.raises(DiskError, match=r"out.caffemodel and .*out.prototxt: cannot be written: No space left on dev"):
        convert(tmp_path / "other.pth", dst="caffe", out=tmp_path / "out.caffemodel", force=True, dtype="float64")
    (tmp_path / "other.pth").unlink()

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_a_dry_run_writes_nothing(small, tmp_path):
    """Everything is checked, and the target's tensors are known."""
    done = convert(small, out=None)

    assert (done.out, len(done.tensors), list(tmp_path.iterdir())) == (None, 91, [])


# -- what goes beside a file -----------------------------------------------------------------------------------------


def test_another_file_s_companion_is_refused(small, tmp_path):
    """On every way of reading; without one, the same graph stands in the file."""
    out, beside = tmp_path / "out.caffemodel", tmp_path / "out.prototxt"
    convert(small, dst="caffe", out=out)
    convert(small, dst="caffe", out=tmp_path / "other.caffemodel", no_top=True)
    other = (tmp_path / "other.prototxt").read_bytes()
    digests = [hashlib.sha256(data).hexdigest()[:12] for data in (beside.read_bytes(), other)]
    beside.write_bytes(other)

    messages = []
    for reading in (read, verify, lambda path: convert(path, out=None)):
        with pytest.raises(CorruptError) as caught:
            reading(out)
        messages.append(str(caught.value))
    beside.unlink()

    message = (
        f"{beside}: is not the one that was written with out.caffemodel: "
        f"expected a SHA-256 of {digests[0]}…, found {digests[1]}…\n"
        "  remove it, and out.caffemodel is read by the same graph, which it holds too; or convert again"
    )
    assert messages == [message] * 3
    assert diff(read(out), read(small)).same
