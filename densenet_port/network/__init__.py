"""The network as data: its numbers, its contract, and what runs it."""
