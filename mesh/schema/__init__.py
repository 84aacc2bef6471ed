"""Istio's own schemas of the kinds we use, as ``istio-1.31.json``; ``derive.py`` makes that file."""
