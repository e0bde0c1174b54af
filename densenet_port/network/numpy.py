"""DenseNet's forward pass in numpy, float32 or float64: the third opinion beside the two frameworks of a comparison.

Maps are `n h w c` throughout. BLAS does the work: a 1×1 convolution is one matrix product; a 3×3 convolution is one
product with its nine taps side by side, whose results are added shifted (no copy of the input is made, and the border
needs no padding); the 7×7 stem gathers its windows. A dense block fills one buffer of its final width, old channels
first. The function is that of the original network (Huang et al., 2017) as its contract states it: epsilon from there,
the stem's padding symmetric or TensorFlow's "same", its pool a maximum or a maximum and a blur, transitions pooling 2×2
(an odd last row or column dropped, or averaged with itself alone), logits without softmax.

`Network` gives the same pass piece by piece, so that a checker can feed one piece with another framework's activations.

On a busy machine OPENBLAS_NUM_THREADS=1 is the faster setting: threads that wait for each other's turn cost more than
they bring.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from densenet_port.checkpoint import Array
from densenet_port.errors import MisfitError, UsageError
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract, Rounding, StemPadding
from densenet_port.network.units import ROLES, Slot

Map = NDArray[np.floating[Any]]
Tap = Callable[[str, Map], None]
Weights = Mapping[Slot, Array] | Callable[[Slot], Array]

SAME_TIME = 224 * 224  # pixels that pass through the network together: one picture, or 49 of CIFAR; more gain nothing


def forward(
    architecture: Architecture,
    contract: Contract,
    weights: Weights,
    images: Array,
    *,
    dtype: DTypeLike = np.float64,
    tap: Tap | None = None,
) -> Map:
    """Logits `n classes` of images `n h w c`; without a head the last map `n h w c`, after its ReLU.

    `weights` gives every slot of the architecture in our axes, as a mapping or a function; each is asked for once and
    cast to `dtype` (float32 or float64), as the images are, and every operation happens in it. `tap(unit, array)` sees
    each unit's output as `n h w c` in order of execution: a norm's before the ReLU, a convolution's own channels only,
    the head's logits. With a tap all images run together; without, few at a time, so that memory stays bounded. NaN and
    infinities pass through silently. Raises UsageError for images that the network cannot take and for another dtype,
    MisfitError for weights that are missing or of another shape.
    """
    images = _checked(architecture, contract, images)
    network = Network.prepared(architecture, contract, weights, dtype=dtype, tap=tap)
    count = max(len(images), 1)
    step = count if tap else max(1, SAME_TIME // (images.shape[1] * images.shape[2]))
    return np.concatenate([network(images[first : first + step]) for first in range(0, count, step)])


def smallest_side(architecture: Architecture, contract: Contract) -> int:
    """The smallest height and width that leave every pool something to pool: 29 for the original ImageNet networks.

    Each transition halves, rounding as the contract says; the stems of the ImageNet networks quarter, rounding up, with
    either padding. A map can be reflected from its second row and column on.
    """
    needed: int = 1 if contract.pool_rounding == "ceil" else 2 ** (len(architecture.layers) - 1)
    if architecture.stem == "cifar":
        return needed
    return max(4 * (needed - 1) + 1, 3 if contract.stem_pool == "blur" else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The network in pieces: each takes and gives `n h w c` maps of the weights' dtype, and tells the tap its units."""

    architecture: Architecture
    contract: Contract
    weights: Mapping[Slot, Map]
    tap: Tap | None = None

    @classmethod
    def prepared(
        cls,
        architecture: Architecture,
        contract: Contract,
        weights: Weights,
        *,
        dtype: DTypeLike = np.float64,
        tap: Tap | None = None,
    ) -> "Network":
        """The network with every slot asked for, checked against its shape and cast. Errors as in `forward`."""
        kind = np.dtype(dtype)
        if kind not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise UsageError(f"the forward pass runs in float32 or float64, not in {kind}")
        look_up = weights if callable(weights) else weights.__getitem__
        held = {slot: _cast(slot, shape, look_up, kind) for slot, shape in architecture.slots.items()}
        return cls(architecture=architecture, contract=contract, weights=held, tap=tap)

    def __call__(self, images: Array) -> Map:
        """Logits of images that all run together; the last map without a head."""
        with np.errstate(all="ignore"):
            x = self.stem(images)
            for b in range(1, len(self.architecture.layers)):
                x = self.transition(f"transition{b}", self.block(b, x))
            x = rectified(self.norm("final.norm", self.block(len(self.architecture.layers), x)))
            return x if self.architecture.classes is None else self.head(x)

    def stem(self, images: Array) -> Map:
        """The map that enters the first dense block."""
        x = self.before_pool(images)
        return x if self.architecture.stem == "cifar" else stem_pooled(x, self.contract)

    def before_pool(self, images: Array) -> Map:
        """The stem's convolutions, each with its norm and ReLU (the CIFAR stem's has neither)."""
        first = next(iter(self.architecture.units))
        kernel = self.weights[Slot(first, "kernel")]
        images = images.astype(kernel.dtype, copy=False)
        if self.architecture.stem == "cifar":
            return self.conv(first, images)
        x = self._tapped(first, stem_convolved(images, kernel, self.contract.stem_padding))
        if self.architecture.stem == "imagenet":
            return rectified(self.norm("stem.norm", x))
        x = rectified(self.norm("stem.norm1", x))
        for place in (2, 3):
            x = rectified(self.norm(f"stem.norm{place}", self.conv(f"stem.conv{place}", x)))
        return x

    def block(self, b: int, x: Map) -> Map:
        """Dense block `b` (from 1): the map that entered, then the new channels of each layer."""
        count, growth, width = self.architecture.layers[b - 1], self.architecture.growth_rate, x.shape[-1]
        full = np.empty((*x.shape[:-1], width + count * growth), x.dtype)
        full[..., :width] = x
        ends = range(width, full.shape[-1] + 1, growth)
        for index, (start, end) in enumerate(pairwise(ends), start=1):
            full[..., start:end] = self.layer(f"block{b}.layer{index}", full[..., :start])
        return full

    def layer(self, name: str, x: Map) -> Map:
        """The new channels of one dense layer, such as `block1.layer2`, from everything before it in its block."""
        for place in (1, 2) if self.architecture.bottleneck else (1,):
            x = self.conv(f"{name}.conv{place}", rectified(self.norm(f"{name}.norm{place}", x)))
        return x

    def transition(self, name: str, x: Map) -> Map:
        """The map that enters the next block, from everything in the block before `transition1`, say."""
        x = self.conv(f"{name}.conv", rectified(self.norm(f"{name}.norm", x)))
        return average_pooled(x, self.contract.pool_rounding)

    def head(self, x: Map) -> Map:
        """Logits `n classes` from the last map, after its ReLU."""
        kernel, bias = (self.weights[Slot("head.dense", role)] for role in ("kernel", "bias"))
        return self._tapped("head.dense", x.mean(axis=(1, 2)) @ kernel + bias)

    def norm(self, unit: str, x: Map) -> Map:
        """The output of one norm unit, before the ReLU that follows it."""
        scale, shift, mean, variance = (self.weights[Slot(unit, role)] for role in ROLES["norm"])
        return self._tapped(unit, normalised(x, scale, shift, mean, variance, self.contract.epsilon))

    def conv(self, unit: str, x: Map) -> Map:
        """The output of one convolution unit of stride 1; what enters has passed the ReLU already."""
        return self._tapped(unit, convolved(x, self.weights[Slot(unit, "kernel")]))

    def _tapped(self, unit: str, output: Map) -> Map:
        """The output itself; the tap gets a copy, because a ReLU may work in place."""
        if self.tap:
            self.tap(unit, output.copy())
        return output


