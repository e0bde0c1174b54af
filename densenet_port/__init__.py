"""Move DenseNet weights between frameworks, and prove that the port is the same network."""
