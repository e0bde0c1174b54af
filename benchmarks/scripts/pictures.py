"""Write JPEGs of a photograph's size, smooth noise.

    python -m benchmarks.scripts.pictures FOLDER COUNT

They lie in two folders, as torchvision's ImageFolder has classes; FOLDER.txt says which classes of a network these are.
Prints JSON: how many there are.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def main(folder: str, count: int) -> None:
    """Write so many, half of them in each class, and the labels."""
    random = np.random.default_rng(0)
    for number in range(count):
        place = Path(folder, f"class{number % 2}")
        place.mkdir(parents=True, exist_ok=True)
        rough = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        rough.resize((500, 375), Image.Resampling.BICUBIC).save(place / f"{number:05}.jpg", quality=90)
    Path(f"{folder}.txt").write_text("class0 0\nclass1 1\n", encoding="utf-8")
    print(json.dumps(count))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
