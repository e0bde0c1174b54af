"""Tests of `densenet_port.prove`."""
