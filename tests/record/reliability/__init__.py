"""What `docs/reliability.md` says, and the scripts that measure it."""
