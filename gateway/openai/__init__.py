"""OpenAI wire types we read, the SSE parser and error bodies. No I/O."""
