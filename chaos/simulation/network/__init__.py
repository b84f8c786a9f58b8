"""The simulated network: hosts, connections, toxics, and the evidence of their effect."""
