"""HDF5 of other forms than Keras writes is read like Keras's own, from a plain copy; nothing hostile gets through."""

import gc
import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from densenet_port import formats
from densenet_port.checkpoint import array_digest
from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.errors import CorruptError, DiskError, UsageError
from densenet_port.formats.hdf5 import copy
from densenet_port.formats.keras import h5 as keras_h5
from densenet_port.formats.keras.h5_write import write_weights_h5
from tests.formats import test_keras_h5 as forms
from tests.support.containers import content, damaged, outcome, telling, weights
from tests.support.keras_process import real_files
from tests.support.networks import checkpoint_file

OTHER = {  # forms that our reader does not know: of the file, and of its datasets
    "latest": ({"libver": "latest"}, {}),
    "latest, deflated, shuffled and summed": (
        {"libver": "latest"},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
    ),
    "latest, chunked and growing": ({"libver": "latest"}, {"chunks": True, "maxshape": None}),
    "of HDF5 1.8": ({"libver": ("v108", "v108")}, {"compression": 3}),
    "in order of creation": ({"track_order": True}, {}),
    "packed by lzf": ({}, {"compression": "lzf"}),
}
KNOWN = {  # forms that it does know
    "plain": ({}, {}),
    "deflated": ({}, {"compression": "gzip"}),
    "shuffled, deflated and summed": ({}, {"compression": 9, "shuffle": True, "fletcher32": True}),
}


def rewritten(source, target, form):
    """An HDF5 file, written by h5py in another form; `source` and `target` are paths or files."""
    of_file, of_datasets = form
    order = of_file.get("track_order")

    def walk(old, new):
        for name, value in old.attrs.items():
            new.attrs[name] = value
        for name, node in old.items():
            if isinstance(node, h5py.Group):
                walk(node, new.create_group(name, track_order=order))
                continue
            packing = of_datasets if node.shape and node.size else {}
            if "maxshape" in packing:
                packing = packing | {"maxshape": (None,) * node.ndim}
            made = new.create_dataset(name, data=node[()], **packing)
            for key, value in node.attrs.items():
                made.attrs[key] = value

    with h5py.File(source) as old, h5py.File(target, "w", **of_file) as new:
        walk(old, new)
    return target


@pytest.fixture
def no_process(monkeypatch):
    """Whoever starts a process fails."""
    monkeypatch.setattr(subprocess, "run", None)


# -- the same tensors --------------------------------------------------------------------------------------------------

FILES = ("automatic.weights.h5", "automatic.h5", "whole.h5", "compiled.weights.h5", "bfloat16.weights.h5")


def each(forms):
    """One file in each form, and each other file in the first one."""
    first, *others = FILES
    return [*((first, form) for form in forms), *((name, next(iter(forms))) for name in others)]


@pytest.mark.parametrize(("name", "form"), each(OTHER))
def test_a_file_of_another_form_is_the_same_checkpoint(name, form, tmp_path):
    """Tensors in their order, to the bit, with everything that the file says of itself; under its own name."""
    path = rewritten(real_files() / name, tmp_path / name, OTHER[form])

    found, expected = keras_h5.read(path), keras_h5.read(real_files() / name)

    assert content(found.tensors) == content(expected.tensors)
    assert (found.metadata, found.record, found.path) == (expected.metadata, expected.record, path)


