"""HDF5 as far as checkpoints need it."""
