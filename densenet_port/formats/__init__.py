"""The containers of checkpoints."""
