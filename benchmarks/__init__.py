"""What densenet-port costs beside other ways, in one command: `python -m benchmarks`, see `__main__`."""
