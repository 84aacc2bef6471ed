"""The local supervisor: start order, readiness, restart, state."""
