"""What to do with a run that failed: a smaller plan, a diagram, the event to blame."""
