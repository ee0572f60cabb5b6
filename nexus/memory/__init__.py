"""Memory: what a project knows of its code."""
