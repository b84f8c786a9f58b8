"""Run a whole stack on one machine: embedded servers, their supervisor and their cleanup."""
