"""Postgres, the source of truth: one method is one transition is one statement."""
