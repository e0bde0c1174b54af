"""flyyufelix's files, whoever saved them, become the network that they were; and Keras 1 and 2 take what we write.

The small files of `data/old-keras` were saved by Keras 1.2.2 and 2.3.1, which recorded their own logits. Independently
of all of them, `logits_by_scipy` runs a file's arrays as they are stored: it convolves as the file's backend did, and
takes every norm and its Scale layer as two steps.
"""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from densenet_port.conversion.compare import diff
from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.errors import MisfitError
from densenet_port.layouts.layout import Layout
from densenet_port.network.architecture import NAMED
from densenet_port.network.numpy import forward
from densenet_port.prove import checks, parity
from tests.record.old_keras import pictures
from tests.support import warm
from tests.support.flyyufelix_files import RECORDED, ROWS, SMALL, layers_of, logits_by_scipy, old_file, rebuilt, row_of

BOUND = 1e-10  # of the logits' deviation: two float64 passes of the same function; a right one measures 1e-15
FAULT = 1e-3  # what any planted fault must at least do
KERNELS_UNKNOWN = [name for name, row in ROWS.items() if row.keras == 1]
FORMS = [(ordering, kernels) for ordering in ("th", "tf") for kernels in ("theano", "tensorflow")]


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """Files that Keras 1 and 2 saved: name → path."""
    folder = tmp_path_factory.mktemp("old-keras")
    return {name: old_file(name, folder) for name in RECORDED}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Files rebuilt from the facts: name → path."""
    folder = tmp_path_factory.mktemp("rebuilt")
    return {name: rebuilt(folder / f"{name}.h5", SMALL, row) for name, row in ROWS.items()}


@pytest.fixture(scope="module")
def any_size(tmp_path_factory):
    """The table without its claim on published sizes, so that small networks can be written."""
    path = tmp_path_factory.mktemp("table") / "flyyufelix.toml"
    lines = Layout.load("flyyufelix").path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith("only")), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def keras_3(tmp_path_factory):
    """The folder in which Keras 3 saved a network with Scale layers, and its logits."""
    folder = tmp_path_factory.mktemp("keras3")
    warm.keras("tests.support.flyyufelix_keras3", folder)
    return folder


def logits(told, change=lambda slot, array: array, images=None):
    """Our forward pass in float64, with weights that may be changed on the way."""
    weights = {slot: change(slot, array) for slot, array in told.weights.items()}
    return forward(told.architecture, told.contract, weights, pictures() if images is None else images)


def apart(found, truth):
    """The largest difference, in deviations of the truth."""
    return float(np.abs(found - truth).max() / np.std(truth))


# -- what Keras saved ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in RECORDED if row_of(name).backend == "theano"])
def test_what_keras_saved_on_theano_gives_its_own_logits(name, old):
    """Keras 1.2.2 and 2.3.1 computed them in float64, with true convolutions."""
    assert apart(logits(read(old[name], kernels="theano")), RECORDED[name]["logits"]) < BOUND


@pytest.mark.parametrize("name", [name for name in RECORDED if row_of(name).backend == "tensorflow"])
def test_what_keras_saved_on_tensorflow_gives_its_own_logits(name, old):
    """In float32, which is all that these Keras compute in there: as far as float32 itself goes, times a factor."""
    told = read(old[name], kernels="tensorflow")
    exact = logits(told)
    single = forward(told.architecture, told.contract, told.weights, pictures(), dtype=np.float32)

    assert apart(exact, RECORDED[name]["logits"]) < checks.FACTOR32 * apart(single, exact) < FAULT


@pytest.mark.parametrize("name", RECORDED)
def test_what_keras_saved_gives_the_logits_of_its_arrays_as_they_are_stored(name, old):
    """Layer by layer and in float64, for TensorFlow's files too."""
    row = row_of(name)

    assert apart(logits(read(old[name], kernels=row.kernels)), logits_by_scipy(old[name], pictures(), row)) < BOUND


