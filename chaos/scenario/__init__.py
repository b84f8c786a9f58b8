"""What a scenario says: topology, workload, faults and expectations."""
