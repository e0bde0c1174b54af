"""Hostile files, made by scripts: seeds, mutants, bombs, pickles, escapes; and what judges how they are read."""
