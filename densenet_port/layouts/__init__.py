"""Layouts: how each framework names, orders and stores a DenseNet's tensors, as tables."""
