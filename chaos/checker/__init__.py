"""Judge a history: invariants, bounds and the verdict."""
