"""What every container must do: the same bytes twice, each tensor read once, and an error of ours for any other file.

A container's own hostile files stand in its own tests; here is what holds for all of them.
"""

import gc
import json
import re
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from string import ascii_letters

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from densenet_port import formats
from densenet_port.checkpoint import Tensor
from densenet_port.conversion.convert import convert, verify
from densenet_port.conversion.load import read
from densenet_port.errors import CorruptError, DiskError, MisfitError, PortError
from densenet_port.formats.source import Source
from densenet_port.formats.torch import pth
from densenet_port.layouts.layout import Layout
from densenet_port.network.architecture import Architecture
from tests.hostile.seeds import ARCH, READ, WRITTEN, seeds
from tests.support.containers import content, damaged, large, outcome, peak, telling, tensor, watched

IN_MEMORY = ("packed.keras", "plain.pkl")  # once the file is read
MANY = settings(max_examples=100, deadline=20_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
SOME = settings(MANY, max_examples=25)  # each of them asks every table


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    """A small network in every container that is read: container → path; nobody changes them."""
    return seeds(tmp_path_factory.mktemp("every"))


@pytest.fixture(scope="module")
def source(every):
    return every[".safetensors"]


EVERY_WRITTEN = pytest.mark.parametrize("ending", WRITTEN)
EVERY_READ = pytest.mark.parametrize("container", READ)


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def later(tmp_path_factory, source, every):
    """The same files, written when the clocks of all containers have moved: HDF5 counts seconds, a zip two of them."""
    time.sleep(2.1)
    folder = tmp_path_factory.mktemp("later")
    for ending, layout in WRITTEN.items():
        convert(source, out=folder / f"x{ending}", dst=layout)
        convert(every[ending], out=folder / f"y{ending}", dst=layout)
    return folder


@EVERY_WRITTEN
def test_the_same_input_gives_the_same_bytes(ending, source, later, tmp_path):
    """No clock is looked at, and no name of a file."""
    (tmp_path / "renamed").write_bytes(source.read_bytes())
    convert(tmp_path / "renamed", out=tmp_path / f"z{ending}", dst=WRITTEN[ending])

    assert (later / f"x{ending}").read_bytes() == (tmp_path / f"z{ending}").read_bytes()


@EVERY_WRITTEN
def test_every_tensor_is_loaded_once_in_order_and_the_record_last(ending, source, tmp_path):
    """The record that stands in the file was asked for after the last tensor."""
    target = Layout.load(WRITTEN[ending])
    planned = convert(source, out=None, dst=WRITTEN[ending])
    blueprint = target.blueprint(planned.source.architecture, planned.contract)
    asked = []

    def record():
        asked.append("record")
        return json.dumps({"calls": 1000 + len(asked)}).encode()

    formats.write(tmp_path / f"x{ending}", watched(planned.tensors, asked), record, blueprint)

    names = [name for name in asked if name != "record"]
    last = max(place for place, name in enumerate(asked) if name != "record")
    calls = formats.read(tmp_path / f"x{ending}").record["calls"]
    if ending == ".caffemodel":  # statistics stand before the scale there
        assert names[1:6] == ["conv1/bn#0", "conv1/bn#1", "conv1/bn#2", "conv1/scale#0", "conv1/scale#1"]
        names.sort(key=[*planned.tensors].index)
    assert (names, calls) == (list(planned.tensors), 1000 + last + 2)
    assert "record" not in asked[asked.index(next(iter(planned.tensors))) : last]


PLAIN = (".pth", ".safetensors", ".h5", ".weights.h5", ".npz")  # containers of any tensors, and not of networks alone


@pytest.mark.parametrize("ending", PLAIN)
def test_memory_is_that_of_a_tensor(ending, tmp_path):
    """Forty megabytes pass through two or three, out and in."""

    def there_and_back():
        formats.write(tmp_path / f"x{ending}", large(), telling())
        for item in formats.read(tmp_path / f"x{ending}").tensors.values():
            item.load()

    assert peak(there_and_back) < 4 * 2**20


VECTOR = np.linspace(0.1, 0.4, 4, dtype="f4")
BROKEN = {
    "shape": Tensor((4,), "float32", lambda: VECTOR[:3]),
    "type": Tensor((4,), "float32", lambda: VECTOR.astype("f8")),
    "bits that bfloat16 has not": Tensor((4,), "bfloat16", lambda: VECTOR),
}


@pytest.mark.parametrize("ending", PLAIN)
@pytest.mark.parametrize("broken", BROKEN)
def test_a_tensor_that_breaks_its_word_stops_the_writing(ending, broken, tmp_path):
    """The head of the file says otherwise, and no file is left; NumPy's has no bfloat16 at all."""
    tensors = {"fc/kernel": tensor(np.zeros((4, 4), "f4")), "fc/bias": BROKEN[broken]}

    with pytest.raises(PortError, match="^fc/bias: ") as caught:
        formats.write(tmp_path / f"x{ending}", tensors, telling())

    expected = {
        "shape": "expected float32 (4,), found float32 (3,) when it was loaded",
        "type": "expected float32 (4,), found float64 (4,) when it was loaded",
        "bits that bfloat16 has not": "is to be written as bfloat16 but has values that bfloat16 cannot hold",
    }
    if (ending, broken) == (".npz", "bits that bfloat16 has not"):
        expected[broken] = "NumPy has no bfloat16"
    assert (caught.value.message, list(tmp_path.iterdir())) == (f"fc/bias: {expected[broken]}", [])


@EVERY_WRITTEN
def test_a_place_that_cannot_be_written_is_a_disk_error(ending, source, tmp_path):
    """A folder that is not there."""
    with pytest.raises(DiskError, match="cannot be written: No such file or directory$"):
        convert(source, out=tmp_path / "missing" / f"x{ending}", dst=WRITTEN[ending])


# -- reading -----------------------------------------------------------------------------------------------------------


def test_every_container_holds_the_same_network(every):
    """Whoever wrote it, the slots are the same to the bit, but for Caffe's and ONNX's own types they are float32."""
    known = {slot: array.tobytes() for slot, array in read(every[".pth"]).weights.items()}

    for container, path in every.items():
        assert {slot: array.tobytes() for slot, array in read(path).weights.items()} == known, container


@pytest.mark.parametrize("module", formats.READERS)
@pytest.mark.parametrize("name", ["missing", "."])
def test_what_cannot_be_opened_is_the_disk_s_fault(module, name, tmp_path):
    """A file that is not there, a folder."""
    with pytest.raises(DiskError, match="cannot be read"):
        formats._module(module).read(tmp_path / name)


@EVERY_READ
def test_a_file_is_open_as_long_as_a_tensor_can_be_read(container, every):
    """And no longer."""

    def times_open():
        gc.collect()
        links = []
        for descriptor in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # the listing's own is gone by now
                links.append(descriptor.readlink())
        return links.count(every[container])

    item = next(iter(formats.read(every[container]).tensors.values()))
    during = times_open()
    item.load()
    del item

    assert (during <= 1, times_open()) == (True, 0)


@EVERY_READ
def test_a_file_that_shrinks_after_it_was_read_is_an_error_too(container, every, tmp_path):
    """And no crash of the process, as with a mapping; a deflated HDF5 is in memory by then."""
    path = tmp_path / f"x{container}"
    path.write_bytes(every[container].read_bytes())
    tensors = formats.read(path).tensors
    path.write_bytes(b"gone")

    if container in IN_MEMORY:
        assert content(tensors) == content(formats.read(every[container]).tensors)
        return
    with pytest.raises(CorruptError, match=re.escape(str(path))):
        [item.load() for item in tensors.values()]


@pytest.mark.parametrize(("container", "name"), [(".pth", "PyTorch file"), (".safetensors", "safetensors")])
def test_a_tensor_that_memory_cannot_hold_is_a_misfit(container, name, every, monkeypatch):
    """A file with a hole in it may claim terabytes, and have them."""
    item = next(iter(formats.read(every[container]).tensors.values()))

    def too_much(*_):
        raise MemoryError

    monkeypatch.setattr(Source, "data", too_much)
    with pytest.raises(MisfitError) as caught:
        item.load()

    message, hint = str(caught.value).split("\n")
    assert message.startswith(f"{every[container]}: a tensor of the {name}")
    assert message.endswith(" needs more memory than there is")
    assert hint == "  its tensors are read one by one; the largest must fit"


@EVERY_READ
def test_a_file_that_is_cut_off_is_refused(container, every, tmp_path):
    """Wherever the download stopped; what a tar ends in holds nothing."""
    data = every[container].read_bytes()
    end = len(data.rstrip(b"\0")) if container == "tar.pth" else len(data)
    cuts = [0, 7, 8, 50, 96, *range(100, end, max(37, end // 150)), end - 1]

    assert {outcome(formats.read, tmp_path / f"x{container}", data[:cut]) for cut in cuts} == {"corrupt"}


@EVERY_READ
@MANY
@given(draw=st.data())
def test_damage_ends_in_an_error_of_ours_or_in_a_checkpoint(container, draw, every, tmp_path):
    """In a header, in a name, in a text, in the numbers; a graph that is another network is a misfit."""
    data = draw.draw(damaged(every[container].read_bytes()))

    assert outcome(formats.read, tmp_path / f"x{container}", data) in ("read", "corrupt", "misfit", "disk")


# -- hostile names, shapes and texts -----------------------------------------------------------------------------------


def survives(path):
    """Read, convert and verify a file: whatever is wrong with it, the error is of our family and can be shown."""
    steps = (
        lambda: [*read(path).weights.values()],
        lambda: convert(path, out=path.with_name("out.weights.h5"), force=True),
        lambda: verify(path),
    )
    for step in steps:
        try:
            step()
        except PortError as error:
            return str(error) and error.kind
    return "fine"


def write_safetensors(path, arrays, record=None):
    """A safetensors file of any names and shapes; the library and our writer would look at them."""
    header, at = {}, 0
    for name, array in arrays.items():
        end = at + array.nbytes
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, end]}
        at = end
    if record is not None:
        header["__metadata__"] = {"densenet_port": json.dumps(record)}
    write_header(path, header, b"".join(array.tobytes() for array in arrays.values()))


def write_header(path, header, data):
    """A safetensors file of a header, which may be anything."""
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_pth(path, arrays, record=None):
    """A checkpoint of PyTorch of any names and shapes."""
    pth.write(path, {name: tensor(array) for name, array in arrays.items()}, lambda: json.dumps(record or {}).encode())


def write_h5(path, arrays, record=None):
    """A legacy file of Keras of any names; h5py refuses a few, which no file can hold."""
    layers = {}
    for name, array in arrays.items():
        layer, _, variable = name.rpartition("/")
        layers.setdefault(layer, {})[variable] = array
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, variables in layers.items():
            group = file.require_group(layer) if layer else file
            group.attrs["weight_names"] = [variable.encode() for variable in variables]
            for variable, array in variables.items():
                group[variable] = array
        if record is not None:
            file["densenet_port/vars/0"] = np.frombuffer(json.dumps(record).encode(), "u1")


WRITERS = {".pth": write_pth, ".safetensors": write_safetensors, ".h5": write_h5}
LAYOUTS = {"torchvision": ".pth", "keras": ".h5", "titu1994": ".h5", "caffe": ".safetensors"}
NUMBERS = ["0", "00", "01", "-1", "²", "٣", "1²", "９", "99999999999999999999", "9" * 5000, "", "1.5", "1e3", "999999"]
WORDS = ["", "0", ".", "/", "..", "a/b", "a\0b", "\n", "{}", "{unit}", "%s", "x" * 100_000, "features", "__metadata__"]


@pytest.fixture(scope="module")
def arrays(source):
    """The tensors of a small network, and the record of its file: layout → both."""
    record = formats.read(source).record
    return {layout: (_arrays(Layout.load(layout)), record | {"layout": layout}) for layout in LAYOUTS}


def _arrays(layout):
    """Random tensors of a network as a layout names and turns them."""
    rng, units = np.random.default_rng(0), Architecture.named(ARCH).units
    found = {}
    for key, spec in layout.spell(Architecture.named(ARCH)).items():
        sizes = {"1": 1, **units[key.unit].sizes}
        shape = tuple(sizes[axis] for axis in spec.axes.replace("-", "").split())
        found[spec.name] = rng.uniform(0.5, 1.5, shape).astype("f4")
    return found


@st.composite
def renamed(draw, name):
    """A name with another number somewhere, with something before or behind it, or another name altogether."""
    numbers = [*re.finditer(r"\d+", name)]
    way = draw(st.sampled_from(["number", "word", "before", "behind"] if numbers else ["word", "before", "behind"]))
    if way == "number":
        spot = draw(st.sampled_from(numbers))
        return name[: spot.start()] + draw(st.sampled_from(NUMBERS)) + name[spot.end() :]
    word = draw(st.one_of(st.sampled_from(WORDS), st.text(st.characters(codec="utf-8"), max_size=6)))
    return {"word": word, "before": f"{word}.{name}", "behind": f"{name}{word}"}[way]


@pytest.mark.parametrize("layout", LAYOUTS)
@SOME
@given(draw=st.data())
def test_any_name_of_a_tensor_is_read_or_refused(layout, draw, arrays, tmp_path):
    """One tensor or all of a block have another name; with the file's own record, and without."""
    tensors, record = arrays[layout]
    old = draw.draw(st.sampled_from([*tensors]))
    new = draw.draw(renamed(old))
    path = tmp_path / f"x{LAYOUTS[layout]}"
    try:
        WRITERS[path.suffix](
            path,
            {new if name == old else name: array for name, array in tensors.items()},
            draw.draw(st.sampled_from([None, record])),
        )
    except (ValueError, OSError, TypeError, KeyError):  # h5py's, for what it cannot write
        return

    survives(path)


@pytest.mark.parametrize("layout", LAYOUTS)
@SOME
@given(draw=st.data())
def test_any_shape_of_a_tensor_is_read_or_refused(layout, draw, arrays, tmp_path):
    """No axis or nine, of length 0, longer and shorter; numbers that are none."""
    tensors, record = arrays[layout]
    name = draw.draw(st.sampled_from([*tensors]))
    shape = draw.draw(
        st.one_of(
            st.lists(st.integers(0, 3), max_size=9).map(tuple),
            st.permutations(tensors[name].shape).map(tuple),
            st.sampled_from([(0,) * tensors[name].ndim, (*tensors[name].shape, 1), (2**40, 0), (0, 2**50)]),
        )
    )
    value = draw.draw(st.sampled_from([1.0, 0.0, -1.0, np.nan, np.inf, 1e38]))
    kept = draw.draw(st.sampled_from([None, record]))
    path = tmp_path / f"x{LAYOUTS[layout]}"
    WRITERS[path.suffix](path, tensors | {name: np.full(shape, value, "f4")}, kept)

    survives(path)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_may_be_infinite_or_no_number(layout, value, arrays, tmp_path):
    """Each in turn, all of it: read or refused, without a warning."""
    tensors, _ = arrays[layout]
    path = tmp_path / f"x{LAYOUTS[layout]}"
    for name, array in tensors.items():
        WRITERS[path.suffix](path, tensors | {name: np.full(array.shape, value, "f4")}, None)

        survives(path)


VALUES = st.one_of(
    st.sampled_from([None, True, -1, 0, 2**40, 10**30, 1.5, float("inf"), float("nan"), "", "x", [], {}, "\ud800"]),
    st.sampled_from([[1], [[]], [None], ["x"], [-1], [10**9], [10**30], [1.5], [True], {"a": 1}, {"a": {}}, [{}]]),
    st.text(ascii_letters, max_size=3),
    st.integers(),
)


@st.composite
def changed(draw, tree):
    """A JSON value with another in one of its places, or one place less."""
    if not isinstance(tree, dict | list) or not tree or draw(st.integers(0, 9)) == 0:
        return draw(VALUES)
    keys = [*tree] if isinstance(tree, dict) else [*range(len(tree))]
    key = draw(st.sampled_from(keys))
    copy = tree.copy()
    if draw(st.integers(0, 9)) == 0:
        del copy[key]
    else:
        copy[key] = draw(changed(tree[key]))
    return copy


@pytest.mark.parametrize("layout", ["torchvision", "keras", "caffe"])
@SOME
@given(draw=st.data())
def test_any_record_is_read_or_refused(layout, draw, arrays, tmp_path):
    """Everything in it may be of another type, or missing."""
    tensors, record = arrays[layout]
    path = tmp_path / f"x{LAYOUTS[layout]}"
    whole = record | {"absorbed": {"from": 1e-5, "to": 1.001e-5, "scale": ["stem.norm"]}, "kernels": "tensorflow"}
    WRITERS[path.suffix](path, tensors, draw.draw(changed(whole)))

    survives(path)


@SOME
@given(draw=st.data())
def test_any_header_of_safetensors_is_read_or_refused(draw, every, tmp_path):
    """Entries, their types, shapes and places; texts that mean something elsewhere are anybody's words here."""
    data = every[".safetensors"].read_bytes()
    length = int.from_bytes(data[:8], "little")
    words = {"epsilon": "small", "notes": "none", "kernels": "x", "layers": "0", "package": "kimm", "output": "loud"}
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = draw.draw(st.sampled_from([words, words | header["__metadata__"]]))
    write_header(tmp_path / "x", draw.draw(changed(header)), data[8 + length :])

    survives(tmp_path / "x")


@pytest.mark.parametrize("member", ["config.json", "metadata.json"])
@SOME
@given(draw=st.data())
def test_any_text_of_a_keras_archive_is_read_or_refused(member, draw, every, tmp_path):
    """The configuration lists layers of any kind; the version may be anything."""
    with zipfile.ZipFile(every[".keras"]) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[member] = json.dumps(draw.draw(changed(json.loads(members[member])))).encode()
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)

    survives(tmp_path / "x.keras")


@SOME
@given(draw=st.data())
def test_any_attribute_of_a_legacy_file_is_read_or_refused(draw, every, arrays, tmp_path):
    """Version, backend and configuration, of any text; norms that look like Keras 1's."""
    with zipfile.ZipFile(every[".keras"]) as archive:
        config = json.loads(archive.read("config.json"))
    tensors = {name.replace("moving_variance", "running_std"): array for name, array in arrays["keras"][0].items()}
    write_h5(tmp_path / "x.h5", draw.draw(st.sampled_from([tensors, arrays["keras"][0]])))
    words = st.sampled_from(["1", "1.0.²", "1.0.٣", "1.0.8", "9" * 5000, "1." + "9" * 5000, "", "theano", "\n"])
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file.attrs["keras_version"], file.attrs["backend"] = draw.draw(words), draw.draw(words)
        file.attrs["model_config"] = json.dumps(draw.draw(changed(config)))[:60_000]

    survives(tmp_path / "x.h5")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"__metadata__": null}',
        b'{"__metadata__": {"densenet_port": "' + b"9" * 5000 + b'"}}',
        b'{"__metadata__": {"densenet_port": "' + b"[" * 100_000 + b'"}}',
        b'{"__metadata__": {"densenet_port": "\\ud800"}}',
    ],
    ids=lambda raw: raw[:45].decode(),
)
def test_numbers_and_depths_that_json_cannot_have_are_refused(raw, tmp_path):
    """They are text when they are read, and errors of Python when they are understood."""
    (tmp_path / "x").write_bytes(len(raw).to_bytes(8, "little") + raw)

    assert survives(tmp_path / "x") == "corrupt"


