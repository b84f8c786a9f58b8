"""The laws of a run, each a pure function of its history; ``registry`` knows them by name."""
