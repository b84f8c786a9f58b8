-- wrk's script: every request stores one no-op task; the figures come out as one line of JSON.
wrk.method = "POST"
wrk.path = "/tasks/"
wrk.body = '{"name": "echo", "payload": {"number": 1}}'
wrk.headers["Content-Type"] = "application/json"

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
