"""Copy the small trained network that comes along, which needs no framework.

    python -m benchmarks.scripts.sample FOLDER COUNT

Prints JSON as `checkpoints` does of one network.
"""

import json
import shutil
import sys
from pathlib import Path

import densenet_port as dp

SAMPLE = Path(__file__).parents[2] / "weights" / "sample" / "digits.pth"

if __name__ == "__main__":
    arrays = [*dp.read(SAMPLE).weights.values()]
    sizes = {"parameters": sum(array.size for array in arrays), "largest": max(array.nbytes for array in arrays)}
    paths = [shutil.copy(SAMPLE, Path(sys.argv[1], f"sample_{number}.pth")) for number in range(int(sys.argv[2]))]
    print(json.dumps([{"path": str(path), **sizes} for path in paths]))
