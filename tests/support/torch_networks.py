"""Random networks of the software that descends from torchvision's, built and written by that software itself."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from densenet_port.network.architecture import Architecture
from densenet_port.network.units import ROLES, Slot
from tests.support.networks import images

SUFFIXES = {"shift": "bias", "mean": "running_mean", "variance": "running_var", "bias": "bias"}  # others are weights


def timm_network(arch: Architecture, pool: str, seed: int = 0) -> nn.Module:
    """The DenseNet of timm; its deep stem where the architecture has one, `pool` "max" or "blur"."""
    from timm.layers import BlurPool2d
    from timm.models.densenet import DenseNet

    return randomised(
        lambda: DenseNet(
            growth_rate=arch.growth_rate,
            block_config=arch.layers,
            num_classes=arch.classes,
            in_chans=arch.channels,
            stem_type="deep" if arch.stem == "deep" else "",
            aa_layer=BlurPool2d if pool == "blur" else None,
        ),
        arch.channels,
        seed,
    )


def timm_filled(arch: Architecture, weights: dict, pool: str) -> nn.Module:
    """Timm's class in float64 with a deep stem, and our weights put into it by name."""
    from timm.layers import BlurPool2d
    from timm.models.densenet import DenseNet

    network = DenseNet(
        growth_rate=arch.growth_rate,
        block_config=arch.layers,
        num_classes=arch.classes,
        stem_type="deep",
        aa_layer=BlurPool2d if pool == "blur" else None,
    )
    names = torchvision_names(arch)
    state = {
        f"{names[slot.unit]}.{SUFFIXES.get(slot.role, 'weight')}": torch.from_numpy(
            array.transpose((3, 2, 0, 1)[-array.ndim :] if array.ndim == 4 else range(array.ndim)[::-1])
        )
        for slot, array in weights.items()
    }
    counters = {name: value for name, value in network.state_dict().items() if value.dtype == torch.int64}
    network.load_state_dict(counters | state, strict=True)
    return network.double().eval().requires_grad_(False)


def torchvision_names(arch: Architecture) -> dict[str, str]:
    """Our unit → the module of torchvision, or of timm where the stem is deep."""
    special = {"stem.conv": "features.conv0", "stem.norm": "features.norm0", "final.norm": "features.norm5"}
    special |= {f"stem.{part}{n}": f"features.{part}{n - 1}" for n in (1, 2, 3) for part in ("conv", "norm")}
    return {
        unit: special.get(unit, "classifier" if unit == "head.dense" else f"features.{unit}")
        .replace("features.block", "features.denseblock")
        .replace(".layer", ".denselayer")
        for unit in arch.units
    }


def weights_of(network: nn.Module, arch: Architecture) -> dict[Slot, np.ndarray]:
    """The weights of a network that has these names, in our axes."""
    state, names = network.state_dict(), torchvision_names(arch)
    turned = {"conv": (2, 3, 1, 0), "dense": (1, 0), "norm": (0,)}
    weights = {}
    for unit in arch.units.values():
        for role in ROLES[unit.kind]:
            array = state[f"{names[unit.name]}.{SUFFIXES.get(role, 'weight')}"].numpy()
            weights[Slot(unit.name, role)] = array.transpose(turned[unit.kind]) if role == "kernel" else array
    return weights


def monai_network(arch: Architecture, seed: int = 0) -> nn.Module:
    """MONAI's DenseNet of two spatial dimensions."""
    from monai.networks.nets import DenseNet

    return randomised(
        lambda: DenseNet(
            spatial_dims=2,
            in_channels=arch.channels,
            out_channels=arch.classes,
            init_features=arch.init_channels,
            growth_rate=arch.growth_rate,
            block_config=arch.layers,
        ),
        arch.channels,
        seed,
    )


def torchxrayvision_network(arch: Architecture, seed: int = 0, **options: object) -> nn.Module:
    """The DenseNet of torchxrayvision, for images of its own range."""
    from torchxrayvision.models import DenseNet

    return randomised(
        lambda: DenseNet(
            growth_rate=arch.growth_rate,
            block_config=arch.layers,
            num_init_features=arch.init_channels,
            num_classes=arch.classes,
            in_channels=arch.channels,
            **options,
        ),
        arch.channels,
        seed,
    )


def randomised(build: object, channels: int, seed: int) -> nn.Module:
    """A network as it is initialised, its norms and statistics by the recipe of `networks`, evaluating."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = build()
        norms = [unit for unit in network.modules() if isinstance(unit, nn.BatchNorm2d)]
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.2)
            norm.momentum = None
        heads = [unit for unit in network.modules() if isinstance(unit, nn.Linear)]
        heads[-1].bias.normal_(0, 0.2)
        network.train()
        network(torch.from_numpy(images(4, 64, channels, seed)).permute(0, 3, 1, 2))
        for norm in norms:
            norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.7, 1.4)
            norm.momentum = 0.1
    return network.eval().requires_grad_(False)


def logits(network: nn.Module, pixels: np.ndarray) -> np.ndarray:
    """What a network puts out in float64 for images `n h w c`."""
    with torch.inference_mode():
        return network.double()(torch.from_numpy(pixels.astype(np.float64)).permute(0, 3, 1, 2)).numpy()


def saved(path: Path, thing: object, **options: object) -> Path:
    """A thing as torch writes it."""
    torch.save(thing, path, **options)
    return path
