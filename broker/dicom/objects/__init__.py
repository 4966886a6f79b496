"""Data sets, without any network."""
