"""What people read about a run: lines on the terminal and ``summary.json``."""
