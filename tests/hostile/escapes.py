"""Files that point out of themselves: by a path, a link, a device, the name of a member, a shard or a file elsewhere.

Each is made in a folder beside which a secret lies, and must be read without anything outside being opened or written.
"""

import hashlib
import io
import json
import os
import pickle
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from densenet_port import formats
from densenet_port.conversion.load import read
from densenet_port.errors import ComparisonError, PortError
from densenet_port.fetch.hub import fetched, is_place
from densenet_port.formats import protobuf as wire
from densenet_port.layouts.layout import Layout
from densenet_port.release.verify import verify_folder
from tests.hostile.bombs import entries, storage, view
from tests.hostile.pickles import Watch

Escape = Callable[[Path, Path], Path]  # (folder, secret) → the file that is read
SECRET = np.full(4, 1234.5, "f4").tobytes()


def onnx(location: str) -> Escape:
    """A model whose tensor stands in a file of some name."""

    def make(folder: Path, secret: Path) -> Path:
        named = location.replace("SECRET", str(secret))
        place = wire.data(13, wire.text(1, "location") + wire.text(2, named))
        tensor = wire.text(8, "t") + wire.integers(1, [4]) + wire.integer(2, 1) + place + wire.integer(14, 1)
        path = folder / "x.onnx"
        path.write_bytes(wire.integer(1, 8) + wire.data(7, wire.data(5, tensor)))
        return path

    return make


def linked(name: str, target: Callable[[Path], Path]) -> Escape:
    """A model whose tensor stands in a file of its own folder, which is a link."""

    def make(folder: Path, secret: Path) -> Path:
        (folder / name.partition("/")[0]).symlink_to(target(secret))
        return onnx(name)(folder, secret)

    return make


def pipe(folder: Path, secret: Path) -> Path:
    """A model whose tensor stands in a pipe, from which nothing ever comes."""
    os.mkfifo(folder / "pipe")
    return onnx("pipe")(folder, secret)


def member(ending: str, name: str) -> Escape:
    """An archive with one member more, of some name."""

    def make(folder: Path, secret: Path) -> Path:
        path = folder / f"x{ending}"
        with zipfile.ZipFile(path, "w") as archive:
            if ending == ".pth":
                archive.writestr(
                    "x/data.pkl", b"\x80\x02" + entries(1, view(storage(f"../{name}", 4), [4], [1])) + b"."
                )
            elif ending == ".keras":
                archive.writestr("config.json", '{"config":{"layers":[]}}')
            elif ending == ".pt2":
                archive.writestr("x/models/model.json", "{}")
                meta = {
                    "dtype": 7,
                    "sizes": [{"as_int": 4}],
                    "strides": [{"as_int": 1}],
                    "storage_offset": {"as_int": 0},
                }
                config = {"config": {"t": {"path_name": name, "use_pickle": False, "tensor_meta": meta}}}
                archive.writestr("x/data/weights/model_weights_config.json", json.dumps(config))
            archive.writestr(name.replace("SECRET", str(secret)) + (".npy" if ending == ".npz" else ""), bytes(16))
        return path

    return make


def tar_of(name: str, kind: bytes = tarfile.REGTYPE) -> Escape:
    """A tar of the oldest form with one member more, perhaps a link."""

    def make(folder: Path, secret: Path) -> Path:
        path = folder / "x.pth"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for each, data in (("storages", pickle.dumps(0, 2)), ("tensors", pickle.dumps(0, 2)), (name, b"N.")):
                info = tarfile.TarInfo(each)
                info.size = len(data) if each != name or kind == tarfile.REGTYPE else 0
                info.type, info.linkname = (kind, str(secret)) if each == name else (tarfile.REGTYPE, "")
                archive.addfile(info, io.BytesIO(data))
        return path

    return make


def hdf5(change: Callable[[h5py.File, Path], object], libver: str) -> Escape:
    """A file of Keras one of whose datasets stands elsewhere."""

    def make(folder: Path, secret: Path) -> Path:
        with h5py.File(secret.with_suffix(".h5"), "w") as file:
            file["data"] = np.full(4, 1234.5, "f4")
        path = folder / "x.weights.h5"
        with h5py.File(path, "w", libver=libver) as file:
            file["layers/dense/vars/0"] = np.zeros((4, 4), "f4")
            change(file, secret)
        return path

    return make


def soft(file, secret):
    file["layers/dense/vars/1"] = h5py.SoftLink("/layers/dense/vars/0")


def external(file, secret):
    file["layers/dense/vars/1"] = h5py.ExternalLink(str(secret.with_suffix(".h5")), "/data")


def outside(file, secret):
    file.create_dataset("layers/dense/vars/1", (4,), "f4", external=[(str(secret), 0, 16)])


def virtual(file, secret):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(secret.with_suffix(".h5")), "data", (4,))
    file.create_virtual_dataset("layers/dense/vars/1", layout)


def table(line: str) -> Escape:
    """A table of the user's own that includes, or is called, what lies elsewhere."""

    def make(folder: Path, secret: Path) -> Path:
        (folder / "x.toml").write_text(line.replace("SECRET", str(secret)))
        return folder / "x.toml"

    return make


def index(ending: str, name: str) -> Escape:
    """An index whose only shard has some name."""

    def make(folder: Path, secret: Path) -> Path:
        path = folder / f"{ending}.index.json"
        path.write_text(json.dumps({"weight_map": {"t": name.replace("SECRET", str(secret))}}))
        return path

    return make


