"""Try generated mutants: which tier kills them, in a file by mutant, so that a run resumes."""
