"""A checkpoint's tensors grouped into modules: convolutions, norms and dense layers, whatever they are called.

A table's endings of names tell the modules where one covers the file. Otherwise a module is what shares everything
before the last dot or slash, or else what stands side by side in the file.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from densenet_port.checkpoint import Checkpoint, Tensor
from densenet_port.layouts.dialects import Dialect, dialects, ignored, words
from densenet_port.layouts.roles import Vectors, told
from densenet_port.layouts.scan import FLOATS, compiled_rules
from densenet_port.network.units import Kind

BEFORE = (r"[./][^./]*$", r"[./:#][^./:#]*$", r"[./:#_][^./:#_]*$")  # what ends a name, behind what holds the tensor
MOST_PAIRS = 100_000  # of kernels and vectors that are held against each other
MOST_LEFT = 0.5  # of the tensors that a way to group may leave out and still be one


class Module(NamedTuple):
    """A convolution, a norm or a dense layer of a file.

    `name` is what its tensors' names begin with, empty where they have nothing in common. `parts` gives part → tensor,
    `shape` is the kernel's, or a norm's length. `place` is where it stands in the file.
    """

    name: str
    kind: Kind
    parts: Mapping[str, str]
    shape: tuple[int, ...]
    place: int

    @property
    def title(self) -> str:
        """What it is called in messages: its own name, or a tensor's."""
        return self.name or next(iter(self.parts.values()))

    @property
    def words(self) -> tuple[str, ...]:
        """The words of its name."""
        return words(self.title)


class Grouping(NamedTuple):
    """The modules of a file in its order, and the tensors that are of none.

    `dialect` is the one that names end in, or that the norms' vectors are taken for; `by_name` says which of the two.
    `assumption` says what of the vectors is assumed.
    """

    modules: tuple[Module, ...]
    left: tuple[str, ...]
    dialect: Dialect
    by_name: bool
    assumption: str | None = None


def grouping(checkpoint: Checkpoint) -> Grouping:
    """The modules of a file. Raises MisfitError where it stays open which vector of a norm is which."""
    tensors = _part_of_networks(checkpoint)
    best = _by_endings(tensors, dialects()[0])
    for dialect in dialects()[1:] if best.left else ():
        best = min(best, _by_endings(tensors, dialect), key=lambda one: len(one.left))
    has_kernels = any(module.kind == "conv" for module in best.modules)
    if has_kernels and len(best.left) <= MOST_LEFT * len(tensors):
        return best
    return _with_roles(_groups(tensors), tensors)


def _groups(tensors: Mapping[str, Tensor]) -> "_Groups":
    """What stands together by the beginning of its names, or else by its place: the first way that leaves the least."""
    best = None
    ways: list[Callable[[Mapping[str, Tensor]], _Groups]] = [partial(_by_holders, pattern=one) for one in BEFORE]
    for way in (*ways, _by_places):
        groups = way(tensors)
        if best is None or len(groups.left) < len(best.left):
            best = groups
        if not best.left:
            break
    assert best  # noqa: S101 (there are several ways)
    return best


