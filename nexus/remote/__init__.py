"""Runs processes on other hosts: one ssh session to each, a dispatcher in POSIX sh there, and the shim that travels."""
