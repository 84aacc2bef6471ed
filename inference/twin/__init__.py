"""A deterministic SGLang: same API, errors, usage; scripted faults."""
