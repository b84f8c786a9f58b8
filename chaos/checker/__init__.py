"""What judges a history: invariants, bounds and the verdict."""
