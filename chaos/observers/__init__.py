"""What observes a run: the database, logs, the sink and the collector of spans."""
