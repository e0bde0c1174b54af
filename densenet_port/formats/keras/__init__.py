"""Keras's containers, without Keras."""
