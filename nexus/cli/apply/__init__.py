"""Desired state from a file: its sections, their differences to the daemon's records, and the plan that removes them.

All of it runs in the client; the daemon gets ordinary commands. It knows no capability: what is in a file, and which
commands make it so, is in the ``manifest`` of each capability, as a ``Section``.
"""
