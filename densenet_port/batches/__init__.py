"""Many files in one run: which they are, what is done with each, and the journal by which a run goes on."""
