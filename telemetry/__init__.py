"""The vocabulary every other package shares: frames, records, decisions, sites, topics, wire formats. No I/O, no clock."""
