"""Checkpoints: what a project's plan was at a time, and the way back to it."""
