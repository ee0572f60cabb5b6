"""Git repositories by the system's git: what they hold, what may be done to them, and why git refused.

It knows no service: a repository is a folder, and who asks for it says what it is for.
"""
