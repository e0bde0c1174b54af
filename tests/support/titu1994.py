"""titu1994's DenseNet in Keras 3, as its repository describes it: layers named by Keras, padding "same", its epsilon.

It was written for Keras 2. Here it is anew, from the description of its graph and in Keras's own layers alone, so that
there is a network to compare with.
"""

EPSILON = 1.1e-5


def network(keras, arch, activation="softmax"):
    """The model of an architecture; without classes it ends in the last ReLU. Names go on where the session is."""
    layers = keras.layers

    def conv(x, channels, size, strides=1):
        return layers.Conv2D(channels, size, strides=strides, padding="same", use_bias=False)(x)

    def activated(x):
        return layers.Activation("relu")(layers.BatchNormalization(epsilon=EPSILON)(x))

    inputs = keras.Input((None, None, arch.channels))
    if arch.stem == "imagenet":
        x = activated(conv(inputs, arch.init_channels, 7, 2))
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    else:
        x = conv(inputs, arch.init_channels, 3)
    for block, count in enumerate(arch.layers, start=1):
        for _ in range(count):
            y = activated(x)
            if arch.bottleneck:
                y = activated(conv(y, arch.bottleneck * arch.growth_rate, 1))
            x = layers.concatenate([x, conv(y, arch.growth_rate, 3)])
        if block < len(arch.layers):
            x = conv(activated(x), int(x.shape[-1] * (1 - arch.reduction)), 1)
            x = layers.AveragePooling2D(2, strides=2)(x)
    x = activated(x)
    if arch.classes is not None:
        x = layers.Dense(arch.classes, activation=activation)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x)