def manifest(kind: str, name: str) -> Escape:
    """A release one of whose files has some name, or whose sums have."""

    def make(folder: Path, secret: Path) -> Path:
        named, sha256 = name.replace("SECRET", str(secret)), hashlib.sha256(SECRET).hexdigest()
        entries = {"files": [], "documents": [], kind: [{"name": named, "size": len(SECRET), "sha256": sha256}]}
        sums = entries.pop("sums", None)
        content = {"schema": "densenet-port/release/1", "tag": "v1", "tool": "x", **entries, "defaults": {}}
        (folder / "manifest.json").write_text(json.dumps(content))
        if sums:
            (folder / "SHA256SUMS").write_text(f"{sha256}  {named}\n")
        return folder / "manifest.json"

    return make


def hub(place: str) -> Escape:
    """A file of a repository of the Hub."""
    return lambda _folder, _secret: Path(f"hf://octo/densenet{place}")


ESCAPES: dict[str, Escape] = {
    "ONNX: an absolute path": onnx("SECRET"),
    "ONNX: ../secret": onnx("../secret"),
    "ONNX: a/../../secret": onnx("a/../../secret"),
    "ONNX: ./../secret": onnx("./../secret"),
    "ONNX: ..\\secret": onnx("..\\secret"),
    "ONNX: C:\\secret": onnx("C:\\secret"),
    "ONNX: C:secret": onnx("C:secret"),
    "ONNX: \\\\host\\share\\secret": onnx("\\\\host\\share\\secret"),
    "ONNX: //host/secret": onnx("//host/secret"),
    "ONNX: a device": onnx("/dev/zero"),
    "ONNX: a process's memory": onnx("/proc/self/mem"),
    "ONNX: a null in it": onnx("x\0/../secret"),
    "ONNX: no name": onnx(""),
    "ONNX: the folder itself": onnx("."),
    "ONNX: a URL": onnx("file://SECRET"),
    "ONNX: a link": linked("link", lambda secret: secret),
    "ONNX: a link to a folder": linked("link/secret", lambda secret: secret.parent),
    "ONNX: a pipe": pipe,
    **{
        f"{ending}: a member {name}": member(ending, name)
        for ending in (".pth", ".keras", ".npz", ".pt2")
        for name in ("../secret", "SECRET", "..\\secret", "C:\\secret")
    },
    "tar: ../pickle": tar_of("../pickle"),
    "tar: an absolute path": tar_of("/pickle"),
    "tar: a link": tar_of("pickle", tarfile.SYMTYPE),
    "tar: a hard link": tar_of("pickle", tarfile.LNKTYPE),
    "tar: a device": tar_of("pickle", tarfile.CHRTYPE),
    **{
        f"HDF5 {libver}: {change.__name__}": hdf5(change, libver)
        for libver in ("earliest", "latest")
        for change in (soft, external, outside, virtual)
    },
    "table: includes ../../secret": table('layout = "x"\nabout = "x"\ninclude = "../../secret"\n'),
    "table: includes an absolute path": table('layout = "x"\nabout = "x"\ninclude = "SECRET"\n'),
    "table: is called ../secret": table('layout = "../secret"\nabout = "x"\n'),
    **{
        f"index of {ending}: a shard {name!r}": index(ending, name)
        for ending in ("model.safetensors", "pytorch_model.bin")
        for name in ("../secret", "SECRET", "a/../../secret", "..\\secret", "C:secret", "")
    },
    **{
        f"release: {kind} with {name!r}": manifest(kind, name)
        for kind in ("files", "documents", "sums")
        for name in ("../secret", "SECRET", "..\\secret", "C:secret", ".manifest.json.json", "..")
    },
    **{f"Hub: {place}": hub(place) for place in ("/../../secret", "@main/a/../../secret", "/..\\secret", "/a/..")},
}  # fmt: skip


def escaped(names: list[str] | None = None) -> dict:
    """Read them all; which of them were read, what was opened or written outside, and what kinds of errors they had."""
    results: dict = {"count": 0, "refused": 0, "inert": [], "outside": [], "untyped": []}
    watch = Watch()
    for name in names or ESCAPES:
        with tempfile.TemporaryDirectory() as place:
            secret, folder = Path(place, "secret"), Path(place, "folder")
            secret.write_bytes(SECRET)
            folder.mkdir()
            path = ESCAPES[name](folder, secret)
            before = sorted(map(str, Path(place).rglob("*")))
            watch.path = path
            try:
                opened_by(path)
                results["inert"].append(name)
            except PortError:
                results["refused"] += 1
            except Exception as error:  # noqa: BLE001 (that is what is looked for)
                results["untyped"].append(f"{name}: {type(error).__name__}: {error}")
            watch.path = None
            after = sorted(map(str, Path(place).rglob("*")))
            heard = [event for event in watch.heard if event.startswith("open") and str(secret) in event]
            if heard or before != after:
                results["outside"].append(f"{name}: {heard or after}")
            watch.heard.clear()
            results["count"] += 1
    return results


def opened_by(path: Path) -> None:
    """Read a file in both ways. Raises PortError for what is refused, AssertionError where the secret came with it."""
    if path.suffix == ".toml":
        Layout.load(path)
        return
    if path.name == "manifest.json":
        if any(not check.passed for check in verify_folder(path.parent).checks if check.name == "SHA256SUMS"):
            raise ComparisonError("the sums are not the manifest's")
        return
    if is_place(path):
        fetched(path)
        return
    for tensor in formats.read(path).tensors.values():
        assert SECRET not in tensor.load().tobytes()
    read(path)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(escaped()))
