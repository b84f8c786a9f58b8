"""Telling what happened: one log line, the metrics and the spans of each transition.

The law: whoever makes a transition in the database tells it, once, and nobody else does. Roles call
these nouns right after the database has answered; nothing reads back what was told.

- ``requests.py``, ``submits.py``: the API
- ``dispatches.py``: the scheduler
- ``attempts.py``, ``attempt_trace.py``: the worker
- ``telemetry.py``: what all of them tell it to
"""
