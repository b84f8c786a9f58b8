"""The simulated network: hosts, connections, toxics, and what shows that they were felt."""
