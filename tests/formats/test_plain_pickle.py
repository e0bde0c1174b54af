"""Plain pickles of tensors: read as PyTorch's containers are, whatever the protocol, and nothing in them runs."""

import io
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from densenet_port import formats
from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.errors import CorruptError, MisfitError
from tests.support.containers import content, true

PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3, 4, 5])
RNG = np.random.default_rng(4)
ARRAYS = {
    "features.conv0.weight": RNG.standard_normal((4, 3, 7, 7)).astype("f4"),
    "double": RNG.standard_normal(5),
    "half": RNG.standard_normal(6).astype("f2"),
    "count": np.array(7, "i8"),
    "mask": np.array([True, False]),
}


def pickled(path, thing, protocol=4):
    """A file of it."""
    path.write_bytes(pickle.dumps(thing, protocol))
    return path


@PROTOCOLS
def test_a_state_dict_of_pytorch(protocol, tmp_path):
    """`pickle.dump(model.state_dict(), file)`."""
    state = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}

    checkpoint = formats.read(pickled(tmp_path / "x.pkl", state, protocol))

    assert (checkpoint.container, checkpoint.metadata["form"]) == ("pth", "pickle")
    assert content(checkpoint.tensors) == true(ARRAYS)


@PROTOCOLS
def test_a_dict_of_numpy_s_arrays(protocol, tmp_path):
    """Which is what `joblib` has in memory, and Paddle in its files."""
    assert content(formats.read(pickled(tmp_path / "x.pkl", ARRAYS, protocol)).tensors) == true(ARRAYS)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "stream"])
@PROTOCOLS
def test_a_dict_of_numpy_s_arrays_that_torch_saved(protocol, is_zip, tmp_path):
    """`torch.save` of what another framework's weights are, in both of its containers."""
    torch.save(ARRAYS, tmp_path / "x.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)

    assert content(formats.read(tmp_path / "x.pth").tensors) == true(ARRAYS)


class Shared:
    """An array of NumPy's whose elements a pickle has once, however many arrays there are."""

    def __reduce__(self):
        """As protocol 5 writes an array."""
        return np._core.numeric._frombuffer, (ELEMENTS, np.dtype("i1"), (len(ELEMENTS),), "C")


ELEMENTS = bytes(1_000_000)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "stream"])
def test_one_text_as_many_arrays_is_refused(is_zip, tmp_path):
    """A megabyte that is a hundred of them: more than three times the pickle."""
    path = tmp_path / "x.pth"
    torch.save({"a": Shared(), "b": Shared()}, path, pickle_protocol=4, _use_new_zipfile_serialization=is_zip)
    assert {name: tensor.shape for name, tensor in formats.read(path).tensors.items()} == {"a": (10**6,), "b": (10**6,)}

    many = [Shared() for _ in range(100)]
    torch.save(many, path, pickle_protocol=4, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(CorruptError, match=r"x\.pth: storages of 4000000 bytes, at most 30\d+ are in the file"):
        formats.read(path)


@PROTOCOLS
def test_arrays_in_the_other_order(protocol, tmp_path):
    """A transpose that was saved; the elements are where they were."""
    turned = {"a": np.arange(24.0).reshape(2, 3, 4).T, "b": np.asfortranarray(np.arange(6, dtype="f4").reshape(2, 3))}

    assert content(formats.read(pickled(tmp_path / "x.pkl", turned, protocol)).tensors) == true(turned)


def test_the_parameters_of_jax(tmp_path):
    """Nested as Flax has them, in bfloat16 too; the names are joined by dots."""
    kernel = np.arange(6, dtype="f4").reshape(2, 3)
    tree = {"params": {"conv": {"kernel": jnp.asarray(kernel)}}, "half": {"a": jnp.ones(2, "bfloat16")}}

    tensors = formats.read(pickled(tmp_path / "x.pkl", tree)).tensors

    assert content(tensors) == [
        ("params.conv.kernel", "float32", (2, 3), kernel.tobytes()),
        ("half.a", "bfloat16", (2,), np.ones(2, "f4").tobytes()),
    ]


def test_paddle_s_parameters(files, tmp_path):
    """As `paddle.save` pickles them, with the names of its own that it adds."""
    planned = convert(files["zip"], out=None, dst="paddle")
    state = {name: tensor.load() for name, tensor in planned.tensors.items()}
    own = {"StructuredToParameterName@@": {name: f"conv2d_{number}.w_0" for number, name in enumerate(state)}}

    ported, source = read(pickled(tmp_path / "x.pdparams", state | own)), read(files["zip"])

    assert (ported.layout, ported.contract) == ("paddle", source.contract)
    assert {slot: array.tobytes() for slot, array in ported.weights.items()} == {
        slot: array.tobytes() for slot, array in source.weights.items()
    }


@pytest.mark.parametrize("protocol", [0, 1])
def test_pickles_of_python_2_are_called_so(protocol, tmp_path):
    """Nothing says of them that they are pickles, but how they begin."""
    path = pickled(tmp_path / "x.pkl", ARRAYS, protocol)

    with pytest.raises(MisfitError) as caught:
        formats.read(path)

    assert str(caught.value) == (
        f"{path}: a pickle of protocol 0 or 1, as Python 2 wrote them\n  if you trust it, in Python, `import pickle; "
        f"pickle.dump(pickle.load(open('{path}', 'rb'), encoding='latin1'), open('{tmp_path}/x-2.pkl', 'wb'), 2)`, "
        "then convert that"
    )


def test_arrays_without_names_are_refused(tmp_path):
    """`model.get_weights()`: their order alone would say what they are."""
    path = pickled(tmp_path / "x.pkl", [*ARRAYS.values()])

    with pytest.raises(MisfitError, match="arrays without names, which say what they are by their order alone"):
        read(path)


def test_shared_storages_and_windows(tmp_path):
    """Two tensors of one storage, one of them turned, and a whole module."""
    whole = torch.arange(12.0)
    state = {"whole": whole, "turned": whole[2:8].view(2, 3).t(), "module": torch.nn.Linear(2, 2)}

    tensors = formats.read(pickled(tmp_path / "x.pkl", state)).tensors

    assert [*tensors] == ["whole", "turned", "module.weight", "module.bias"]
    assert tensors["turned"].load().tolist() == [[2, 5], [3, 6], [4, 7]]


@pytest.mark.parametrize(
    "array",
    [np.ones(3, ">f4"), np.array(["x"]), np.ones(2, "c8")],
    ids=["big-endian", "text", "complex"],
)
def test_arrays_of_other_forms_are_told_as_what_they_are(array, tmp_path):
    """They stay opaque, and a file of nothing else holds no tensors."""
    with pytest.raises(CorruptError, match="holds no tensors, only objects of numpy"):
        formats.read(pickled(tmp_path / "x.pkl", {"a": array}))


def test_a_file_behind_its_pickle(tmp_path):
    """A pickle that ends before its file does is not the whole of it."""
    path = pickled(tmp_path / "x.pkl", ARRAYS)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"more")

    with pytest.raises(CorruptError, match=f"x.pkl: a pickle that ends at byte {size} of {size + 4}"):
        formats.read(path)


