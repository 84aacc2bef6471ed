"""SGLang: launch, client, and its deterministic twin."""
