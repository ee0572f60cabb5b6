"""``nexusd``: the process, its socket, its clients. It knows capabilities only through their handlers."""
