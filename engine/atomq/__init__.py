"""atomq: an atomic queue engine on Redis and Valkey. See README.md."""
