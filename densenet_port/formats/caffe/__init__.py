"""Caffe's containers, without Caffe."""
