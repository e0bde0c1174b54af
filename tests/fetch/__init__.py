"""Tests of `densenet_port.fetch`."""
