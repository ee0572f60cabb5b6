"""What everything that runs shares: requests, waiters, exits, backoff, the boot, the sweep, port leases."""
