"""The process beside the path: outbox to segments, expiry, access log."""
