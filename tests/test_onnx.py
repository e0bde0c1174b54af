"""ONNX models are read by their graph, whoever wrote them, and what is written runs anywhere."""

import numpy as np
import onnx
import pytest
from networks import images
from onnx import numpy_helper
from onnx_models import FOLDED, FORMS, LIGHT, SMALL, WHOLE, export, small_network, truth, zoo_model
from random_weights import random_weights

from densenet_port import formats
from densenet_port.arch import Architecture, Contract, Slot
from densenet_port.convert import convert, ours
from densenet_port.forward import forward
from densenet_port.frameworks import Job
from densenet_port.runners import runner

FULL = 1e-10  # of the logits' deviation: what two right float64 passes must agree to
SINGLE = 1e-5  # and two float32 passes of networks of this size, or an exporter's folding in float32
PICTURES = images(2, 33)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Form → what torch's exporters write of the small network."""
    folder, network = tmp_path_factory.mktemp("exports"), small_network()
    return {form: export(network, folder / f"{form}.onnx", form) for form in FORMS}


def by_numpy(told, pictures=PICTURES):
    """What numpy makes of a file, in float64."""
    return forward(told.architecture, told.contract, lambda slot: told.weights[slot](), pictures)


def by_onnx(path, pictures=PICTURES, dtype="float64", architecture=SMALL, **how):
    """What ONNX's own software makes of it: its reference in float64, ONNX Runtime in float32."""
    job = Job(network="onnxruntime", images=pictures, path=path, architecture=architecture, dtype=dtype, **how)
    return runner("onnxruntime")(job)


def apart(found, expected):
    """The largest difference, in deviations of what is expected."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / expected.std())


# -- what torch's exporters write --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", WHOLE)
def test_a_whole_export_has_the_network_s_own_tensors(form, exports):
    """Bit by bit, in our order, whatever stands around them in the graph."""
    state = {k: v.numpy() for k, v in small_network().state_dict().items() if not k.endswith("num_batches_tracked")}

    found = formats.read(exports[form])

    assert {key: t.load().tobytes() for key, t in found.tensors.items()} == {
        key: array.tobytes() for key, array in zip(found.tensors, state.values(), strict=True)
    }
    assert [t.shape for t in found.tensors.values()] == [array.shape for array in state.values()]


@pytest.mark.parametrize("form", WHOLE)
def test_a_whole_export_is_torch_s_network_in_float64(form, exports):
    """Numpy on what was read against torch on what was exported."""
    found = by_numpy(ours(exports[form]))

    assert apart(found, truth(small_network(), PICTURES)) <= FULL


@pytest.mark.parametrize("form", FOLDED)
def test_a_folded_export_is_the_file_s_own_function_in_float64(form, exports):
    """The norms that stand for what was folded change nothing; the exporter's own rounding is the file's."""
    found = by_numpy(ours(exports[form]))

    assert apart(found, by_onnx(exports[form]).logits) <= FULL


@pytest.mark.parametrize("form", FOLDED)
def test_a_folded_export_is_torch_s_network_but_for_the_exporter_s_rounding(form, exports):
    """Which is that of float32; and it is there, or nothing would have been folded."""
    found = by_numpy(ours(exports[form]))

    assert FULL < apart(found, truth(small_network(), PICTURES)) <= SINGLE


@pytest.mark.parametrize("form", FORMS)
def test_an_export_is_found_out_without_options(form, exports):
    """Layout, architecture and contract."""
    found = ours(exports[form])

    assert (found.layout, found.architecture, found.contract) == ("onnx", SMALL, Contract())


@pytest.mark.parametrize("form", FOLDED)
def test_the_result_says_which_units_lost_their_statistics(form, exports):
    """How many, and which."""
    notes = convert(exports[form], out=None).notes

    assert notes[0] == (
        "4 of 9 norms were folded into the convolutions before them when the file was exported, and their statistics "
        "are lost: stem.norm, every block*.layer*.norm2; scale 1, mean 0 and variance 1 − epsilon stand for them"
    )


def test_a_folded_norm_is_rounded_once_and_parity_says_so(exports, tmp_path):
    """The two steps: the unrounded mapping meets the bound, and every written tensor is within half an ULP."""
    from densenet_port.parity import check

    convert(exports["folded"], out=tmp_path / "x.weights.h5")

    result = check(tmp_path / "x.weights.h5", against=exports["folded"], backend="numpy", sizes=(32,))
    found = {(c.kind, c.name.rpartition(", ")[2]) for c in result.checks if c.passed}
    assert result.passed, [c for c in result.checks if not c.passed]
    assert {("float64", "unrounded"), ("weights", "in ULP of the exact ones")} <= found


def test_tensors_that_the_exporter_merged_are_told_apart(tmp_path):
    """A fresh network's norms are all ones and zeros: one of each is kept, and Identity stands for the others."""
    from torchvision.models.densenet import DenseNet

    network = DenseNet(4, (2, 1), 8, num_classes=7).eval()
    export(network, tmp_path / "x.onnx", "unfolded")
    assert any(node.op_type == "Identity" for node in onnx.load(tmp_path / "x.onnx").graph.node)

    found = ours(tmp_path / "x.onnx")

    assert apart(by_numpy(found), truth(network, PICTURES)) <= FULL


