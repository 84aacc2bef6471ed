"""Names, logs and metrics."""
