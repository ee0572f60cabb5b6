"""The plan of a project as a whole: read in pages and written in parts, for files that hold it."""
