"""Diagnose a failed run: a smaller scenario, a diagram, the event to blame."""
