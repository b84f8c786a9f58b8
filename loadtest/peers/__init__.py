"""Measure other task queues: one module each, run in a separate virtual environment."""
