"""Nothing damaged is believed: digests of tensors and of the record, checksums of members and of chunks."""

import json
import struct
import zipfile
from contextlib import suppress

import h5py
import numpy as np
import onnx
import pytest
import torch

import densenet_port as dp
from densenet_port import formats
from densenet_port.errors import CorruptError, PortError
from densenet_port.formats.hdf5.read import root
from densenet_port.formats.record import CHANGED, SCHEMAS, record_digest
from densenet_port.formats.source import AGAIN, Source
from densenet_port.network.architecture import Architecture
from tests.support.ports import write_ours
from tests.support.random_weights import random_weights

ARCHITECTURE = Architecture.named("layers=2-2-2-2,growth_rate=4,init_channels=8,classes=5")
FORMS = {
    "x.weights.h5": "keras",
    "x.h5": "keras",
    "x.keras": "keras",
    "x.safetensors": "torchvision",
    "x.pth": "torchvision",
    "x.onnx": "onnx",
    "x.caffemodel": "caffe",
    "x.npz": "torchvision",
}
FLIPS = 40  # bits of each container


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A small network with random weights."""
    path = tmp_path_factory.mktemp("belief") / "source.weights.h5"
    return dp.read(write_ours(path, ARCHITECTURE, dp.Contract(), random_weights(ARCHITECTURE)))


def rewrite_record(path, change):
    """Change the record of a `.safetensors`."""
    whole = path.read_bytes()
    (length,) = struct.unpack_from("<Q", whole)
    header = json.loads(whole[8 : 8 + length])
    record = json.loads(header["__metadata__"]["densenet_port"])
    change(record)
    header["__metadata__"]["densenet_port"] = json.dumps(record)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])


def everything(path):
    """All that a file is read as."""
    network = dp.read(path)
    tensors = {slot: array.tobytes() for slot, array in network.weights.items()}
    return network.architecture, network.contract, dict(network.origins), tensors


@pytest.mark.parametrize(("name", "layout"), FORMS.items(), ids=FORMS)
def test_a_flipped_bit_is_found(name, layout, network, tmp_path):
    """Anywhere in a file, whoever reads it or nobody: in what pads it, in times, in the digest of all this itself."""
    path = tmp_path / name
    network.write(path, layout=layout)
    whole, right = path.read_bytes(), everything(path)
    places, unseen = np.random.default_rng(0), []

    for _ in range(FLIPS):
        damaged, place = bytearray(whole), places.integers(len(whole))
        damaged[place] ^= 1 << int(places.integers(8))
        path.write_bytes(damaged)
        with suppress(PortError):
            unseen.append((place, everything(path) == right))

    assert unseen == []


def h5_attribute(path):
    """What h5py does for a user."""
    with h5py.File(path, "r+") as file:
        file.attrs["note"] = "mine"


def onnx_note(path):
    """What the onnx package does."""
    model = onnx.load(path)
    model.doc_string = "mine"
    onnx.save(model, path)


def zip_comment(path):
    """What any tool for archives does."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"mine"


EDITED = {"x.weights.h5": h5_attribute, "x.onnx": onnx_note, "x.pth": zip_comment}


@pytest.mark.parametrize("name", EDITED)
def test_what_somebody_wrote_beside_the_tensors_is_not_ours(name, network, tmp_path):
    """It says what to do, on every way of reading."""
    path = tmp_path / name
    network.write(path, layout=FORMS[name])
    EDITED[name](path)

    for way in (formats.read, dp.verify, dp.read):
        with pytest.raises(CorruptError) as caught:
            way(path)
        assert caught.value.message == f"{path}: is not as it was written, its tensors left aside"
        assert caught.value.hint == f"{AGAIN}; {CHANGED}"


