"""The compose arena: the same scenarios on the stack of docker-compose.yml."""
