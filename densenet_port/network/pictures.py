"""Pictures, prepared as a contract says: files, Pillow's images or arrays in, what a network reads out.

The arithmetic is that of torchvision's presets and of timm's `create_transform`, operation by operation, so that 8-bit
pictures come out with the same bits: Pillow resizes in 8 bits, the middle is taken, and the rest is float32. Like
theirs, it leaves pictures as they are stored: an orientation in a file's EXIF is not applied. Colours are Pillow's
`convert("RGB")`, or `convert("L")` for networks of one channel: palettes are looked up, transparency is dropped. What
Pillow would cut off at 255 is not: pictures of 16 bits are divided by 257, which makes 255 of 65535.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.errors import CorruptError, DiskError, UsageError
from densenet_port.extras import framework
from densenet_port.network.contract import Contract, Input, Resize

Size = int | tuple[int, int] | Resize
Pictures = Any  # a path, bytes, an image of Pillow's (which has no stubs, and may be missing), an array, or several
_GREY = np.array([[0.299], [0.587], [0.114]])  # ITU-R BT.601, as Pillow makes grey
_WIDE = 65535 // 255  # steps of a 16-bit picture in one of an 8-bit picture


def preprocess(images: Pictures, contract: Contract, *, size: Size | None = None, channels: int | None = None) -> Array:
    """Pictures as the network of a contract reads them, `n h w c` float32.

    `images` is a path, the bytes of a file, an image of Pillow's, an array `h w c`, or several of them; an array
    `n h w c` is several.
    Arrays are red, green, blue (or grey), uint8 or floats from 0 to 255. `size`, in pixels or as a `Resize`, is how
    they are resized, where not as the contract says; pixels alone leave the rest of that as it is, and mean the middle
    of 8/7 of them where it says nothing. `channels` are the network's: 3, or 1 where the contract's input is grey.
    Raises UsageError where nothing says a size, and for what is no picture; DiskError and CorruptError for files.
    """
    resize = resize_of(contract, size)
    if resize is None:
        hint = "size=224 takes the middle of 256 pixels; Resize(...) says it in full"
        raise UsageError("the contract does not say how pictures are resized", hint=hint)
    count = channels or (1 if contract.input.order == "grey" else 3)
    pixels = [resized(picture, resize, contract.input) for picture in decoded(images, count)]
    if not pixels:
        raise UsageError("no pictures were given")
    return prepared(np.stack(pixels), contract.input)


def resize_of(contract: Contract, size: Size | None, usual: Resize | None = None) -> Resize | None:
    """How pictures are resized by a contract, or by `usual` where it does not say, with another size or way."""
    if isinstance(size, Resize):
        return size
    known = contract.resize or usual
    if size is None:
        return known
    sides = (size, size) if isinstance(size, int) else (size[0], size[1])
    return replace(known or Resize(), size=sides)


def prepared(pixels: Array, picture: Input) -> Array:
    """Pixels `n h w c`, red first or grey, from 0 to 255, as a network takes them, float32, in its order of channels.

    In float32, one operation after the other, as torchvision and timm compute it.
    """
    channels = pixels.shape[-1]
    mean, std = (np.array(numbers, np.float32) for numbers in picture.numbers(channels))
    ordered = pixels[..., ::-1] if picture.order == "bgr" else pixels
    values: Array = (ordered.astype(np.float32) / np.float32(picture.scale) - mean) / std
    return values


# -- pixels ------------------------------------------------------------------------------------------------------------


def decoded(images: Pictures, channels: int) -> Iterator[Array]:
    """Every picture as an array `h w c`, red first or grey, uint8 or float32, 0 to 255."""
    if isinstance(images, str | PathLike):
        yield _opened(Path(images), str(images), channels)
    elif isinstance(images, bytes):
        yield _opened(BytesIO(images), f"{len(images)} bytes", channels)
    elif hasattr(images, "convert"):
        yield _converted(images, channels)
    elif hasattr(images, "shape"):
        array = np.asarray(images)
        several = array if array.ndim == 4 else array[None]  # n h w c
        yield from (_checked(picture, channels) for picture in several)
    elif isinstance(images, Iterable):
        for picture in images:
            yield from decoded(picture, channels)
    else:
        kinds = "a path, bytes, an image of Pillow's, an array, or several of them"
        raise UsageError(f"no picture: expected {kinds}, found {type(images).__name__}")


def _opened(file: Path | BytesIO, called: str, channels: int) -> Array:
    """A file's pixels `h w c` uint8. Raises DiskError, CorruptError, or UsageError where Pillow is missing."""
    image = framework("PIL.Image")
    strange = (framework("PIL").UnidentifiedImageError, image.DecompressionBombError)
    try:
        with image.open(file) as picture:
            return _converted(picture, channels)
    except (*strange, OSError, ValueError, SyntaxError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DiskError(f"{called}: cannot be read: {error.strerror}") from error
        raise CorruptError(f"{called}: cannot be read as a picture: {error}") from error


def _converted(image: Any, channels: int) -> Array:
    """An image of Pillow's as pixels `h w c` uint8. Raises UsageError for one whose range nobody knows."""
    _require_colours(channels)
    if image.mode in ("I", "F"):
        raise UsageError(f"a picture of mode {image.mode!r} has no known range", hint="give it as floats from 0 to 255")
    if image.mode.startswith("I;16"):
        eight = np.asarray(image).astype(np.float64) / _WIDE
        image = framework("PIL.Image").fromarray(np.rint(eight).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # which Pillow asks for, and which changes no colour
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels[..., None] if channels == 1 else pixels


def _checked(array: Array, channels: int) -> Array:
    """An array that is a picture `h w c`, with the network's channels. Raises UsageError for any other."""
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4, channels):  # h w c; 4 with transparency
        raise UsageError(f"no picture: expected an array h w c or n h w c, red first or grey, found {array.shape}")
    if array.dtype == np.uint8 and array.shape[-1] != channels:
        squeezed = array[..., 0] if array.shape[-1] == 1 else array
        return _converted(framework("PIL.Image").fromarray(squeezed), channels)
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise UsageError(f"no picture: expected uint8, or floats from 0 to 255, found {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 255):  # nor NaN
        raise UsageError(f"no picture: expected values from 0 to 255, found {low:g} to {high:g}")
    if 0 < high <= 1:
        raise UsageError(f"values up to {high:g} are no pixels", hint="they run from 0 to 255: multiply by 255")
    return _coloured(array.astype(np.float32), channels)


def _coloured(array: Array, channels: int) -> Array:
    """Floats `h w c` with the network's channels: grey ones of colours, and three of grey."""
    if array.shape[-1] == channels:
        return array
    _require_colours(channels)
    if array.shape[-1] == 1:
        return np.repeat(array, channels, axis=-1)
    return array[..., :3] if channels == 3 else (array[..., :3] @ _GREY).astype(np.float32)


def _require_colours(channels: int) -> None:
    """Refuse to make pictures of any other number of channels."""
    if channels not in (1, 3):
        hint = f"give arrays n h w {channels}, pixels from 0 to 255"
        raise UsageError(f"pictures have 1 or 3 channels, this network takes {channels}", hint=hint)


# -- sizes -------------------------------------------------------------------------------------------------------------


def resized(pixels: Array, resize: Resize, picture: Input) -> Array:
    """Pixels `h w c` of any size as those of `resize.size`, uint8 or float32; a border has the colour of the mean."""
    height, width, channels = pixels.shape
    fill = _fill(picture, channels) if resize.fit == "border" else np.zeros(channels)
    return _middle(_scaled(pixels, _target(height, width, resize), resize.interpolation), resize.size, fill)


def _target(height: int, width: int, resize: Resize) -> tuple[int, int]:
    """Height and width to which a picture is scaled before its middle is taken.

    The rounding is torchvision's for the shorter side of a square, timm's `ResizeKeepRatio` for all else.
    """
    rows, columns = resize.scaled
    if resize.fit == "squash":
        return rows, columns
    if resize.fit == "crop" and rows == columns:
        long = int(rows * max(height, width) / min(height, width))
        return (rows, long) if height <= width else (long, rows)
    ratio = (max if resize.fit == "border" else min)(height / rows, width / columns)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def _scaled(pixels: Array, size: tuple[int, int], interpolation: str) -> Array:
    """Pixels `h w c` at another height and width: 8 bits in 8 bits, floats channel by channel, by Pillow either way."""
    if pixels.shape[:2] == size:
        return pixels
    image = framework("PIL.Image")
    way, sides = image.Resampling[interpolation.upper()], size[::-1]
    if pixels.dtype == np.uint8 and pixels.shape[-1] == 3:
        return np.asarray(image.fromarray(np.ascontiguousarray(pixels)).resize(sides, way))
    planes = [image.fromarray(np.ascontiguousarray(plane)).resize(sides, way) for plane in np.moveaxis(pixels, -1, 0)]
    scaled: Array = np.stack(planes, axis=-1)
    return scaled.clip(0, 255)  # cubic and Lanczos weights overshoot


def _middle(pixels: Array, size: tuple[int, int], fill: Array) -> Array:
    """The middle of pixels `h w c`, filled up where they are smaller, as torchvision's `center_crop` does both."""
    height, width, _ = pixels.shape
    below, beside = (max(0, side - own) for side, own in zip(size, (height, width), strict=True))
    if below or beside:
        whole = np.broadcast_to(fill.astype(pixels.dtype), (height + below, width + beside, len(fill))).copy()
        whole[below // 2 : below // 2 + height, beside // 2 : beside // 2 + width] = pixels
        pixels = whole
    top, left = (round((own - side) / 2) for own, side in zip(pixels.shape[:2], size, strict=True))
    return pixels[top : top + size[0], left : left + size[1]]


def _fill(picture: Input, channels: int) -> Array:
    """The pixel that is prepared as zero, red first or grey, rounded as in a picture of 8 bits."""
    mean = np.array(picture.numbers(channels)[0]) * picture.scale
    ordered = mean[::-1] if picture.order == "bgr" else mean
    pixel: Array = np.clip(np.rint(ordered), 0, 255)
    return pixel
