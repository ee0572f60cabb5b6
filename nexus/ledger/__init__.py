"""The ledger: features, tasks, agents, requirements, metrics and sessions of projects, and the leases of tasks."""
