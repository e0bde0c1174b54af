"""Tests of `densenet_port.cli`."""
