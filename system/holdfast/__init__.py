"""Holdfast: a distributed task scheduler whose promises can be checked."""
