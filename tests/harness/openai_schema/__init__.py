"""Is this what OpenAI publishes? ``validate`` for whole bodies and chunks; used by every tier's tests."""

from tests.harness.openai_schema.validation import KINDS, events_of, validate, validate_stream

__all__ = ["KINDS", "events_of", "validate", "validate_stream"]
