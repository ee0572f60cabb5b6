"""The configuration of a service: its file, and the environment of a run."""
