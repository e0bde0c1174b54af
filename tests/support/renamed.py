"""Recorded checkpoints under other names, with values in their norms as a trained network has them."""

import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from densenet_port.checkpoint import Checkpoint, Tensor
from densenet_port.layouts.identify import identify
from densenet_port.layouts.match import Ledger
from tests.layouts.test_layout import recorded
from tests.record.keys import software_and_network

LONGEST = 1 << 14  # more than the channels of any norm here, and an offset of its own for each tensor
_GENERATOR = np.random.default_rng(0)
VALUES = {  # of a norm's parts: scales and variances are positive, shifts and means are not
    part: _GENERATOR.uniform(0.5, 1.5, LONGEST) if is_positive else _GENERATOR.standard_normal(LONGEST)
    for part, is_positive in {
        **dict.fromkeys(("scale", "variance", "second_scale"), True),
        **dict.fromkeys(("shift", "mean", "second_shift"), False),
    }.items()
}


def unlike(paths: list[Path]) -> list[Path]:
    """Lists that are the first of their software, or of their architecture: names and sizes do not know each other."""
    chosen, seen = [], set()
    for path in paths:
        software_and_architecture = {*software_and_network(path)}
        if not software_and_architecture <= seen:
            chosen.append(path)
            seen |= software_and_architecture
    return chosen


def trained(path: Path) -> tuple[Checkpoint, Ledger]:
    """A recorded list with values in its norms, none of which repeat another's; and the ledger by its own table."""
    file = recorded(path)
    ledger = identify(file)
    tensors = dict(file.tensors)
    for place, claim in enumerate(ledger.claims.values()):
        if claim.key.part in VALUES:
            tensors[claim.name] = _vector(claim.tensor, VALUES[claim.key.part][place:])
    return replace(file, tensors=tensors), ledger


def _vector(tensor: Tensor, values: np.ndarray) -> Tensor:
    """The same tensor with the first of some values."""
    count = int(np.prod(tensor.shape))
    return replace(tensor, load=lambda: values[:count].astype(tensor.dtype).reshape(tensor.shape))


def in_file_order(names: list[str], seed: str) -> dict[str, str]:
    """Every name → a word that says nothing."""
    generator = random.Random(seed)  # noqa: S311 (nothing secret)
    return {name: _word(generator) for name in names}


def by_tokens(names: list[str], seed: str) -> dict[str, str]:
    """Every name → the same hierarchy in words that say nothing: equal tokens stay equal."""
    generator, tokens = random.Random(seed), {}  # noqa: S311 (as above)
    for token in {part: None for name in names for part in _split(name)[::2]}:
        tokens[token] = _word(generator)
    return {name: "".join(tokens.get(part, part) for part in _split(name)) for name in names}


def _split(name: str) -> list[str]:
    """Tokens, and between them what separates them."""
    return re.split(r"([./_#])", name)


def _word(generator: random.Random) -> str:
    return "".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=9))


def renamed(
    file: Checkpoint, rename: Callable[[list[str], str], dict[str, str]], *, shuffled: bool
) -> tuple[Checkpoint, dict[str, str]]:
    """A file under other names, in its own order or in none, and old name → new; it records nothing of itself."""
    seed = file.path.name
    names = rename([*file.tensors], seed)
    items = [(names[name], tensor) for name, tensor in file.tensors.items()]
    if shuffled:
        random.Random(seed).shuffle(items)  # noqa: S311 (as above)
    return replace(file, tensors=dict(items), metadata={}), names
