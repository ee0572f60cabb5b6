"""Git repositories through the system's git: their state, the operations on them, and the errors of git.

It knows no service: a repository is a folder.
"""