def _part_of_networks(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors that may be of a network: no counters, nothing that a table's rule leaves out, no twins."""
    (_, _, rules), seen = compiled_rules(ignored()), set[object]()
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        counter = tensor.shape == () or (tensor.shape == (1,) and tensor.dtype not in FLOATS)
        twin = tensor.identity is not None and tensor.identity in seen
        seen.add(tensor.identity)
        if not counter and not twin and not rules.match(name):
            tensors[name] = tensor
    return tensors


# -- by the endings of a dialect ---------------------------------------------------------------------------------------


def _by_endings(tensors: Mapping[str, Tensor], dialect: Dialect) -> Grouping:
    """The modules whose tensors end as a dialect has it."""
    units: dict[str, dict[Kind, dict[str, str]]] = {}
    for name, tensor in tensors.items():
        for ending in _endings_of(name, dialect):
            for kind, part, axes in dialect.endings[ending]:
                if axes == len(tensor.shape):
                    units.setdefault(name.removesuffix(ending), {}).setdefault(kind, {}).setdefault(part, name)
    places = {name: place for place, name in enumerate(tensors)}
    modules = []
    for unit, kinds in units.items():
        used: set[str] = set()
        for kind, parts in sorted(kinds.items(), key=lambda item: -len(item[1])):
            if used.isdisjoint(parts.values()) and _is_whole(kind, parts, tensors, dialect):
                used.update(parts.values())
                modules.append(_module(unit, kind, parts, tensors, places))
    return _grouped(modules, tensors, dialect, by_name=True)


def _endings_of(name: str, dialect: Dialect) -> Iterator[str]:
    """The endings of a dialect that a name has, the longest alone."""
    for start in re.finditer(r"[./#_]", name):
        if name[start.start() :] in dialect.endings and start.start():
            yield name[start.start() :]
            return


def _is_whole(kind: Kind, parts: Mapping[str, str], tensors: Mapping[str, Tensor], dialect: Dialect) -> bool:
    """Whether a module of a kind can have just these parts."""
    if kind == "norm":
        sizes = {tensors[name].shape for part, name in parts.items() if dialect.tensors["norm"][part].axes[0] != "1"}
        return parts.keys() == set(dialect.parts) and len(sizes) == 1
    return "kernel" in parts


def _module(
    name: str, kind: Kind, parts: Mapping[str, str], tensors: Mapping[str, Tensor], places: Mapping[str, int]
) -> Module:
    """A module of some tensors."""
    first = min(parts.values(), key=places.__getitem__)
    shape = max((tensors[one].shape for one in parts.values()), key=lambda shape: (len(shape), shape))
    return Module(name, kind, parts, shape, places[first])


def _grouped(modules: Sequence[Module], tensors: Mapping[str, Tensor], dialect: Dialect, *, by_name: bool) -> Grouping:
    """The modules in file order, and what is left."""
    used = {name for module in modules for name in module.parts.values()}
    ordered = tuple(sorted(modules, key=lambda module: module.place))
    return Grouping(ordered, tuple(name for name in tensors if name not in used), dialect, by_name)


# -- without endings that are known ------------------------------------------------------------------------------------


class _Groups(NamedTuple):
    """Kernels with their biases, the vectors of each norm, and what is left."""

    kernels: Mapping[str, str | None]
    norms: Sequence[Vectors]
    left: Sequence[str]


def _by_holders(tensors: Mapping[str, Tensor], pattern: str) -> _Groups:
    """What shares the beginning of its names, up to what `pattern` ends."""
    vectors: dict[str, list[str]] = {}
    kernels: dict[str, str | None] = {}
    for name, tensor in tensors.items():
        if len(tensor.shape) == 1:
            vectors.setdefault(re.sub(pattern, "", name), []).append(name)
        elif len(tensor.shape) in (2, 4):
            kernels[name] = None
    by_holder = {re.sub(pattern, "", kernel): kernel for kernel in kernels}
    counts = _counts()
    norms, left = [], []
    for holder, names in vectors.items():
        kernel = by_holder.get(holder)
        if _is_norm([tensors[name].shape for name in names], counts):
            norms.append(Vectors(holder, tuple(names)))
        elif kernel and len(names) == 1 and tensors[names[0]].shape[0] in tensors[kernel].shape:
            kernels[kernel] = names[0]
        else:
            left += names
    norms, left = _joined(norms, left, tensors)
    left += [name for name, tensor in tensors.items() if len(tensor.shape) not in (1, 2, 4)]
    return _Groups(*_with_biases(kernels, norms, left, tensors))


def _counts() -> set[tuple[bool, ...]]:
    """What a norm's vectors can be in the order of the tables: whether each is a single number."""
    return {tuple(d.tensors["norm"][part].axes[0] == "1" for part in d.parts) for d in dialects()}


def _is_norm(shapes: Sequence[tuple[int, ...]], counts: set[tuple[bool, ...]]) -> bool:
    """Whether vectors of these shapes are a norm's."""
    singles = sum(shape == (1,) for shape in shapes)
    if any(len(shapes) == len(form) and singles in (sum(form), len(form)) for form in counts):
        return len({shape for shape in shapes if shape != (1,)}) <= 1
    return False


def _joined(norms: list[Vectors], left: list[str], tensors: Mapping[str, Tensor]) -> tuple[list[Vectors], list[str]]:
    """Norms with the layer behind each that scales and shifts, where there are as many of these, by common words."""
    pairs: dict[str, list[str]] = {}
    for name in left:
        pairs.setdefault(re.sub(BEFORE[0], "", name), []).append(name)
    scales = {holder: names for holder, names in pairs.items() if len(names) == 2}
    if len(scales) != len(norms) or not norms:
        return norms, left
    joined, used = [], set[str]()
    for norm in norms:
        near = [one for one in scales if words(one)[:-1] == words(norm.name)[:-1]]
        if len(near) != 1 or tensors[scales[near[0]][0]].shape != tensors[norm.tensors[0]].shape:
            return norms, left
        common = norm.name[: len(norm.name) - len(words(norm.name)[-1])]
        joined.append(Vectors(common, (*norm.tensors, *scales[near[0]])))
        used.update(scales[near[0]])
    return joined, [name for name in left if name not in used]


def _with_biases(
    kernels: dict[str, str | None], norms: Sequence[Vectors], left: list[str], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, str | None], Sequence[Vectors], list[str]]:
    """Single vectors given to the kernel with which they share most words, if it has none and as many outputs."""
    if len(left) > len(kernels) or len(left) * len(kernels) > MOST_PAIRS:
        return kernels, norms, left
    rest = []
    for name in left:
        bare = [kernel for kernel, bias in kernels.items() if bias is None]
        near = [one for one in bare if tensors[name].shape and tensors[name].shape[0] in tensors[one].shape]
        best = max(near, key=lambda kernel: common(words(kernel), words(name)), default=None)
        if best is None or len(tensors[name].shape) != 1 or (len(near) > 1 and not common(words(best), words(name))):
            rest.append(name)
        else:
            kernels[best] = name
    return kernels, norms, rest


