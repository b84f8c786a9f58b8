"""Traces, metrics and logs: the mechanics that every process shares."""
