"""Measure throughput, latency and cost per task, also of other task queues."""
