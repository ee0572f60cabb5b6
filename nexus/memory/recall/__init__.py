"""The search of memory: by text, by vectors, or by both together."""
