"""Jobs: commands that run once, from a queue, with their groups and schedules; and terminals of what runs."""
