"""Traces, metrics and logs, independent of what is observed."""
