"""Tests of `densenet_port.batches`."""
