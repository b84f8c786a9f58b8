"""The law and the nouns: states, transitions, records, identifiers, payloads. Pure."""
