"""Tests of `densenet_port.conversion`."""
