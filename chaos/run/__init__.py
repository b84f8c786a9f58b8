"""Run scenarios: one run, several runs, their artifacts and the run store."""
