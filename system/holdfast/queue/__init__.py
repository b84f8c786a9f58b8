"""Hints on Redis streams; never authoritative."""
