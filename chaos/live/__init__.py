"""The live arena: real processes, real servers, real faults."""
