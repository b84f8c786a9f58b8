"""The environment of one simulated run: roles, clients, servers, observer."""