@pytest.mark.parametrize(("name", "form"), each(KNOWN))
def test_what_our_reader_knows_starts_no_process(name, form, tmp_path, no_process):
    """Whatever h5py would make of it."""
    path = rewritten(real_files() / name, tmp_path / name, KNOWN[form])

    assert content(keras_h5.read(path).tensors) == content(keras_h5.read(real_files() / name).tensors)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_weights_of_an_archive_may_be_of_another_form(compression, tmp_path):
    """They are copied out of it, inflated or not."""
    weights_of = io.BytesIO()
    with zipfile.ZipFile(real_files() / "automatic.keras") as old:
        members = {name: old.read(name) for name in old.namelist()}
    rewritten(io.BytesIO(members["model.weights.h5"]), weights_of, OTHER["latest"])
    with zipfile.ZipFile(tmp_path / "x.keras", "w", compression) as new:
        for name, data in (members | {"model.weights.h5": weights_of.getvalue()}).items():
            new.writestr(name, data)

    found, expected = formats.read(tmp_path / "x.keras"), formats.read(real_files() / "automatic.keras")
    assert content(found.tensors) == content(expected.tensors)
    assert (found.metadata, found.path) == (expected.metadata, tmp_path / "x.keras")


def test_a_file_of_ours_that_was_rewritten_keeps_its_record(tmp_path):
    """It is bytes like any others to h5py."""
    write_weights_h5(tmp_path / "x", weights(), telling())
    path = rewritten(tmp_path / "x", tmp_path / "y", OTHER["latest"])

    assert keras_h5.read(path).record == keras_h5.read(tmp_path / "x").record


@pytest.mark.parametrize("form", ["latest, deflated, shuffled and summed", "in order of creation"])
def test_a_densenet_121_of_another_form_converts_to_the_same_tensors(form, tmp_path):
    """And the record names the file that was given, not its copy. Of a file of ours the record is left out."""
    plain, bare = tmp_path / "plain.weights.h5", tmp_path / "bare.weights.h5"
    convert(checkpoint_file(tmp_path, "121", "zip"), out=plain)
    shutil.copy(plain, bare)
    with h5py.File(bare, "r+") as file:
        del file["densenet_port"]
    path = rewritten(bare, tmp_path / "other.weights.h5", OTHER[form])

    done = convert(path, dst="torchvision", out=tmp_path / "back.pth")

    expected = {slot: array_digest(array) for slot, array in read(plain).weights.items()}
    assert {slot: array_digest(array) for slot, array in read(tmp_path / "back.pth").weights.items()} == expected
    assert done.record["source"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def many_attributes(file):
    """So many that they stand in a heap of their own; Keras's name is among them."""
    for n in range(50):
        file["layers/scale/vars"].attrs[f"note {n}"] = "x" * 100
    file["layers/scale/vars"].attrs["name"] = "given"


def type_of_its_own(file):
    """A type that has a name in the file."""
    file["type"] = np.dtype("f4")
    file.create_dataset("layers/scale/vars/1", data=forms.VECTOR, dtype=file["type"])


def lists_of_names(file):
    """Keras's lists, in each way that h5py keeps texts, and an empty one as no floats."""
    file.attrs["layer_names"] = ["a", "b", "c"]
    file.require_group("a").attrs["weight_names"] = np.array([b"gamma"])
    file["a/gamma"] = forms.VECTOR
    file.require_group("b").attrs["weight_names"] = np.array([], "f8")
    file.require_group("c").attrs["weight_names"] = h5py.Empty("f8")


def many_members(file):
    """A group of 3000, in a heap with an index."""
    for n in range(3000):
        file[f"layers/scale/vars/{n}"] = np.float32(n)


@pytest.mark.parametrize("make", [many_attributes, type_of_its_own, lists_of_names, many_members])
def test_structures_of_the_latest_form_read_as_those_of_the_earliest(make, tmp_path):
    """Dense groups and attributes, types with names, every kind of text."""
    found = []
    for libver in ("latest", "earliest"):
        with h5py.File(tmp_path / libver, "w", libver=libver) as file:
            if make is not lists_of_names:
                file["layers/scale/vars/0"] = forms.VECTOR
            if make is many_members:
                del file["layers/scale/vars/0"]
            make(file)
        found.append(content(keras_h5.read(tmp_path / libver).tensors))

    assert found[0] == found[1]


# -- what it leaves ----------------------------------------------------------------------------------------------------


@pytest.fixture
def latest(tmp_path):
    """A file of Keras's in the latest form."""
    return rewritten(real_files() / "automatic.h5", tmp_path / "x.h5", OTHER["latest"])


def test_nothing_is_left(latest, tmp_path, monkeypatch):
    """No file in the folder for temporary ones while tensors are read, no descriptor when they are gone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))

    def descriptors():
        gc.collect()  # what other tests left
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    item = next(iter(keras_h5.read(latest).tensors.values()))
    during = descriptors()
    item.load()
    left = list(folder.iterdir())
    del item

    assert (left, during, descriptors()) == ([], before + 1, before)


def test_a_folder_that_cannot_be_written_is_the_disk_s_fault(latest, monkeypatch):
    """And the way out is said."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")

    with pytest.raises(DiskError) as caught:
        keras_h5.read(latest)

    message = "its copy cannot be written to the folder for temporary files: No such file or directory"
    assert str(caught.value) == f"{latest}: {message}\n  make room there, or set TMPDIR to another folder"


