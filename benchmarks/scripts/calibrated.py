"""Write torchvision checkpoints with statistics near those of pictures.

    python -m benchmarks.scripts.calibrated FOLDER NAME…

Prints JSON, name → path.
"""

import json
import sys
from pathlib import Path

from tests.support.networks import checkpoint_file

if __name__ == "__main__":
    print(json.dumps({name: str(checkpoint_file(Path(sys.argv[1]), name, "zip")) for name in sys.argv[2:]}))
