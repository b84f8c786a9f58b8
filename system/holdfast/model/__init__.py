"""States, transitions, records, identifiers and payloads: rules and data without I/O."""
