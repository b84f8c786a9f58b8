"""The clients that submit, cancel and read."""
