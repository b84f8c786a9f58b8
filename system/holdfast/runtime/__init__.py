"""Supervised loops, health and signals, used by every role."""
