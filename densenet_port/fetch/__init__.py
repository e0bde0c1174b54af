"""Weight files by name: registered, downloaded, verified, cached."""
