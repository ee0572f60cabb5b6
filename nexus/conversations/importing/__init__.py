"""Reads conversations of other programs: pure functions and generators, which know no daemon and no connection."""
