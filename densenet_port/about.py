"""What this is."""

__version__ = "0.1.0"
TOOL = f"densenet-port {__version__}"  # what wrote a file, as the file says
