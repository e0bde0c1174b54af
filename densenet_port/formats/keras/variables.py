"""The variables of Keras's layers."""

# Class of a layer, as `.weights.h5` spells it → its variables by number, as Keras creates them.
VARIABLES: dict[str, tuple[str, ...]] = {
    "conv2d": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "dense": ("kernel", "bias"),
    "normalization": ("mean", "variance", "count"),
}