def test_a_fine_tuned_head_with_a_sigmoid_keeps_its_logits(tmp_path):
    """The graph ends in Sigmoid, or Softmax: that is the contract's, not the weights'."""
    from torch import nn

    network = small_network()
    export(nn.Sequential(network, nn.Sigmoid()).eval(), tmp_path / "x.onnx", "unfolded")

    found = ours(tmp_path / "x.onnx")

    assert (found.contract.output, apart(by_numpy(found), truth(network, PICTURES)) <= FULL) == ("sigmoid", True)


def test_a_full_121_folded_by_the_exporter(tmp_path):
    """59 of its 121 norms are gone; the function is the file's to float64's rounding."""
    from networks import torchvision_network

    export(torchvision_network("121", 0), tmp_path / "x.onnx", "folded")
    pictures = images(1, 64)

    found = ours(tmp_path / "x.onnx")

    assert found.architecture == Architecture.named("121")
    assert convert(tmp_path / "x.onnx", out=None).notes[0].startswith("59 of 121 norms were folded")
    expected = by_onnx(tmp_path / "x.onnx", pictures, architecture=found.architecture).logits
    assert apart(by_numpy(found, pictures), expected) <= FULL


# -- the model zoo's form ----------------------------------------------------------------------------------------------


def zoo_weights(architecture=SMALL):
    """Random weights with a Scale behind every norm, so that a fold that takes one for the other is seen."""
    random, found = np.random.default_rng(1), random_weights(architecture)
    for unit in architecture.units.values():
        if unit.kind == "norm":
            found[Slot(unit.name, "second_scale")] = random.uniform(0.5, 1.5, unit.sizes["c"]).astype("f4")
            found[Slot(unit.name, "second_shift")] = random.normal(0, 0.2, unit.sizes["c"]).astype("f4")
    return found


def test_the_zoo_s_form_is_folded_as_onnx_computes_it(tmp_path):
    """Both scales and both shifts, in float64."""
    path = zoo_model(SMALL, zoo_weights(), tmp_path / "x.onnx")

    found = ours(path)

    assert (found.layout, found.architecture, found.contract.input.order) == ("onnx-caffe2", SMALL, "bgr")
    assert apart(by_numpy(found), by_onnx(path).logits) <= FULL


def test_the_fold_of_the_zoo_s_form_is_looked_at(tmp_path):
    """The test above fails for a Scale that is left out."""
    path = zoo_model(SMALL, zoo_weights(), tmp_path / "x.onnx")
    found = ours(path)

    plain = {slot: load() for slot, load in found.weights.items()} | {Slot("final.norm", "scale"): np.ones(12, "f4")}

    logits = forward(SMALL, found.contract, plain, PICTURES)
    assert apart(logits, by_onnx(path).logits) > FULL


@pytest.fixture(scope="module")
def light():
    """The zoo's 121 in ONNX's own test data: norms of two units as trained, every other number 0.02."""
    return ours(LIGHT / "light_densenet121.onnx")


def test_the_zoo_s_light_model_is_a_121_of_caffe(light):
    """836 of its tensors are made by the graph, of shapes that stand in initialisers."""
    assert (light.layout, light.architecture) == ("onnx-caffe2", Architecture.named("121"))


def test_the_zoo_s_light_model_has_the_trained_norms(light):
    """The first values of the two units that were left; the Scale's own, since the norm's are ones and zeros."""
    slots = [("stem.norm", "scale"), ("stem.norm", "shift"), ("stem.norm", "mean"), ("stem.norm", "variance")]
    slots += [("block1.layer1.norm1", "scale"), ("block1.layer1.norm1", "variance")]

    found = [light.weights[Slot(*slot)]()[:3].astype("f4") for slot in slots]

    expected = [
        (0.02341641, 0.02280306, 0.0244258),
        (0.09552304, 0.04007933, 0.0339276),
        (0.01151119, -0.00437252, -0.001313),
        (33.792652, 1.1074815, 0.73810667),
        (0.28197813, 0.1298655, 0.23176852),
        (0.00057191, 0.00080955, 0.00097222),
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_zoo_s_light_model_gives_the_recorded_output(light):
    """Through every fold and the head; it says nothing of kernels' axes, since all of them are constant."""
    recorded = numpy_helper.to_array(onnx.load_tensor(LIGHT / "light_densenet121_output_0.pb"))

    logits = forward(
        light.architecture, light.contract, lambda slot: light.weights[slot](), images(1, 224), dtype=np.float32
    )

    np.testing.assert_allclose(logits[:, :, None, None], recorded, rtol=1e-5)
