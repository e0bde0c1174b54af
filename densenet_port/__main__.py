"""`python -m densenet_port` is the command line."""

from densenet_port.cli.app import main

main()
