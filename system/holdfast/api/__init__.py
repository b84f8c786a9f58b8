"""The REST API: stores tasks and reports their state."""
