"""Hold Prometheus rules, Grafana dashboards, the Prometheus binaries and shared charts."""