# -- limits ------------------------------------------------------------------------------------------------------------


def refused(path, kind=CorruptError):
    """The error of a file that must be refused, without its path."""
    with pytest.raises(kind) as caught:
        keras_h5.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def test_a_process_that_does_not_end_is_stopped(latest, monkeypatch):
    """libhdf5 hangs on some damaged files."""
    monkeypatch.setattr(copy, "SECONDS", 0.01)

    assert refused(latest) == "h5py does not come to an end with it in 0.01 s\n  fetch or copy the file again"


@pytest.mark.parametrize(
    ("script", "end"), [("kill -9 $$", "was stopped by signal 9"), ("echo no words of ours; exit 3", "ended with 3")]
)
def test_a_process_that_dies_is_an_error_about_the_file(script, end, latest, tmp_path, monkeypatch):
    """libhdf5 crashes on others."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))

    assert refused(latest) == f"h5py {end} while it read the file\n  fetch or copy the file again"


def test_memory_has_a_limit(tmp_path, monkeypatch):
    """The process may not take what a dataset claims, though the file could hold it."""
    monkeypatch.setattr(copy, "MEMORY", 350 * 2**20)
    monkeypatch.setattr(copy, "RATIO", 0)
    with h5py.File(tmp_path / "x", "w", libver="latest") as file:
        file.create_dataset("layers/scale/vars/0", data=np.zeros(2**26, "f4"), chunks=(2**26,), compression=1)

    assert "memory" in refused(tmp_path / "x") or "allocate" in refused(tmp_path / "x")


def test_without_h5py_it_is_said_how_to_get_it(latest, tmp_path, monkeypatch):
    """A broken installation."""
    (tmp_path / "h5py.py").write_text("raise ImportError('no such library')\n")
    monkeypatch.syspath_prepend(tmp_path)

    expected = 'h5py cannot be imported: no such library\n  pip install "h5py>=3.10"'
    assert refused(latest, UsageError) == expected


def test_a_filter_that_h5py_lacks_is_named(tmp_path, monkeypatch):
    """No plugin is looked for, wherever the environment says that there are some."""
    monkeypatch.setenv("HDF5_PLUGIN_PATH", str(tmp_path))
    with h5py.File(tmp_path / "x", "w") as file:
        file.create_dataset("layers/scale/vars/0", data=np.zeros(1000, "f4"), compression="lzf")
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(data.replace((32000).to_bytes(2, "little"), (32001).to_bytes(2, "little")))

    assert "h5py cannot read it: " in refused(tmp_path / "x")


# -- hostile files -----------------------------------------------------------------------------------------------------


def terabyte(file):
    file.create_dataset("layers/conv2d/vars/0", (2**38,), "f4", chunks=(2**20,), compression="gzip")


def references(file):
    file["layers/conv2d/vars/0"] = forms.KERNEL
    file.create_dataset("layers/conv2d/vars/1", data=[file["layers"].ref], dtype=h5py.ref_dtype)


def region(file):
    file["layers/conv2d/vars/0"] = forms.KERNEL
    file["layers"].attrs["part"] = file["layers/conv2d/vars/0"].regionref[:1]


def lists(file):
    kind = h5py.vlen_dtype(np.float32)
    file.create_dataset("layers/conv2d/vars/0", (1,), kind)[0] = forms.VECTOR


def linked_to_itself(file):
    file["layers/conv2d/vars/0"] = forms.KERNEL
    file["layers/again"] = file["/"]


def two_axes_of_names(file):
    file.attrs["layer_names"] = np.array([[b"a", b"b"], [b"c", b"d"]])


HOSTILE = {
    forms.external_link: "'conv2d' is a link of kind 'external', which is refused",
    forms.soft_link: "'conv2d' is a link of kind 'soft', which is refused",
    forms.soft_link_in_a_new_group: "'conv2d' is a link of kind 'soft', which is refused",
    forms.external_storage: "the data of /layers/conv2d/vars/0 stand in another file, which is refused",
    forms.virtual_dataset: "the data of /layers/conv2d/vars/0 stand in another file, which is refused",
    forms.ring: "/layers/conv2d/again: groups stand within themselves, or more than 64 deep",
    forms.bush: "it has more than 20000 groups and datasets",
    forms.never_written: "its datasets claim 4398046511104 bytes",
    forms.bomb_of_zeros: "its datasets claim 34359738368 bytes",
    forms.giant_chunk: "its datasets claim 2147483648 bytes",
    forms.missing_chunks: "/layers/conv2d/vars/0 lacks some of its data",
    forms.same_bytes_again: "its datasets claim",
    forms.words: "holds values of type object, expected numbers",
    forms.fixed_words: "holds values of type |S5, expected numbers",
    forms.pairs: "/layers/conv2d/vars/0 holds values of type",
    forms.opaque: "holds values of type |V2, expected numbers",
    forms.nothing: "HDF5, but holds no Keras weights",
    terabyte: "its datasets claim 1099511627776 bytes",
    references: "/layers/conv2d/vars/1 holds values of type object, expected numbers or texts",
    region: "the attribute 'part' of /layers holds values of type object, expected numbers or texts",
    lists: "/layers/conv2d/vars/0 holds values of type object, expected numbers or texts",
    linked_to_itself: "/layers/again: groups stand within themselves, or more than 64 deep",
    two_axes_of_names: "attribute layer_names is cut off or has several axes",
}


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_a_hostile_file_of_the_latest_form_is_refused_by_name(make, tmp_path):
    """In the words that our own reader has for it, or nearly; nothing leaves the file, nothing takes long."""
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        make(file)

    assert HOSTILE[make] in refused(tmp_path / "x.h5")


def test_no_other_file_is_opened(tmp_path, monkeypatch):
    """Nor is one that a link names looked for: it does not matter whether it is there."""
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["layers/conv2d/vars/0"] = forms.KERNEL
    monkeypatch.chdir(tmp_path)
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        forms.external_link(file)

    assert refused(tmp_path / "x.h5") == "'conv2d' is a link of kind 'external', which is refused"


@settings(max_examples=25, deadline=60_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_damage_ends_in_an_error_of_ours_or_in_a_checkpoint(draw, latest, tmp_path, monkeypatch):
    """libhdf5's checksums find most of it; what it dies of, or does not end with, is an error, too."""
    monkeypatch.setattr(copy, "SECONDS", 20)
    data = draw.draw(damaged(latest.read_bytes()))

    assert outcome(keras_h5.read, tmp_path / "y", data) in ("read", "corrupt")


def test_a_file_that_is_cut_off_is_refused(latest, tmp_path):
    """Wherever."""
    data = latest.read_bytes()

    cuts = [int(part * len(data)) for part in (0.1, 0.5, 0.9, 0.9999)]
    assert {outcome(keras_h5.read, tmp_path / "y", data[:cut]) for cut in cuts} == {"corrupt"}
