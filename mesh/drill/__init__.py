"""Drills: a gateway of their own, faults by plan, figures against the engine's own record, a verdict."""
