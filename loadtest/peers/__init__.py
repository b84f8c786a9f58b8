"""Other task queues beside Holdfast: one small file each, run in an environment of its own."""
