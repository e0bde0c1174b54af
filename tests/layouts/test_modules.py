"""Tensors are grouped into modules by endings that tables have, by hierarchy, or by what stands side by side."""

import random
from dataclasses import replace

import numpy as np
import pytest

from densenet_port.checkpoint import Tensor
from densenet_port.errors import MisfitError
from densenet_port.layouts.dialects import dialects, words
from densenet_port.layouts.modules import grouping
from tests.layouts.test_layout import sketch

SIZES = {"conv": (8, 4, 3, 3), "norm": (8,), "dense": (5, 8)}
TORCH = ("weight", "bias", "running_mean", "running_var")
PARTS = ("scale", "shift", "mean", "variance")
GENERATOR = np.random.default_rng(0)
VALUES = {
    "scale": GENERATOR.uniform(0.5, 1.5, 8),
    "shift": GENERATOR.standard_normal(8),
    "mean": GENERATOR.standard_normal(8),
    "variance": GENERATOR.uniform(0.5, 1.5, 8),
}


def norm(prefix, endings, order=PARTS):
    """The vectors of a norm, in an order of their parts."""
    names = dict(zip(PARTS, endings, strict=True))
    return {f"{prefix}{names[part]}": Tensor((8,), "float32", lambda part=part: VALUES[part]) for part in order}


def file(*groups):
    """A checkpoint of tensors, or of names and shapes."""
    tensors = {}
    for group in groups:
        for name, value in group.items():
            tensors[name] = (
                value if isinstance(value, Tensor) else Tensor(value, "float32", lambda s=value: np.zeros(s))
            )
    return replace(sketch({}), tensors=tensors)


def shown(checkpoint):
    """What a grouping has: the kind and the parts of each module; and what is left."""
    groups = grouping(checkpoint)
    return [(module.name, module.kind, dict(module.parts)) for module in groups.modules], list(groups.left)


def parts_of(prefix, endings=TORCH):
    return {part: f"{prefix}{ending}" for part, ending in zip(PARTS, endings, strict=True)}


def test_every_dialect_of_the_tables_is_known_once():
    """No ending stands in Python."""
    seen = [(dialect.tensors, dialect.optional, dialect.fold) for dialect in dialects()]

    assert len(seen) == len({repr(one) for one in seen})
    assert {"conv", "norm", "dense"} == {
        ending.kind for one in dialects() for row in one.endings.values() for ending in row
    }


def test_endings_of_a_table_tell_parts_and_kinds():
    """Counters, an optimiser's state and single numbers are none."""
    checkpoint = file(
        {"a.weight": SIZES["conv"], "a.bias": (8,)},
        norm("b.", TORCH),
        {"b.num_batches_tracked": (), "optimizer.state.0.exp_avg": (8,), "loss": ()},
        {"c.weight": SIZES["dense"], "c.bias": (5,), "d.weight": (8,)},
    )

    modules, left = shown(checkpoint)

    assert modules == [
        ("a", "conv", {"kernel": "a.weight", "bias": "a.bias"}),
        ("b", "norm", parts_of("b.")),
        ("c", "dense", {"kernel": "c.weight", "bias": "c.bias"}),
    ]
    assert left == ["d.weight"]


WAYS = {
    "other words for the parts": (".kernel", (".scale", ".bias", ".mean", ".var")),
    "with an underscore before them": ("._weight", ("._weight", "._bias", "._mean", "._variance")),
}


@pytest.mark.parametrize("name", WAYS)
def test_words_that_tables_have_for_parts_are_known_in_other_names(name):
    """In any order of the file, and nothing is assumed."""
    kernel, endings = WAYS[name]
    order = random.Random(0).sample(PARTS, 4)  # noqa: S311 (nothing secret)
    checkpoint = file({f"a{kernel}": SIZES["conv"]}, norm("b", endings, order), norm("c", endings, order))

    groups = grouping(checkpoint)

    assert [dict(module.parts) for module in groups.modules[1:]] == [parts_of(one, endings) for one in "bc"]
    assert groups.assumption is None


@pytest.mark.parametrize(
    "order", [PARTS, ("shift", "mean", "variance", "scale"), ("shift", "scale", "mean", "variance")]
)
def test_without_names_a_norm_is_in_the_order_of_its_software_or_alphabetical(order):
    """A variance is never negative, and a scale is so less often than a shift."""
    words = iter("abcdefghijklmn")
    checkpoint = file(
        {next(words): SIZES["conv"]},
        *({next(words): value for value in norm("", TORCH, order).values()} for _ in range(2)),
    )

    modules, _ = shown(checkpoint)

    assert [sorted(parts, key=parts.get) for _, kind, parts in modules if kind == "norm"] == [list(order)] * 2
    assert grouping(checkpoint).assumption == "which vector of a norm is which by their order and values"


def test_without_names_a_bias_stands_beside_its_kernel():
    """Behind it as torch saves it; in front in alphabetical order; and a norm of the same length may follow."""
    checkpoint = file(
        {"p": SIZES["conv"], "q": (8,)},
        dict(zip("rstu", norm("", TORCH).values(), strict=True)),
        {"v": (5,), "w": SIZES["dense"]},
    )

    modules, left = shown(checkpoint)

    assert [(kind, [*parts.values()]) for _, kind, parts in modules] == [
        ("conv", ["p", "q"]),
        ("norm", ["r", "s", "t", "u"]),
        ("dense", ["w", "v"]),
    ]
    assert left == []


def test_what_neither_words_nor_order_nor_values_tell_stays_open():
    """Four words that have nothing in common, in an order that changes."""
    endings = (".p", ".q", ".r", ".s")
    checkpoint = file({"a.k": SIZES["conv"]}, norm("b", endings), norm("c", endings, PARTS[::-1]))

    with pytest.raises(MisfitError, match=r"which of b\.p, b\.q, b\.r, b\.s is which stays open"):
        grouping(checkpoint)


def test_a_norm_of_two_layers_is_one():
    """The second scales and shifts: as many as there are norms, each beside its own."""
    endings = ("/x", "/y", "/u_m", "/u_v")
    layers = [
        {
            **norm(f"{one}_n", endings),
            f"{one}_s/x": Tensor((8,), "float32", lambda: VALUES["scale"]),
            f"{one}_s/y": Tensor((8,), "float32", lambda: VALUES["shift"]),
        }
        for one in "ab"
    ]

    modules, left = shown(file({"k/w": SIZES["conv"]}, *layers))

    assert [parts for _, kind, parts in modules if kind == "norm"] == [
        {
            **parts_of(f"{one}_n", endings),
            "second_scale": f"{one}_s/x",
            "second_shift": f"{one}_s/y",
        }
        for one in "ab"
    ]
    assert left == []


def test_a_tensor_under_two_names_is_grouped_once():
    twin = Tensor(SIZES["conv"], "float32", lambda: np.zeros(SIZES["conv"]), identity=1)

    modules, left = shown(file({"a.weight": twin, "b.weight": twin}))

    assert ([name for name, _, _ in modules], left) == (["a"], [])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("features.denseblock1.norm_2", ("features", "denseblock1", "norm", "2")),
        ("conv2_1/x1/bn#0", ("conv2", "1", "x1", "bn", "0")),
        ("", ()),
    ],
)
def test_the_words_of_a_name(name, expected):
    assert words(name) == expected
