"""Train the sample network and record what torch makes of digits it never saw.

    python weights/sample/train.py

needs torch, torchvision and scikit-learn, takes about a minute on one core, and writes beside itself `digits.pth`,
`digits-heldout.npz` (see `densenet_port.conversion.demo.HeldOut`) and `digits.json`. The held-out digits take no part
in training nor in any choice: epochs, rates and sizes below were settled on a validation part of the training digits,
and this script looks at the held-out ones once, after the last step.
"""

import inspect
import json
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import sklearn
import torch
import torchvision
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torchvision.models.densenet import DenseNet

from densenet_port.conversion.demo import prepare
from densenet_port.files import file_digest

HERE = Path(__file__).resolve().parent
NETWORK = {"growth_rate": 12, "block_config": (3, 4, 5, 3), "num_init_features": 24, "bn_size": 4, "num_classes": 10}
SPLIT = {"seed": 0, "held_out": 450, "stratified": True}
TRAINING = {
    "seed": 121,
    "epochs": 30,
    "batch": 64,
    "rate": 0.1,
    "momentum": 0.9,
    "decay": 5e-4,
    "smoothing": 0.05,
    "shift": 3,
}
VERSIONS = {
    "python": platform.python_version(),
    "torch": torch.__version__,
    "torchvision": torchvision.__version__,
    "scikit-learn": sklearn.__version__,
    "numpy": np.__version__,
}


def main() -> None:
    """Train, record, and say what was done."""
    torch.manual_seed(TRAINING["seed"])
    torch.use_deterministic_algorithms(mode=True)
    torch.set_num_threads(1)  # the order of sums, and so the bits, depend on the number of threads
    digits = load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    training, held_out = train_test_split(
        np.arange(len(labels)), test_size=SPLIT["held_out"], random_state=SPLIT["seed"], stratify=labels
    )
    network = DenseNet(**NETWORK)
    start = time.perf_counter()
    train(network, as_tensor(images[training]), torch.from_numpy(labels[training]).long())
    seconds = time.perf_counter() - start

    recorded = record(network, images[held_out])
    torch.save(network.float().state_dict(), HERE / "digits.pth")
    np.savez_compressed(
        HERE / "digits-heldout.npz",
        index=held_out,
        images=images[held_out],
        labels=labels[held_out],
        **recorded,
        preparation=f"densenet_port.conversion.demo.prepare: {inspect.getdoc(prepare)}",
        versions=json.dumps(VERSIONS),
    )
    correct = int(np.sum(recorded["logits32"].argmax(1) == labels[held_out]))
    facts = {
        "accuracy": correct / len(held_out),
        "correct": correct,
        "split": {**SPLIT, "training": len(training)},
        "network": NETWORK,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "training": TRAINING,
        "seconds": round(seconds, 1),
        "versions": VERSIONS,
        "date": datetime.now(UTC).date().isoformat(),
        "sha256": {name: file_digest(HERE / name) for name in ("digits.pth", "digits-heldout.npz")},
    }
    (HERE / "digits.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=2))


def as_tensor(images: np.ndarray) -> Tensor:
    """Digits (N, 8, 8) uint8, prepared and channels first: (N, 3, 32, 32) float32."""
    return torch.from_numpy(prepare(images)).permute(0, 3, 1, 2).contiguous()


def train(network: DenseNet, images: Tensor, labels: Tensor) -> None:
    """Nesterov SGD with one cycle of the rate, label smoothing, and shifts of each batch by up to 3 of 32 pixels."""
    batches = len(images) // TRAINING["batch"]
    rule = nn.CrossEntropyLoss(label_smoothing=TRAINING["smoothing"])
    optimiser = torch.optim.SGD(
        network.parameters(), TRAINING["rate"], TRAINING["momentum"], weight_decay=TRAINING["decay"], nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, TRAINING["rate"], TRAINING["epochs"] * batches)
    network.train()
    for epoch in range(1, TRAINING["epochs"] + 1):
        total = 0.0
        for chosen in torch.randperm(len(images))[: batches * TRAINING["batch"]].chunk(batches):
            shift = torch.randint(-TRAINING["shift"], TRAINING["shift"] + 1, (2,)).tolist()
            loss = rule(network(images[chosen].roll(shift, (2, 3))), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch:2}  mean loss {total / batches:.4f}")


@torch.inference_mode()
def record(network: DenseNet, images: np.ndarray) -> dict[str, np.ndarray]:
    """Torch's logits (N, 10) for digits (N, 8, 8) in both precisions; leaves the network in float64, evaluating."""
    network.eval()
    prepared = as_tensor(images)
    return {
        "logits32": network.float()(prepared).numpy(),
        "logits64": network.double()(prepared.double()).numpy(),
    }


if __name__ == "__main__":
    main()
