"""A network, or a port beside its original, on a data set: accuracy, agreement, differences, calibration."""