def test_blocks_that_count_from_0_are_refused_by_name(arrays, tmp_path):
    """What, where, expected, and the way out."""
    tensors = {
        re.sub(r"denseblock(\d)", lambda number: f"denseblock{int(number[1]) - 1}", name): array
        for name, array in arrays["torchvision"][0].items()
    }
    write_pth(tmp_path / "x.pth", tensors)

    with pytest.raises(MisfitError) as caught:
        read(tmp_path / "x.pth", src="torchvision")

    assert str(caught.value) == (
        f"{tmp_path / 'x.pth'}: as torchvision: no DenseNet has block0.layer1.conv1: blocks and layers count from 1, "
        "and here to 9 at most, the number of kernels\n"
        "  if the file counts otherwise, say so in a table of your own (`first`), for --mapping"
    )


@pytest.mark.parametrize("number", [number for number in NUMBERS if number not in ("1", "")])
@pytest.mark.parametrize("word", ["denseblock1", "denselayer1", "transition1"])
def test_numbers_that_no_layout_writes_are_refused(word, number, arrays, tmp_path):
    """Zeros before a number, digits of other scripts, more layers than there are tensors."""
    names = {name: name.replace(word, word[:-1] + number) for name in arrays["torchvision"][0]}
    write_safetensors(tmp_path / "x", {names[name]: array for name, array in arrays["torchvision"][0].items()})

    with pytest.raises(MisfitError, match=re.escape(f"{tmp_path / 'x'}: ")):
        read(tmp_path / "x", src="torchvision")


