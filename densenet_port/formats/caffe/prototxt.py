"""Caffe's `.prototxt`: a network in Protocol Buffers' text format, beside the `.caffemodel` of the same stem.

    name: "some network"             # to the end of the line is a comment
    layer { name: "second"  type: "BatchNorm"  bottom: "first"  top: "second"  batch_norm_param { eps: 1e-5 } }

As far as we read it: `name: value`, `name { … }` (also with a colon, or in `< >`), lists `[a, b]`, and commas or
semicolons after a field; values are numbers, words and texts, of which several in a row are one. Of the network we take
what the weights' file may not say: the epsilon of its norms, the stride and the pool of its stem, how its average pools
round, and the pool in front of a flattened map. Caffe runs a network as
the `.prototxt` says, whatever the `.caffemodel` holds beside the weights, so what it says goes first.

`round_mode` is BVLC's word for a pool's rounding (CEIL, which is the default, or FLOOR), `ceil_mode` (true or false)
that of forks and OpenCV; both have the number 13 in the binary format, with opposite meanings. So a `.caffemodel` alone
tells the rounding only where it leaves the field out.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from densenet_port.errors import CorruptError, DiskError, MisfitError
from densenet_port.formats.caffe.layers import INPUT, SIZE, Layer, Value
from densenet_port.network.architecture import Architecture
from densenet_port.network.blueprint import Blueprint
from densenet_port.network.contract import Contract, Rounding
from densenet_port.network.graph import stem_kind, stem_of

ENDING, HDF5 = ".prototxt", ".caffemodel.h5"
EPSILON = 1e-5  # of a BatchNorm that says none; caffe.proto's default
PARAMETERS = {  # type → the field with its settings
    "BatchNorm": "batch_norm_param",
    "Convolution": "convolution_param",
    "InnerProduct": "inner_product_param",
    "Pooling": "pooling_param",
    "Reshape": "reshape_param",
    "Scale": "scale_param",
}
Fields = dict[str, list[Any]]  # name → values in their order: str, or Fields of a message

_FLATTENING = ("reshape", "flatten", "innerproduct", "inner_product")  # types of layers that read every place of a map
_WIDEST = 100  # pixels of a stem's kernel

_LIMIT = 1 << 21  # bytes of a text; the 201's has 127,588
_TOKENS = 1 << 17  # in it, comments and spaces counted; the same has 40,000
_DEPTH = 32  # messages within messages
_TOKEN = re.compile(
    r"""[\s]+|\#[^\n]* | (?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*') | (?P<mark>[{}<>\[\]:,;]) """
    r"""| (?P<word>[^\s{}<>\[\]:,;\#"']+)""",
    re.VERBOSE,
)
_CLOSED_BY = {"{": "}", "<": ">"}


class Seen(NamedTuple):
    """What we take of a layer: its type, the blobs it reads and makes, and what of it says something of the contract.

    `epsilon` is a BatchNorm's, `pool` a Pooling's, and `window` the side of a Convolution's kernel and its stride, both
    0 where it does not say them.
    """

    kind: str
    bottoms: tuple[str, ...]
    top: str
    epsilon: float | None = None
    pool: "Pool | None" = None
    window: tuple[int, int] = (0, 0)


class Pool(NamedTuple):
    """A pool as a graph describes it: "MAX" or "AVE", sizes, whether it is global, and its rounding if that is told."""

    method: str
    kernel: int
    stride: int
    whole: bool
    rounding: Rounding | None


# -- reading -----------------------------------------------------------------------------------------------------------


def beside(path: Path) -> Path:
    """The `.prototxt` of a weights' file's stem (`X` of `X.caffemodel` and `X.caffemodel.h5`), there or not."""
    return (path.with_suffix("") if path.name.endswith(HDF5) else path).with_suffix(ENDING)


