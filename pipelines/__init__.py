"""Assay: version corpora, build indices, train adapters, judge both, release what passes as one signed unit."""

__version__ = "0.1.0"
