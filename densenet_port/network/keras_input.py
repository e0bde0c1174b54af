"""What goes into a Keras model: its shape, and which of its axes holds the channels.

A user says the shape as `(h, w, c)` or `(c, h, w)`. The end that holds a likely count of channels tells the order, else
Keras's own setting (`keras.config.image_data_format()`); whoever asks for an order gets it.
"""

from collections.abc import Collection
from typing import Any, Literal, NamedTuple

from densenet_port.extras import framework

KerasTensor = Any  # Keras has no type stubs, and is imported only when called
DataFormat = Literal["channels_last", "channels_first"]
Shape = tuple[int | None, ...]


class ModelInput(NamedTuple):
    """The images of a model: their shape without the batch, None for any size, and the order of its axes."""

    shape: Shape
    order: DataFormat

    @property
    def channels(self) -> int:
        """The count of channels. Raises ValueError where it is not known."""
        count = self.shape[-1] if self.order == "channels_last" else self.shape[0]
        if count is None:
            raise ValueError(f"the number of channels must be known, found {self}")
        return count

    @property
    def sides(self) -> Shape:
        """Height and width."""
        return self.shape[:-1] if self.order == "channels_last" else self.shape[1:]

    def __str__(self) -> str:
        """`input_shape=(224, 224, 3) (channels_last)`."""
        return f"input_shape={self.shape} ({self.order})"


def model_input(
    shape: Shape | None,
    tensor: KerasTensor | None,
    data_format: DataFormat | None,
    default: Shape,
    likely: Collection[int] = (1, 3),
) -> ModelInput:
    """The input that a caller's arguments mean.

    `tensor` has a shape of its own; `default` is channels last, and is turned where neither shape nor tensor is given
    and channels stand first. `likely` are counts of channels. Raises ValueError for arguments that mean no input.
    """
    if data_format not in (None, "channels_last", "channels_first"):
        raise ValueError(f"data_format must be 'channels_last' or 'channels_first', found {data_format!r}")
    if tensor is not None:
        if not framework("keras").backend.is_keras_tensor(tensor):
            raise ValueError(f"input_tensor must be a Keras tensor, found {type(tensor).__name__}")
        shape = tensor.shape[1:]
    if shape is None:
        order = data_format or _setting()
        return ModelInput(default if order == "channels_last" else (default[-1], *default[:-1]), order)
    shape = tuple(shape)
    if len(shape) != 3:  # h w c
        raise ValueError(f"input_shape must be (h, w, c) or (c, h, w), found {shape}")
    return ModelInput(shape, data_format or _order(shape, likely))


def _order(shape: Shape, likely: Collection[int]) -> DataFormat:
    """The order in which one end alone has a likely count of channels, else Keras's setting."""
    first, last = shape[0] in likely, shape[-1] in likely
    if first == last:
        return _setting()
    return "channels_first" if first else "channels_last"


def _setting() -> DataFormat:
    """Keras's own setting."""
    setting: DataFormat = framework("keras").config.image_data_format()
    return setting
