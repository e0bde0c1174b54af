"""Work that is many: items done by processes, here or on a cluster, and a journal of what became of each."""
