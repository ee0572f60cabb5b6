"""The search over all that people read: messages, tool calls, jobs, services, VMs and conversations."""
