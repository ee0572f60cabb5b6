"""Continue points: where the work on a task was, so that another agent can go on with it."""
