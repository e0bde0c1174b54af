"""The command line: `app` runs it, `base` is what every command stands on, and each other file has a group of them."""

from densenet_port.cli.app import main

__all__ = ["main"]
