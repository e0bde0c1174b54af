"""HDF5 as far as checkpoints need it: read without libhdf5 where possible, and where not in a copy of its making."""
