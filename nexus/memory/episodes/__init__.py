"""What agents remember: episodes."""