@pytest.mark.parametrize("name", [name for name in RECORDED if name in ROWS])
def test_the_rebuilt_form_is_the_real_one(name, old, built):
    """Attributes, their types, lists, datasets and shapes; so the rows that no real file stands for are like them."""
    assert form(built[name]) == form(old[name])


def form(path):
    """Everything in a file but its numbers: place → shape, type and attributes."""
    found = {}

    def note(name, node):
        attributes = {key: (np.asarray(value).dtype.str, str(value)) for key, value in node.attrs.items()}
        found[name] = (getattr(node, "shape", None), str(getattr(node, "dtype", None)), attributes)

    with h5py.File(path) as file:
        note("/", file)
        file.visititems(note)
    return found


# -- every row of the table ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_every_row_becomes_the_network_that_it_was(name, built):
    """Kernels in either order, convolved or correlated, are taken the right way round when it is known which."""
    row = ROWS[name]

    assert apart(logits(read(built[name], kernels=row.kernels)), logits_by_scipy(built[name], pictures(), row)) < BOUND


@pytest.mark.parametrize("name", [name for name in ROWS if name not in KERNELS_UNKNOWN])
def test_a_recorded_backend_decides_without_a_word(name, built):
    """Keras 2 and 3 say what convolved."""
    done = convert(built[name], out=None)

    assert (done.source.ledger.kernels, done.source.ledger.kernels_assumed, done.notes) == (
        ROWS[name].kernels,
        False,
        (),
    )


@pytest.mark.parametrize(("ordering", "kernels"), [("th", "theano"), ("tf", "tensorflow")])
@pytest.mark.parametrize("backend", ["theano", "tensorflow"])
def test_without_a_record_the_order_of_axes_decides_and_it_is_said(backend, ordering, kernels, built):
    """Both files of an ordering look alike; the default is right for one of them, and what would tell is said."""
    done = convert(built[f"keras1-{backend}-{ordering}"], out=None)

    told = next(note for note in done.notes if "kernels" in note)
    assert (done.source.ledger.kernels, done.source.ledger.kernels_assumed) == (kernels, True)
    assert told.startswith(f"no record says how the kernels are stored: taken as {kernels} has them")
    assert "--kernels says otherwise, and known logits of one image would decide" in told


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("kernels", ["theano", "tensorflow"])
def test_the_user_s_word_goes_before_default_and_record(name, kernels, built):
    """Whoever knows more than the file is believed."""
    row = ROWS[name]._replace(backend=kernels)
    told = read(built[name], kernels=kernels)

    assert (told.ledger.kernels, told.ledger.kernels_assumed) == (kernels, False)
    assert apart(logits(told), logits_by_scipy(built[name], pictures(), row)) < BOUND


def test_the_contract_is_that_of_the_published_files(built):
    """Epsilon, blue first, and (pixel − mean) · 0.017 to the last digits of float64."""
    contract = read(built["keras1-theano-th"]).contract
    pixels = np.arange(256.0)[:, None]

    given = (pixels / contract.input.scale - contract.input.mean) / contract.input.std
    assert (contract.epsilon, contract.stem_padding, contract.output, contract.input.order) == (
        *(1.1e-5, "symmetric", "softmax", "bgr"),
    )
    assert np.abs(given - (pixels - [103.94, 116.78, 123.68]) * 0.017).max() < 4 * np.spacing(255 * 0.017)


# -- faults ----------------------------------------------------------------------------------------------------------


def scale_for_both(told):
    """The Scale layer's numbers taken for the norm's, as titu1994's script does."""

    def change(slot, array):
        part = {"scale": "second_scale", "shift": "second_shift"}.get(slot.role)
        return part_of(told, slot.unit, part) if part else array

    return change


def norm_alone(told):
    """The Scale layer forgotten."""
    return lambda slot, array: part_of(told, slot.unit, slot.role) if slot.role in ("scale", "shift") else array


