"""Projects: the scope of names, and what a plan is for."""
