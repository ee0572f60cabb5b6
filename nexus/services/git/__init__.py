"""The commands on the repositories of services."""