def shift_not_scaled(told):
    """The shift of the norm added to that of the Scale layer."""

    def change(slot, array):
        if slot.role != "shift":
            return array
        return part_of(told, slot.unit, "shift") + part_of(told, slot.unit, "second_shift")

    return change


def part_of(told, unit, part):
    return next(claim for place, claim in told.ledger.claims.items() if place == (unit, part)).tensor.load()


def kernels_not_flipped(_told):
    """A true convolution's kernels taken for a correlation's."""
    return lambda slot, array: array[::-1, ::-1] if array.ndim == 4 else array


def stem_not_flipped(_told):
    """Only the stem's, as if the rest had no room to turn in."""
    return lambda slot, array: array[::-1, ::-1] if slot.unit == "stem.conv" else array


def channels_flipped(_told):
    """The wrong two axes turned, as Keras 1's own function does under the wrong global setting."""
    return lambda slot, array: array[:, :, ::-1, ::-1] if slot.unit == "block1.layer1.conv2" else array


def order_for_each_kernel(told):
    """The order of axes decided by each kernel's own shape: one with as many inputs as outputs is left as it is."""

    def change(slot, array):
        square = array.ndim == 4 and array.shape[0] == 1 and array.shape[2] == array.shape[3]
        return array.transpose(0, 1, 3, 2) if square else array

    return change


@pytest.mark.parametrize(
    "fault",
    [
        *(scale_for_both, norm_alone, shift_not_scaled),
        *(kernels_not_flipped, stem_not_flipped, channels_flipped, order_for_each_kernel),
    ],
)
def test_a_planted_fault_is_noticed(fault, old):
    """Each moves the logits away from what Keras computed, a million times as far as the bound."""
    told = read(old["keras1-theano-th"], kernels="theano")

    assert apart(logits(told, fault(told)), RECORDED["keras1-theano-th"]["logits"]) > FAULT


def test_a_kernel_whose_shape_tells_nothing_is_among_them():
    """In the published 121 it is `conv2_3_x1`, 128 to 128."""
    assert [layers_of(arch)["conv2_3_x1"][2:] for arch in (SMALL, NAMED["121"])] == [(16, 16), (128, 128)]


# -- Keras 3 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scale.h5", "scale.weights.h5"])
def test_what_keras_3_saved_gives_its_own_logits(name, keras_3):
    """A Scale layer is no class of Keras's: `.weights.h5` numbers its variables, the legacy form names them."""
    found = read(keras_3 / name)

    assert (found.ledger.kernels, found.ledger.kernels_assumed) == ("tensorflow", False)
    assert apart(logits(found), np.load(keras_3 / "logits.npy")) < BOUND


def test_keras_computes_the_same_with_the_converted_file(old, tmp_path):
    """The port in Keras 3, against our own pass of the old file, in float64 and float32; which is no proof."""
    convert(old["keras1-theano-tf"], out=tmp_path / "ours.weights.h5", kernels="theano")

    found = parity.check(
        tmp_path / "ours.weights.h5", against=old["keras1-theano-tf"], kernels="theano", sizes=(33,), threads=1
    )

    assert (found.passed, found.independent, found.proven) == (True, False, False)


def test_a_wrong_word_about_the_kernels_fails_the_check(old, tmp_path):
    """The same file, taken the default way, is another network."""
    convert(old["keras1-theano-tf"], out=tmp_path / "ours.weights.h5")

    found = parity.check(
        *(tmp_path / "ours.weights.h5",),
        against=old["keras1-theano-tf"],
        kernels="theano",
        backend="numpy",
        sizes=(33,),
        threads=1,
    )

    assert not found.passed


