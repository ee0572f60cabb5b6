"""What the pages of a project show, each read in one request."""
