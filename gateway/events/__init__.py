"""Decision events: schema, hash chain, sealed segments."""
