"""Serve gRPC to Envoy: transport, health, drain, wire."""
