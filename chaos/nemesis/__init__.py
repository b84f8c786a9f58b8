"""What injects the faults of a scenario."""
