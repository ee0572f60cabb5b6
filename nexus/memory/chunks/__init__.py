"""Chunks: the parts of a project's files, their symbols and their embeddings."""
