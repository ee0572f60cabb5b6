"""``nexusctl``: the command line. It reaches the daemon through ``nexus.client``; it knows no handler and no store."""
