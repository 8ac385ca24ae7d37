"""Tests are not timed: a property is as true on a busy machine."""

from hypothesis import settings

settings.register_profile("assay", deadline=None)
settings.load_profile("assay")
