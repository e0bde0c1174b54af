"""Conversions of one file to every container; prints ending → SHA-256 of what was written, as one JSON object.

python -m tests.support.twice SOURCE FOLDER UMASK     the umask in octal
"""

import json
import os
import sys
from pathlib import Path

from densenet_port.files import file_digest
from tests.support.breaks import ENDINGS, places, run

if __name__ == "__main__":
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    os.umask(int(sys.argv[3], 8))
    digests = {}
    for ending in ENDINGS:
        here = places(folder, ending)
        run(source, here[0])
        digests |= {place.name: file_digest(place) for place in here}
    print(json.dumps(digests))  # noqa: T201
