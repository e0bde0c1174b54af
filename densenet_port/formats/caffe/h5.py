"""Caffe's HDF5 form of its weights, `.caffemodel.h5`, which `snapshot_format: HDF5` writes.

    /data/<layer>/<n>    the layer's n-th blob, a dataset of floats or doubles in its own shape
    /diff/…              gradients, not read

A layer called `a/b/c` is a group in a group in a group. Blobs are called as in a `.caffemodel`: `<layer>#<n>`.
The graph is not in the file; a `.prototxt` of the same stem beside it tells epsilon and rounding. Source: BVLC Caffe,
net.cpp, ToHDF5.
"""

from collections.abc import Iterator
from pathlib import Path

from densenet_port.checkpoint import Checkpoint, Tensor
from densenet_port.errors import PortError
from densenet_port.formats.caffe import prototxt
from densenet_port.formats.hdf5.parts import SIGNATURE
from densenet_port.formats.hdf5.read import Node, root
from densenet_port.formats.source import Source, guarded

GROUP = "data"


def sniff(path: Path, head: bytes) -> bool:
    """Whether a file is HDF5 with Caffe's group, and none of the attributes by which Keras lists its layers."""
    if not head.startswith(SIGNATURE):
        return False
    try:
        with guarded(path, "HDF5"):
            top = root(Source.of_file(path))
            return GROUP in top.members and top.texts("layer_names") is None and any(_blobs(top.member(GROUP)))
    except PortError:
        return False


def read(path: Path) -> Checkpoint:
    """The checkpoint in a `.caffemodel.h5`.

    Raises DiskError for a file that cannot be read, CorruptError for one that is broken or hostile.
    """
    beside = prototxt.beside(path)
    with guarded(path, "HDF5"):
        tensors = dict(_blobs(root(Source.of_file(path)).member(GROUP)))
        metadata = prototxt.read(beside) if beside.is_file() else {}
    return Checkpoint(path=path, container="caffemodel-h5", tensors=tensors, metadata=metadata)


def _blobs(group: Node) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of each blob in a group, and in the groups within it."""
    for name in group.members:
        node = group.member(name)
        if not node.is_dataset:
            yield from _blobs(node)
        elif name.isdecimal():
            yield f"{'/'.join(group.path[1:])}#{name}", node.tensor()
