"""One run: its course, its artifacts and where they are kept."""