def read(path: Path) -> dict[str, Any]:
    """What a network's text says of its contract, as a checkpoint's metadata.

    Raises DiskError for a file that cannot be read, CorruptError for what is no such text, MisfitError for a network
    whose norms or pools do not agree with each other.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LIMIT + 1)
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > _LIMIT:
        raise CorruptError(f"{path}: more than {_LIMIT} bytes, which no network's text has")
    net = parse(path, content.decode(errors="replace"))
    layers = [layer for key in ("layer", "layers") for layer in net.get(key, []) if isinstance(layer, dict)]
    try:
        seen = [_seen(layer) for layer in layers]
    except (ValueError, AttributeError, IndexError) as error:
        raise CorruptError(f"{path}: a layer's settings cannot be read: {error}") from error
    pools = [layer.pool for layer in seen if layer.pool]
    return described(path, seen) | {"notes": list(_notes(pools)), "prototxt": path.name}


def parse(path: Path, text: str) -> Fields:
    """The fields of a text; scalars stay as they are written, texts without their quotes.

    Raises CorruptError that names the line.
    """
    return _Reader(path, text).message(None, 0)


class _Reader:
    """The tokens of a text, from the first on: kind and content, and the line of the last one that was taken."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.line = 1
        self.tokens = self._split(text)
        self.next = next(self.tokens, None)

    def _split(self, text: str) -> Iterator[tuple[str, str, int]]:
        """Kind, content and line of each token."""
        at, line, left = 0, 1, _TOKENS
        while at < len(text):
            left -= 1
            match = _TOKEN.match(text, at)
            if match is None or not left:
                self.line = line
                detail = (
                    f"{text[at : at + 20]!r} is no part of a network's text"
                    if left
                    else "more words than any network has"
                )
                raise self.broken(detail)
            if match.lastgroup:
                yield match.lastgroup, match[0], line
            line += text.count("\n", at, match.end())
            at = match.end()

    def take(self, expected: str) -> str:
        """The token that stands next, and go on. Raises CorruptError at the end."""
        if self.next is None:
            raise self.broken(f"ends where {expected} is expected")
        _, token, self.line = self.next
        self.next = next(self.tokens, None)
        return token

    def skip(self, *marks: str) -> bool:
        """Whether one of these marks stands next; go on if so."""
        is_next = self.next is not None and self.next[0] == "mark" and self.next[1] in marks
        if is_next:
            self.take("a mark")
        return is_next

    def message(self, end: str | None, depth: int) -> Fields:
        """Fields up to the mark that closes the message, or to the end of the text."""
        if depth > _DEPTH:
            raise self.broken(f"messages are nested more than {_DEPTH} deep")
        fields: Fields = {}
        while not (self.skip(end) if end else self.next is None):
            name = self.take(f"{end!r}")
            if not re.fullmatch(r"[\w.\-/]+", name):
                raise self.broken(f"{name!r} where a field's name is expected")
            colon = self.skip(":")
            fields.setdefault(name, []).extend(self.values(depth, colon=colon))
            self.skip(",", ";")
        return fields

    def values(self, depth: int, *, colon: bool) -> list[Any]:
        """The value of a field, or several in brackets, which only a colon allows."""
        if not (colon and self.skip("[")):
            return [self.value(depth, colon=colon)]
        values: list[Any] = []
        while not self.skip("]"):
            values.append(self.value(depth, colon=True))
            self.skip(",")
        return values

    def value(self, depth: int, *, colon: bool) -> Any:
        """A message, or a scalar, which needs a colon."""
        for begin, end in _CLOSED_BY.items():
            if self.skip(begin):
                return self.message(end, depth + 1)
        if not colon:
            raise self.broken("a field has no value")
        return self.scalar()

    def scalar(self) -> str:
        """A number, a word, or texts in a row as one."""
        kind = self.next[0] if self.next else ""
        token = self.take("a value")
        if kind == "mark":
            raise self.broken(f"{token!r} where a value is expected")
        if kind != "text":
            return token
        text = token[1:-1]
        while self.next is not None and self.next[0] == "text":
            text += self.take("a text")[1:-1]
        return text

    def broken(self, detail: str) -> CorruptError:
        """The error at this place."""
        return CorruptError(f"{self.path}, line {self.line}: {detail}", hint="repair it, or move it away")


