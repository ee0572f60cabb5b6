"""Features and sub-features of projects."""
