"""Other task queues, measured the same way on the same machine and the same Postgres."""
