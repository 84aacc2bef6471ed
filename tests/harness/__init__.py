"""Real processes and fakes that several tiers use."""
