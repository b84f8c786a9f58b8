"""The arena of containers: the same scenarios against the stack of docker-compose.yml."""
