"""Vectors of records, which their callers compute."""
