"""Hints on Redis streams, which carry no truth."""
