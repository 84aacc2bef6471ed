"""The model catalogue: aliases, revisions, limits, prices."""
