"""Tests of `densenet_port.work`."""
