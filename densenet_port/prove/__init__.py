"""The evidence that two networks agree, and where they do not."""
