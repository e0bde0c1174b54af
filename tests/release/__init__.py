"""Tests of `densenet_port.release`."""
