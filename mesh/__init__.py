"""Policy to Envoy, and the local supervisor."""