def common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words two names begin with together."""
    count = 0
    for word, word_there in zip(one, other, strict=False):
        if word != word_there:
            break
        count += 1
    return count


def _by_places(tensors: Mapping[str, Tensor]) -> _Groups:
    """What stands side by side: a kernel and its bias, and the vectors of a norm."""
    return min((_in_runs(tensors, form) for form in sorted(_counts(), key=len)), key=lambda one: len(one.left))


def _in_runs(tensors: Mapping[str, Tensor], form: tuple[bool, ...]) -> _Groups:
    """As `_by_places`, with norms of one form; a vector more than norms take is the bias of the kernel before it."""
    names = list(tensors)
    kernels: dict[str, str | None] = {}
    norms: list[Vectors] = []
    left: list[str] = []
    place = 0
    while place < len(names):
        name, shape = names[place], tensors[names[place]].shape
        part = names[place : place + len(form)]
        last = next(reversed(kernels), None)
        follows = bool(last) and place > 0 and names[place - 1] == last and shape[0] in tensors[last or ""].shape
        if len(shape) in (2, 4):
            kernels[name] = None
        elif follows and _run(names, place, tensors) % len(form) == 1:
            kernels[last or ""] = name
        elif _is_in_form([tensors[one].shape for one in part], form):
            norms.append(Vectors("", tuple(part)))
            place += len(form) - 1
        else:
            left.append(name)
        place += 1
    return _Groups(kernels, norms, _next_biases(names, kernels, left, tensors))


def _run(names: Sequence[str], place: int, tensors: Mapping[str, Tensor]) -> int:
    """How many tensors of one shape follow one another."""
    shape, count = tensors[names[place]].shape, 0
    while place + count < len(names) and tensors[names[place + count]].shape == shape:
        count += 1
    return count


def _is_in_form(shapes: Sequence[tuple[int, ...]], form: tuple[bool, ...]) -> bool:
    """Whether tensors of these shapes are a norm's vectors, one after the other."""
    sizes = {shape for shape, single in zip(shapes, form, strict=False) if not single}
    ones = all(shape == (1,) for shape, single in zip(shapes, form, strict=False) if single)
    return len(shapes) == len(form) and ones and len(sizes) == 1 and all(len(shape) == 1 for shape in sizes)


def _next_biases(
    names: Sequence[str], kernels: dict[str, str | None], left: Sequence[str], tensors: Mapping[str, Tensor]
) -> list[str]:
    """What is left when vectors are given to the kernel beside them."""
    rest = []
    places = {name: place for place, name in enumerate(names)}
    for name in left:
        beside = [names[other] for other in (places[name] - 1, places[name] + 1) if 0 <= other < len(names)]
        fits = [one for one in beside if one in kernels and not kernels[one] and _can_bias(tensors[name], tensors[one])]
        if fits:
            kernels[fits[0]] = name
        else:
            rest.append(name)
    return rest


def _can_bias(vector: Tensor, kernel: Tensor) -> bool:
    return len(vector.shape) == 1 and vector.shape[0] in (kernel.shape[0], kernel.shape[-1])


def _with_roles(groups: _Groups, tensors: Mapping[str, Tensor]) -> Grouping:
    """The modules of groups, each vector of a norm for what it is."""
    places = {name: place for place, name in enumerate(tensors)}
    modules = []
    for name, bias in groups.kernels.items():
        kind: Kind = "conv" if len(tensors[name].shape) == 4 else "dense"
        parts: Mapping[str, str] = {"kernel": name} | ({"bias": bias} if bias else {})
        holder = _holder([*parts.values()]) if bias else name
        modules.append(_module(holder, kind, parts, tensors, places))
    if not groups.norms:
        return _grouped_as(modules, groups.left, dialects()[0], None)
    last = {words(name)[-1:] for name in groups.kernels if len(tensors[name].shape) == 4}
    reading = told(groups.norms, tensors, last if len(last) == 1 else set())
    for norm, parts in zip(groups.norms, reading.parts, strict=True):
        modules.append(_module(norm.name, "norm", parts, tensors, places))
    return _grouped_as(modules, groups.left, reading.dialect, reading.assumption)


def _grouped_as(modules: Sequence[Module], left: Sequence[str], dialect: Dialect, assumption: str | None) -> Grouping:
    ordered = tuple(sorted(modules, key=lambda module: module.place))
    return Grouping(ordered, tuple(left), dialect, by_name=False, assumption=assumption)


def _holder(names: Sequence[str]) -> str:
    """What names begin with together, up to a dot, slash or the like."""
    start = names[0]
    for name in names[1:]:
        while not name.startswith(start):
            start = start[:-1]
    return re.sub(r"[./:#_]?[^./:#_]*$", "", start) if start not in names else start
