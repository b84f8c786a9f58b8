"""Postgres, the source of truth: each method is one transition and one SQL statement."""
