"""A service from its start to its end: requests, the run, what is written of it, what follows an exit."""
