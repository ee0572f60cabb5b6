"""What agents remember of a project, and the search for what is like it."""