# -- what we write ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ordering", "kernels"), FORMS)
def test_there_and_back_gives_the_same_tensors(ordering, kernels, old, any_size, tmp_path):
    """Once folded, a network goes through every form with all of its bits, and the file says which form it has."""
    convert(old["keras1-theano-th"], out=tmp_path / "ours.h5", kernels="theano", dtype="float64")
    form = {"dim_ordering": ordering, "dst_kernels": kernels}
    convert(tmp_path / "ours.h5", out=tmp_path / "theirs.h5", dst=any_size, dtype="float64", **form)
    convert(tmp_path / "theirs.h5", out=tmp_path / "back.h5", dtype="float64")

    assert read(tmp_path / "theirs.h5").ledger.kernels == kernels
    assert diff(read(tmp_path / "ours.h5"), read(tmp_path / "back.h5")).differing == ()


@pytest.mark.parametrize(("ordering", "kernels"), FORMS)
def test_what_is_written_is_what_keras_1_wrote(ordering, kernels, old, any_size, tmp_path):
    """Layers with weights, lists and datasets, of the same names, types and shapes, and no other attribute.

    Keras 1.2.2 and 2.3.1 took such files on both backends, by order and by name: docs/layouts/flyyufelix.md.
    """
    form = {"dim_ordering": ordering, "dst_kernels": kernels}
    convert(old["keras1-theano-th"], out=tmp_path / "theirs.h5", kernels="theano", dst=any_size, **form)

    assert weighted(tmp_path / "theirs.h5") == weighted(old[f"keras1-theano-{ordering}"])


def weighted(path):
    """What Keras loads from a file: the root's attributes, and each layer's list with the shapes in it."""
    with h5py.File(path) as file:
        lists = [(name.decode(), file[name].attrs["weight_names"]) for name in file.attrs["layer_names"]]
        return [*file.attrs], {
            layer: (names.dtype, [(name.decode(), file[layer][name].shape, file[layer][name].dtype) for name in names])
            for layer, names in lists
            if len(names)
        }


@pytest.mark.parametrize(("ordering", "kernels"), FORMS)
def test_what_is_written_computes_the_same_as_it_is_stored(ordering, kernels, old, any_size, tmp_path):
    """Convolved or correlated as it was asked for, by SciPy, with a Scale behind an identity."""
    row = ROWS[f"keras1-{kernels}-{ordering}"]
    form = {"dim_ordering": ordering, "dst_kernels": kernels}
    source = old["keras1-theano-th"]
    convert(source, out=tmp_path / "o.h5", kernels="theano", dst=any_size, dtype="float64", **form)

    assert apart(logits_by_scipy(tmp_path / "o.h5", pictures(), row), RECORDED["keras1-theano-th"]["logits"]) < BOUND


def test_nothing_but_the_scale_layer_carries_the_affine_map(old, any_size, tmp_path):
    """The norm's own scale is one and its shift zero, as in the published files."""
    convert(old["keras1-theano-th"], out=tmp_path / "theirs.h5", kernels="theano", dst=any_size)

    with h5py.File(tmp_path / "theirs.h5") as file:
        found = {name: file[f"conv1_bn/conv1_bn_{name}"][()].tolist() for name in ("gamma", "beta")}
    assert found == {"gamma": [1.0] * 8, "beta": [0.0] * 8}


def test_other_sizes_than_the_published_are_not_written(old, tmp_path):
    """Its classes cannot build them; they are read all the same."""
    with pytest.raises(MisfitError, match="flyyufelix cannot hold this network: layers must be"):
        convert(old["keras1-theano-th"], out=tmp_path / "theirs.h5", dst="flyyufelix")


# -- the published size ----------------------------------------------------------------------------------------------


def test_a_whole_121_becomes_the_network_that_it_was(tmp_path):
    """With another head, as after fine-tuning, it is recognised without a word."""
    arch, row, images = replace(NAMED["121"], classes=7), ROWS["keras1-theano-th"], pictures()[:1, :32, :32]
    path = rebuilt(tmp_path / "densenet121_weights_th.h5", arch, row)
    told = read(path)

    assert (told.layout, told.architecture) == ("flyyufelix", arch)
    assert apart(logits(told, images=images), logits_by_scipy(path, images, row)) < BOUND
