"""Answers no pod gives: models, usage, health, metrics."""
