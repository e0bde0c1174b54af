"""Where real, trained files are that strangers published: beside the repository, or where the environment says."""

import os
from pathlib import Path

_FOLDER = Path(os.environ.get("DENSENET_PORT_REAL") or Path(__file__).parents[3] / "shared" / "real")
REAL: Path | None = _FOLDER if _FOLDER.is_dir() else None
