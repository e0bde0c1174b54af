"""PyTorch's checkpoints, without PyTorch."""
