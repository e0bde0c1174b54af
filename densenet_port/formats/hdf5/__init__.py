"""HDF5 as far as checkpoints need it: read without libhdf5 where possible, and where not in a copy of its making."""

from collections.abc import Callable
from typing import TypeVar

from densenet_port.formats.hdf5.read import Node, OtherFormError, root
from densenet_port.formats.source import Source

T = TypeVar("T")


def open_root(source: Source, use: Callable[[Node], T]) -> T:
    """What `use` makes of the root group.

    Where the file is of a form that our reader does not know, `use` is called again with the root of a plain copy.
    Raises CorruptError for what is no HDF5 file, is broken or hostile, and what `use` raises.
    """
    try:
        return use(root(source))
    except OtherFormError:
        from densenet_port.formats.hdf5.copy import plain_copy  # noqa: PLC0415 (few files need it)

        return use(root(plain_copy(source)))
