"""Tests of `densenet_port.network`."""
