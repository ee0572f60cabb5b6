"""Nodes: the hosts on which jobs run, reached by the system's ssh."""