def _seen(layer: Fields) -> Seen:
    """What we take of a layer."""
    kind = _kind(layer)
    settings = {name: values[-1] for name, values in _settings(layer, "Convolution").items()}
    return Seen(
        kind=kind,
        bottoms=tuple(map(str, layer.get("bottom", []))),
        top=str(layer.get("top", [""])[-1]),
        epsilon=_epsilon(layer) if kind == "batchnorm" else None,
        pool=_pool(layer) if kind == "pooling" else None,
        window=(int(settings.get("kernel_size", 0)), int(settings.get("stride", 1))) if settings else (0, 0),
    )


def _kind(layer: Fields) -> str:
    """A layer's type, in the words of either form: `type: "Pooling"`, `type: POOLING`."""
    return str(layer.get("type", [""])[-1]).lower()


def _epsilon(layer: Fields) -> float:
    """The epsilon of a BatchNorm."""
    return float(_settings(layer, "BatchNorm").get("eps", [EPSILON])[-1])


def _settings(layer: Fields, kind: str) -> Fields:
    """The settings of a layer, which may stand in several messages."""
    settings: Fields = {}
    for part in layer.get(PARAMETERS[kind], []):
        for name, values in part.items():
            settings.setdefault(name, []).extend(values)
    return settings


def _pool(layer: Fields) -> Pool:
    """A pool; where nothing is said of its rounding, Caffe's own."""
    settings = {name: values[-1] for name, values in _settings(layer, "Pooling").items()}
    mode, up = str(settings.get("round_mode")).upper(), str(settings.get("ceil_mode")).lower()
    return Pool(
        method={"0": "MAX", "1": "AVE"}.get(settings.get("pool", "MAX"), settings.get("pool", "MAX")),
        kernel=int(settings.get("kernel_size") or settings.get("kernel_h") or 0),
        stride=int(settings.get("stride") or settings.get("stride_h") or 1),
        whole=str(settings.get("global_pooling")).lower() in ("true", "1"),
        rounding="floor" if mode in ("FLOOR", "1") or up in ("false", "0") else "ceil",
    )


def described(path: Path, layers: Sequence[Seen]) -> dict[str, Any]:
    """What the layers of a graph say of the contract: epsilon, and rounding, on which all of them agree; stem and head.

    A 2×2 average pool of stride 1 leaves nothing to round: the convolution behind it does, downwards. Raises
    MisfitError where they do not agree.
    """
    flattened = {bottom for layer in layers if layer.kind in _FLATTENING for bottom in layer.bottoms}
    averages = [layer for layer in layers if layer.pool and layer.pool.method == "AVE" and not layer.pool.whole]
    epsilons = sorted({layer.epsilon for layer in layers if layer.epsilon is not None})
    roundings = sorted({_rounding(layer.pool) for layer in averages if layer.pool and _halves(layer, flattened)})
    for what, values in (("norms have the epsilons", epsilons), ("average pools round", roundings)):
        if len(values) > 1:
            shown = " and ".join(map(str, values))
            raise MisfitError(f"{path}: its {what} {shown}", hint="densenet-port's networks have one for all")
    metadata: dict[str, Any] = {"epsilon": epsilons[0]} if epsilons else {}
    metadata |= {"pool_rounding": roundings[0]} if roundings and roundings != ["None"] else {}
    heads = [layer.pool.kernel for layer in averages if layer.pool and layer.top in flattened]
    return metadata | _stem(layers) | ({"head_pool": heads[0]} if heads and heads[0] > 1 else {})


def _halves(layer: Seen, flattened: Collection[str]) -> bool:
    """Whether a pool is a transition's: of 2×2, and not in front of a flattened map."""
    return layer.pool is not None and layer.pool.kernel == 2 and layer.top not in flattened


def _rounding(pool: Pool) -> str:
    return str("floor" if pool.stride == 1 else pool.rounding)


def _stem(layers: Sequence[Seen]) -> dict[str, Any]:
    """The stride of the first convolution, None for the usual one, and whether a pool stands before the second."""
    convs = [place for place, layer in enumerate(layers) if layer.kind == "convolution"]
    side, stride = layers[convs[0]].window if convs else (0, 0)
    if side % 2 == 0 or side >= _WIDEST or stride < 1:  # no stem of ours
        return {}
    (usual,) = stem_of(stem_kind(side, norms=True)).convs
    until = convs[1] if len(convs) > 1 else len(layers)
    pools = [layer.pool for layer in layers[convs[0] : until] if layer.pool and layer.pool.method == "MAX"]
    return {"stem_stride": None if stride == usual.stride else stride, "stem_pool": "max" if pools else "none"}


