"""API keys as they are stored: what the file holds, and how it is changed."""
