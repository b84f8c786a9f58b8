"""How fast is it? Throughput runs, Locust users, and peers measured side by side. HTTP only."""
