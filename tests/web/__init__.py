"""The web page: by a client of its own, and in a browser."""
