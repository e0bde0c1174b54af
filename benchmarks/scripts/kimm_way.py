"""As kimm ports timm's weights: both models are built, and each weight is copied by kimm's own helpers.

    python benchmarks/scripts/kimm_way.py ARCH CHECKPOINT OUT      (in a process that has kimm)

kimm's wheel holds the helpers that are called here, `kimm.timm_utils`, but not the tool that calls them for each
family; this loop stands in its place. The weights pair in order of execution, and kimm says of each pair whether it
fits. What the tool does besides, a forward pass through both models, is left out.
"""

import sys


def main(arch: str, checkpoint: str, out: str) -> None:
    """Convert one of torchvision's checkpoints, whose names timm shares, to a Keras `.weights.h5` of kimm's model."""
    import timm
    import torch
    from kimm import models, timm_utils

    original = timm.create_model(f"densenet{arch}", pretrained=False)
    original.load_state_dict(torch.load(checkpoint, weights_only=True))
    model = getattr(models, f"DenseNet{arch}")(
        input_shape=[224, 224, 3], include_preprocessing=False, classifier_activation="linear", weights=None
    )
    theirs = timm_utils.separate_torch_state_dict(original.state_dict())
    ours = timm_utils.separate_keras_weights(model)
    for tensors, weights in zip(theirs, ours, strict=True):
        for (source, tensor), (weight, name) in zip(tensors.items(), weights, strict=True):
            values = tensor.numpy()
            if not timm_utils.is_same_weights(name, weight, source, values):
                sys.exit(f"{source} does not fit {name}")
            timm_utils.assign_weights(name, weight, values)
    model.save_weights(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
