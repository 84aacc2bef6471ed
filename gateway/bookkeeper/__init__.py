"""The bookkeeper: beside the request path, keeps the ledger's time, the books and the second witness."""
