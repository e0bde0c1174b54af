"""What several tests stand on: networks, files and servers that are made for them."""
