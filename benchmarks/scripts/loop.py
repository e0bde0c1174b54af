"""What a user would write to run a data set: read a batch of pictures, run the network, count the right ones.

    python -m benchmarks.scripts.loop (keras|torch) FILE FOLDER BATCH

The port is run by Keras on KERAS_BACKEND, the original by torchvision. Pictures are prepared as the original network's
authors do it, in the loop itself: the shorter side to 256 pixels, the middle 224 of them, ImageNet's mean and
deviation. Prints JSON: the share that is right.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def prepared(path: Path) -> np.ndarray:
    """A picture (224, 224, 3), float32."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    share = 256 / min(image.size)
    image = image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.BILINEAR)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), dtype=np.float32) / 255
    return (pixels - MEAN) / DEVIATION


def keras_network(file: str) -> Callable[[np.ndarray], Any]:
    """The port in Keras, as a function of a batch."""
    import densenet_port

    model = densenet_port.load(file)
    return model.predict_on_batch


def torch_network(file: str) -> Callable[[np.ndarray], Any]:
    """The original in torchvision, as a function of a batch."""
    import torch
    from torchvision.models import densenet121

    model = densenet121()
    model.load_state_dict(torch.load(file, weights_only=True))
    model.eval()

    def answers(images: np.ndarray) -> Any:
        with torch.inference_mode():
            return model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()

    return answers


def main(framework: str, file: str, folder: str, batch: int) -> None:
    """Run all pictures."""
    network = keras_network(file) if framework == "keras" else torch_network(file)
    classes = sorted(Path(folder).iterdir())
    pictures = [(path, label) for label, place in enumerate(classes) for path in sorted(place.iterdir())]
    right = 0
    for start in range(0, len(pictures), batch):
        paths, labels = zip(*pictures[start : start + batch], strict=True)
        logits = network(np.stack([prepared(path) for path in paths]))
        right += int((logits.argmax(1) == np.array(labels)).sum())
    print(json.dumps(right / len(pictures)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
