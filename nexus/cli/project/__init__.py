"""Desired state from a file: its format, the difference to the daemon's records, and the plan that removes it.

All of it runs in the client; the daemon gets ordinary commands.
"""
