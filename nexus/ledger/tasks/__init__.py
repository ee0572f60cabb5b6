"""Tasks: the work items of projects, what they depend on, and what moves them."""
