"""Logs, metrics and traces: a leaf package that knows nothing of the product."""
