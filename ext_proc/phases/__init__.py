"""One pure step per message of the stream."""
