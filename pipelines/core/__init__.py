"""Decisions without I/O: the standard library and numpy only."""