RECORDS = {
    "a list": ([1], "expected an object, found [1]"),
    "an architecture that is text": (
        {"architecture": "121"},
        "the file's own record of its architecture is unreadable",
    ),
    "layers below 1": ({"architecture": {"layers": [-1]}}, "the file's own record of its architecture is unreadable"),
    "a digest that is none": ({"tensors": {"a": None}}, "tensors.a: expected a string, found None"),
    "digests in a list": ({"tensors": ["a"]}, "tensors: expected an object, found ['a']"),
    "a layout that is none": ({"layout": []}, "layout: expected a string, found []"),
    "kernels that are none": ({"kernels": {}}, "kernels: expected a string, found {}"),
    "an absorption of texts": ({"absorbed": {"from": "a"}}, "absorbed.from: expected an integer or a float, found 'a'"),
    "half an absorption": ({"absorbed": {"from": 1, "to": 2.5}}, "missing key 'absorbed.scale'"),
    "a contract that is text": ({"contract": "same"}, "contract: unreadable"),
    "an epsilon below 0": ({"contract": {"epsilon": -1, "input": {}}}, "contract: epsilon: expected a finite number"),
}


@pytest.mark.parametrize("container", WRITERS)
@pytest.mark.parametrize("case", RECORDS)
def test_a_record_that_we_cannot_have_written_is_refused(container, case, tmp_path):
    """Wherever it stands, in the same words."""
    record, message = RECORDS[case]
    WRITERS[container](tmp_path / f"x{container}", {"a/kernel": np.zeros((2, 2), "f4")}, record)

    with pytest.raises(CorruptError) as caught:
        formats.read(tmp_path / f"x{container}")

    assert f"x{container}: its record: {message}" in str(caught.value)
    assert str(caught.value).endswith("\n  fetch or copy the file again")


def test_words_of_others_mean_nothing(arrays, tmp_path):
    """What another's safetensors calls epsilon is no epsilon of ours."""
    words = {"epsilon": "small", "notes": "none", "kernels": "theano", "layers": "0", "format": "pt"}
    tensors = arrays["torchvision"][0]
    data = b"".join(array.tobytes() for array in tensors.values())
    write_safetensors(tmp_path / "x", tensors)
    header = json.loads((tmp_path / "x").read_bytes()[8 : -len(data)]) | {"__metadata__": words}
    write_header(tmp_path / "x", header, data)

    network = read(tmp_path / "x")

    assert (network.contract.epsilon, network.checkpoint.metadata) == (1e-5, {"format": "pt"})
