"""Services: local programs that Nexus starts, watches, restarts, connects and stops."""
