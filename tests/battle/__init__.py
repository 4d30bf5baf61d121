"""Long trials of the library against a ledger outside the server: `make battle`."""
