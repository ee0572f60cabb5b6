"""Memory: what a project knows of its code, what agents remember of it, and the search for what is like it."""