@pytest.mark.parametrize("name", ["x.pth", "x.keras", "x.npz"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_an_archive_that_was_packed_anew_is_read(name, compression, network, tmp_path):
    """Its members have their checksums, its tensors and its record their digests."""
    path = tmp_path / name
    network.write(path, layout="keras" if name == "x.keras" else "torchvision")
    right = everything(path)
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, data in members.items():
            archive.writestr(member, data)

    assert everything(path) == right


def test_the_weights_of_an_archive_are_read_without_it(network, tmp_path):
    """The archive's comment holds what stands beside them."""
    network.write(tmp_path / "x.keras")
    with zipfile.ZipFile(tmp_path / "x.keras") as archive:
        archive.extract("model.weights.h5", tmp_path)

    assert dp.verify(tmp_path / "model.weights.h5").container == "weights-h5"


@pytest.mark.parametrize("schema", SCHEMAS[:-1])
def test_files_of_earlier_versions_are_read(schema, network, tmp_path):
    """They have no digest of the rest, and the first no digest of the record."""
    path = tmp_path / "x.safetensors"
    network.write(path, layout="torchvision")
    right = everything(path)
    kept = ("rest", "sha256") if schema == SCHEMAS[0] else ("rest",)

    def earlier(record):
        record["schema"] = schema
        record["sha256"] = record_digest(record)
        for key in kept:
            del record[key]

    rewrite_record(path, earlier)

    assert everything(path) == right


def test_a_tensor_that_is_not_the_one_that_was_written_is_refused_when_it_is_loaded(network, tmp_path):
    """It is named, and so is the way on; `verify` reads on to the end."""
    path = tmp_path / "x.weights.h5"
    network.write(path)
    with h5py.File(path, "r+") as file:
        file["layers/conv2d/vars/0"][0, 0, 0, 0] += 1

    damaged = formats.read(path)
    with pytest.raises(CorruptError) as caught:
        damaged.tensors["stem_conv/kernel"].load()
    with pytest.raises(dp.ComparisonError, match="1 tensors are not the ones that were written"):
        dp.verify(path)

    assert caught.value.message == f"{path}: stem_conv/kernel is not the tensor that was written"
    assert caught.value.hint == f"densenet-port verify lists all that differ; {AGAIN}; {CHANGED}"


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda record: record["contract"].update(epsilon=1e-3), "its record is not the one that was written"),
        (lambda record: record.pop("sha256"), "its record: missing key 'sha256'"),
        (lambda record: record.pop("rest"), "its record: missing key 'rest'"),
        (lambda record: record.update(rest="0"), "its record: rest: expected 64 hex digits"),
        (lambda record: record.pop("schema"), "its record: missing key 'schema'"),
        (lambda record: record.update(schema=SCHEMAS[0]), "its record is not the one that was written"),
        (lambda record: record.update(schema=SCHEMAS[1]), "its record is not the one that was written"),
        (
            lambda record: record.update(schema="densenet-port/file/4"),
            f"its record: schema: expected one of {', '.join(SCHEMAS)}, found 'densenet-port/file/4'",
        ),
        (
            lambda record: record.update(tensors={}, sha256=record_digest({**record, "tensors": {}})),
            "classifier.bias is there and not recorded",
        ),
    ],
    ids=["contract", "digest", "rest", "digits", "schema", "first", "second", "version", "tensors"],
)
def test_a_record_is_held_to_its_own_digest(change, detail, network, tmp_path):
    """What it says of the function cannot change unnoticed."""
    path = tmp_path / "x.safetensors"
    network.write(path, layout="torchvision")
    rewrite_record(path, change)

    with pytest.raises(CorruptError) as caught:
        formats.read(path)

    assert caught.value.message == f"{path}: {detail}"


def test_a_record_that_nothing_leads_to_is_missed(network, tmp_path):
    """One bit of its name makes a file that says nothing of itself."""
    path = tmp_path / "x.onnx"
    network.write(path, layout="onnx")
    path.write_bytes(path.read_bytes().replace(b"densenet_port", b"densenet_qort", 1))

    with pytest.raises(CorruptError) as caught:
        formats.read(path)

    assert caught.value.message == f"{path}: it has a record of densenet-port's, but where it should be is none"


