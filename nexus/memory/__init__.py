"""Memory: what a project knows of its code, and of what was done."""
