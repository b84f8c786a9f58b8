"""The invariants of a run, each a pure function of its history; ``registry`` lists them by name."""
