"""Sessions: interviews, plannings and executions that can be paused and resumed, with what they have gathered."""
