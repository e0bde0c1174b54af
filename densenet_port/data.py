"""Where the files that travel with the code are: `mappings/` and `weights/`."""

from pathlib import Path

from densenet_port.errors import DiskError

PACKAGE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """The folder `mappings` or `weights`: inside an installed package, beside it in a source tree.

    Raises DiskError when the installation lost it.
    """
    for candidate in (PACKAGE / name, PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise DiskError(f"{PACKAGE / name}: not found", hint="reinstall densenet-port: its installation is incomplete")
