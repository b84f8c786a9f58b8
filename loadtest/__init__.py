"""Load and throughput, by HTTP only."""
