"""The worker process: claim, run, finish, heartbeat."""
