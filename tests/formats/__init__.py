"""Tests of `densenet_port.formats`."""