def normalised(x: Map, scale: Map, shift: Map, mean: Map, variance: Map, epsilon: float) -> Map:
    """`(x − mean) / √(variance + epsilon) · scale + shift`, each `c` against the last axis, as one product and one sum.

    The frameworks fold the four numbers into two in the same way (inference mode of Ioffe and Szegedy, 2015).
    """
    factor = scale / np.sqrt(variance + x.dtype.type(epsilon))
    result: Map = x * factor
    result += shift - mean * factor
    return result


def rectified(x: Map) -> Map:
    """ReLU, in place; NaN stays NaN."""
    return np.maximum(x, 0, out=x)


def convolved(x: Map, kernel: Map) -> Map:
    """Cross-correlation of stride 1 with a kernel `h w i o` of odd sizes, zeros around, so that height and width stay.

    All taps are one product `(n·h·w, i) @ (i, taps·o)`; each tap's result then goes where its shift puts it.
    """
    height, width, inputs, outputs = kernel.shape
    taps = kernel.transpose(2, 0, 1, 3).reshape(inputs, -1)
    found = (x.reshape(-1, inputs) @ taps).reshape(*x.shape[:3], height, width, outputs)
    result: Map = found[..., height // 2, width // 2, :].copy()
    for i, j in product(range(height), range(width)):
        if (i, j) != (height // 2, width // 2):
            to_rows, from_rows = _overlap(x.shape[1], i - height // 2)
            to_columns, from_columns = _overlap(x.shape[2], j - width // 2)
            result[:, to_rows, to_columns] += found[:, from_rows, from_columns, i, j]
    return result


def stem_convolved(images: Map, kernel: Map, padding: StemPadding) -> Map:
    """Cross-correlation of stride 2 with a kernel `h w i o`, zeros around by the padding's rule; image by image."""
    height, width, _, outputs = kernel.shape
    padded = _padded(images, height, padding)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))[:, ::2, ::2]
    windows = windows.transpose(0, 1, 2, 4, 5, 3)  # n, places, h w i
    result = np.empty((*windows.shape[:3], outputs), images.dtype)
    for image, out in zip(windows, result, strict=True):
        out[...] = (image.reshape(out.shape[0] * out.shape[1], -1) @ kernel.reshape(-1, outputs)).reshape(out.shape)
    return result


def stem_pooled(x: Map, contract: Contract) -> Map:
    """The stem's pool by its contract; what enters has passed the ReLU."""
    return blur_pooled(x) if contract.stem_pool == "blur" else max_pooled(x, contract.stem_padding)


def max_pooled(x: Map, padding: StemPadding) -> Map:
    """The stem's 3×3 max pool of stride 2. Padding with zeros is exact, because a ReLU stands before it."""
    return _maxima(_padded(x, 3, padding), 2)


def blur_pooled(x: Map) -> Map:
    """A 3×3 max pool of stride 1, then [1 2 1]/4 along both axes with stride 2, over the map and its reflection.

    The reflection does not repeat the border: 1 | 0 1 2 … (timm 1.0.31, layers/blur_pool.py; Zhang, *Making
    Convolutional Networks Shift-Invariant Again*, 2019). Along each axis ⌈size / 2⌉ results come out.
    """
    x = np.pad(_maxima(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 1), ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    half, quarter = x.dtype.type(0.5), x.dtype.type(0.25)
    tall = (x[:, :-2:2] + x[:, 2::2]) * quarter + x[:, 1:-1:2] * half
    result: Map = (tall[:, :, :-2:2] + tall[:, :, 2::2]) * quarter + tall[:, :, 1:-1:2] * half
    return result


def average_pooled(x: Map, rounding: Rounding) -> Map:
    """A transition's 2×2 average pool of stride 2.

    At an odd size "floor" drops the last row or column, and "ceil" averages what there is of it (BVLC Caffe,
    pooling_layer.cpp: the divisor counts places within the map).
    """
    if rounding == "ceil":  # a row that is averaged with itself is the average of what there is
        x = np.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)), "edge")
    rows, columns = (size // 2 * 2 for size in x.shape[1:3])
    tall = x[:, 0:rows:2] + x[:, 1:rows:2]
    result: Map = (tall[:, :, 0:columns:2] + tall[:, :, 1:columns:2]) * x.dtype.type(0.25)
    return result


def _maxima(x: Map, stride: int) -> Map:
    """The largest of every 3×3 places, no padding."""
    rows, columns = ((size - 3) // stride + 1 for size in x.shape[1:3])
    tall = np.maximum.reduce([x[:, i : i + stride * (rows - 1) + 1 : stride] for i in range(3)])
    result: Map = np.maximum.reduce([tall[:, :, j : j + stride * (columns - 1) + 1 : stride] for j in range(3)])
    return result


def _overlap(size: int, shift: int) -> tuple[slice, slice]:
    """Where results go and where they come from, along one axis of `size`, when place p reads place p + shift."""
    return slice(max(0, -shift), max(0, size - max(0, shift))), slice(max(0, shift), max(0, size - max(0, -shift)))


def _padded(x: Map, kernel: int, padding: StemPadding) -> Map:
    """The map with zeros around it for a kernel of stride 2.

    "symmetric" puts `kernel // 2` on every side; "same" what `⌈size / 2⌉` results need, the smaller half in front.
    """
    sides = []
    for size in x.shape[1:3]:
        needed = max(0, 2 * ((size + 1) // 2 - 1) + kernel - size)
        sides.append((kernel // 2, kernel // 2) if padding == "symmetric" else (needed // 2, needed - needed // 2))
    return np.pad(x, ((0, 0), *sides, (0, 0)))


def _cast(slot: Slot, shape: tuple[int, ...], look_up: Callable[[Slot], Array], dtype: np.dtype[Any]) -> Map:
    """One slot's array, contiguous and in the dtype of the run."""
    try:
        array = np.asarray(look_up(slot))
    except KeyError as error:
        raise MisfitError(f"the weights lack {slot}") from error
    if array.shape != shape:
        raise MisfitError(f"{slot}: expected shape {shape}, found {array.shape}")
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(array, dtype)


def _checked(architecture: Architecture, contract: Contract, images: Array) -> Array:
    """Images that the network can take, as an array."""
    images = np.asarray(images)
    least, channels = smallest_side(architecture, contract), architecture.channels
    if images.ndim != 4 or images.shape[-1] != channels:  # noqa: PLR2004 (n h w c)
        raise UsageError(f"images must have the axes n h w c with c={channels}, found shape {images.shape}")
    if min(images.shape[1:3]) < least:
        found = f"{images.shape[1]} by {images.shape[2]} pixels"
        raise UsageError(f"images of {found} are too small: DenseNet {architecture.name} needs {least} by {least}")
    return images
