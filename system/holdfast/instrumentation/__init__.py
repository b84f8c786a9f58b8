"""Emit one log line, the metrics and the spans of each transition; never carry data.

Telemetry for a transition is emitted exactly once, by the process that committed it, right after
the database has answered. Nothing reads back what was emitted.

- ``requests.py``, ``submits.py``: the API
- ``dispatches.py``: the scheduler
- ``attempts.py``, ``attempt_trace.py``: the worker
- ``telemetry.py``: where they emit to
"""
