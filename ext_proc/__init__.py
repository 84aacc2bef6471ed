"""Admit and tap: the two ext_proc filters."""
