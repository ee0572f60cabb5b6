"""Health checks: a command, a port or a line of output tells whether a running service is healthy."""
