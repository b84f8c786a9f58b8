"""The worker process: claim tasks, run their handlers, finish attempts, keep the lease."""
