-- Script for wrk: every request stores one no-op task, or a batch of N. Arguments (after --): the
-- filler of each payload (may be empty), N. The figures are printed as one line of JSON.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"

function init(arguments)
  local payload = '{"number": 1, "filler": "' .. arguments[1] .. '"}'
  local task = '{"name": "echo", "payload": ' .. payload .. "}"
  local many = tonumber(arguments[2])
  wrk.path = many and "/tasks/batch" or "/tasks/"
  wrk.body = many and '{"tasks": [' .. task .. string.rep(", " .. task, many - 1) .. "]}" or task
  body = wrk.format()
end

function request()
  return body
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
