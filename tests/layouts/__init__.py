"""Tests of `densenet_port.layouts`."""
