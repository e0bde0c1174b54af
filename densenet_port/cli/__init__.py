"""The command line."""

from densenet_port.cli.app import main

__all__ = ["main"]
