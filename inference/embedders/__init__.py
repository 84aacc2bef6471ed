"""Texts as vectors: the protocol, a model on this machine's CPU, and an engine's ``/v1/embeddings``."""
