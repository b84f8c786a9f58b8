"""The stack of one simulated run: roles, clients, servers, witness."""