class Replaced:
    """Pickles as a call with any arguments."""

    def __init__(self, maker, *arguments):
        self.call = maker, arguments

    def __reduce__(self):
        return self.call


def stream(thing):
    """PyTorch's stream of it."""
    file = io.BytesIO()
    torch.save(thing, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def rebuilt(inner):
    """A tensor whose storage is what a stream holds."""
    load, rebuild = torch.storage._load_from_bytes, torch._utils._rebuild_tensor_v2
    return Replaced(rebuild, Replaced(load, inner), 0, (2,), (1,), False, {})


STORAGE = torch.ones(2).untyped_storage()
HOSTILE = {
    "no bytes": (rebuilt(7), "elements of a tensor that are no bytes"),
    "no stream": (rebuilt(b"hello"), "broken pickle near byte"),
    "another object": (rebuilt(stream({"a": 1})), "a plain pickle with a storage that is none"),
    "cut short": (rebuilt(stream(STORAGE)[:-3]), "is cut short"),
    "a stream that runs": (rebuilt(stream(Replaced(print, "ran"))), "a plain pickle with a storage that is none"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_storage_is_refused(case, tmp_path, capsys):
    """And nothing runs."""
    thing, message = HOSTILE[case]

    with pytest.raises(CorruptError) as caught:
        formats.read(pickled(tmp_path / "x.pkl", {"a": thing}))

    assert message in caught.value.message
    assert capsys.readouterr().out == ""


def test_an_array_whose_shape_and_bytes_differ(tmp_path):
    """Lengths are compared before anything is made of them."""
    data = pickle.dumps({"a": np.ones(3, "f4")}, 5)
    path = tmp_path / "x.pkl"
    path.write_bytes(data.replace(b"K\x03\x85", b"K\x09\x85"))

    with pytest.raises(CorruptError, match=r"an array of NumPy's of shape \(9,\) with 12 bytes"):
        formats.read(path)
