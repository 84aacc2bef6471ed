"""Runs a whole region on one machine: processes, readiness, restart, one state directory."""