# -- checksums of other people's files ---------------------------------------------------------------------------------


def torch_file(path, *, checksums=True):
    """A state dict that PyTorch wrote."""
    torch.serialization.set_crc32_options(checksums)
    torch.save({"conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2)}, path)
    torch.serialization.set_crc32_options(True)
    return path


def flipped(path, pattern):
    """A file with a bit flipped behind the place of a pattern."""
    data = bytearray(path.read_bytes())
    data[data.index(pattern) + len(pattern) - 1] ^= 1
    path.write_bytes(data)
    return path


def test_a_damaged_tensor_of_pytorchs_is_found_by_the_checksum_of_its_member(tmp_path):
    """Which `torch.load` takes as it is."""
    path = flipped(torch_file(tmp_path / "x.pth"), np.float32([3, 4]).tobytes())

    with pytest.raises(CorruptError) as caught:
        formats.read(path).tensors["conv.weight"].load()

    assert "member 'x/data/0' of the zip is damaged: its checksum is " in caught.value.message
    assert torch.load(path)["conv.weight"].flatten()[4] != 4


def test_an_archive_of_pytorchs_without_checksums_is_read_and_it_is_said(tmp_path):
    """All of them are 0 then."""
    path = torch_file(tmp_path / "x.pth", checksums=False)

    checkpoint = formats.read(path)

    assert checkpoint.tensors["conv.weight"].load().sum() == 276
    assert checkpoint.metadata["notes"] == ["it was written without checksums: a damaged bit in it cannot be told"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "deflated"])
def test_a_damaged_array_of_numpys_is_found(save, tmp_path):
    """Whose checksum is that of the array before it was packed."""
    path = tmp_path / "x.npz"
    save(path, **{"conv.weight": np.arange(1000, dtype=np.float32)})
    with zipfile.ZipFile(path) as archive:
        entry = archive.infolist()[0]
    data = bytearray(path.read_bytes())
    data[entry.header_offset + entry.compress_size // 2 + 60] ^= 4
    path.write_bytes(data)

    with pytest.raises(CorruptError):
        formats.read(path).tensors["conv.weight"].load()


def test_a_member_that_is_called_otherwise_in_its_own_header_is_refused(tmp_path):
    """Who reads from the front would see another file."""
    path = torch_file(tmp_path / "x.pth")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"byteorder", b"biteorder", 1))

    with pytest.raises(CorruptError) as caught:
        formats.read(path)

    assert caught.value.message.startswith(f"{path}: ")
    assert "of the zip is called otherwise in its own header" in caught.value.message


@pytest.mark.parametrize("length", [1, 6, 1000, 70_001])
def test_the_checksums_of_hdf5s_chunks_are_compared(length, tmp_path):
    """As libhdf5 writes them, of even and odd lengths, of zeros and of the largest words."""
    path = tmp_path / "x.h5"
    values = np.random.default_rng(0).integers(0, 256, length).astype(np.uint8)
    with h5py.File(path, "w") as file:
        for name, array in {"some": values, "none": values * 0, "all": values * 0 + 255}.items():
            file.create_dataset(name, data=array, chunks=(min(length, 40_000),), fletcher32=True)

    tensors = {name: load_dataset(path, name) for name in ("some", "none", "all")}
    flipped(path, values[:6].tobytes())

    assert [tensors[name].sum() for name in tensors] == [values.sum(dtype=int), 0, 255 * length]
    with pytest.raises(CorruptError, match="a chunk has not the checksum that was written behind it"):
        load_dataset(path, "some")


def load_dataset(path, name):
    """One dataset of a file, by our reader."""
    array = root(Source.of_file(path)).member(name).tensor().load()
    return array.astype(int)
