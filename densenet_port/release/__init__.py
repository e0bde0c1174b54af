"""Releases: weight files that anyone can verify. `build` lays one out, `publish` uploads it, `verify` judges it.

A release is a flat folder, because that is what a release page holds. For each network `densenet121-torchvision`:

    densenet121-torchvision.weights.h5  .safetensors         the weights, with the head
    densenet121-torchvision-notop.weights.h5  .safetensors   the same without it
    densenet121-torchvision.golden.npz                       the reference's logits, for `verify`
    densenet121-torchvision.parity.json .html .md .xml       what was measured
    densenet121-torchvision.card.md                          the model card

and once: `manifest.json` (see `densenet_port.fetch.manifest`), `SHA256SUMS`, which `sha256sum -c` reads,
`RELEASE_NOTES.md`, and `manifest.json.sig` where the manifest was signed.
"""
