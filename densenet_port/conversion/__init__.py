"""From one layout to another: a checkpoint read as a network, written, and compared."""