def _notes(pools: Iterable[Pool]) -> Iterator[str]:
    """What a network's text says that no network of ours can be."""
    if any(
        pool.method == "MAX" and pool.kernel > 2 and pool.rounding == "ceil" for pool in pools
    ):  # our stem's are 2×2
        yield (
            "the .prototxt lets the stem's pool round up (57 rows of 112), as BVLC's Caffe does by itself; the "
            "published networks and ours round it down, and give other logits unless the map is odd (225 pixels)"
        )


# -- writing -----------------------------------------------------------------------------------------------------------


def text(blueprint: Blueprint, layers: list[Layer]) -> str:
    """The `.prototxt` of a network in its layers: complete, for every Caffe and for OpenCV."""
    architecture, side = blueprint.architecture, _side(blueprint)
    shape = " ".join(f"dim: {length}" for length in (1, architecture.channels, side, side))
    lines = [
        *(f"# {line}" for line in _head(architecture, blueprint.contract)),
        f"name: {_quoted(f'DenseNet-{architecture.name}')}",
        f'layer {{ name: "{INPUT}" type: "Input" top: "{INPUT}" input_param {{ shape {{ {shape} }} }} }}',
        *map(_line, layers),
    ]
    return "\n".join(lines) + "\n"


def _side(blueprint: Blueprint) -> int:
    """Pixels of the input: the usual ones, or as many as the network needs; where a map is flattened, the least.

    A pool in front of a flattened map leaves nothing over then.
    """
    least = blueprint.graph.smallest_side
    is_flat = any(step.kind == "flatten" for step in blueprint.graph.operations.values())
    return least if is_flat else max(SIZE, least)


def _head(arch: Architecture, contract: Contract) -> Iterator[str]:
    """What a person who runs the network must know."""
    order, scale = contract.input.order, contract.input.scale
    mean, std = (", ".join(f"{value:.10g}" for value in many) for many in (contract.input.mean, contract.input.std))
    yield f"DenseNet {arch.name}, written by densenet-port."
    yield f"Input: {order}, x = (pixel / {scale:.10g} - mean) / std, mean {mean}, std {std}, pixels 0 to 255."
    if arch.classes is not None:
        yield f"Output: {arch.classes} logits, without softmax."
    up = "up" if contract.pool_rounding == "ceil" else "down"
    yield f"Pools: the stem's rounds down, the transitions' round {up},"
    yield "at every size of the input and in every Caffe: two 2x2 max pools are the 3x3 one, rounded down."
    if contract.pool_rounding == "floor":
        yield "A transition's convolution has stride 2 behind a pool of stride 1: the same as the other way round."


def _line(layer: Layer) -> str:
    """A layer, on a line."""
    parts = [f"name: {_quoted(layer.name)}", f"type: {_quoted(layer.kind)}"]
    parts += [f"bottom: {_quoted(bottom)}" for bottom in layer.bottoms]
    parts.append(f"top: {_quoted(layer.top)}")
    if layer.settings:
        settings = " ".join(f"{name}{_value(value)}" for name, value in layer.settings.items())
        parts.append(f"{PARAMETERS[layer.kind]} {{ {settings} }}")
    return f"layer {{ {' '.join(parts)} }}"


def _value(value: Value) -> str:
    """A setting as the text format has it, behind its name."""
    if isinstance(value, tuple):
        return f" {{ {' '.join(f'dim: {length}' for length in value)} }}"
    return f": {str(value).lower() if isinstance(value, bool) else value}"


def _quoted(name: str) -> str:
    """A text between quotes; whatever is not plain ASCII as bytes in octal."""
    return '"' + "".join(chr(byte) if chr(byte) in _PLAIN else f"\\{byte:03o}" for byte in name.encode()) + '"'


_PLAIN = {chr(code) for code in range(32, 127)} - {'"', "\\"}
