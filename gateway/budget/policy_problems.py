"""What is wrong with a budgets.yaml that its schema cannot say."""

from __future__ import annotations

from gateway.config.document import Document, Problem


def policy_problems(document: Document) -> list[Problem]:
    """Every problem of a document that has passed the schema."""
    return []
