"""The crash sweep: every message of a small system lost once, every process killed at each."""
