"""Emit one log line, the metrics and the spans of each transition; never carry data.

Telemetry for a transition is emitted exactly once, by the process that committed it, after the
database has answered. No code reads it back.

- ``requests.py``, ``tasks.py``: the API
- ``scheduler.py``: the scheduler
- ``worker.py``, ``attempt_span.py``: the worker
- ``attributes.py``: the names of span attributes and log fields
- ``telemetry.py``: the log, metrics and tracing of a process
"""
