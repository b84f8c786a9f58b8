"""Report runs: lines on the terminal, HTML pages, ``summary.json`` and JUnit XML."""
