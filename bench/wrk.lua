-- One POST after another, each with another sticky key; the figures come out as one line of JSON.
-- Arguments: path, file with the body, number of sticky keys, then headers as "Name: value".
local requests, turn = {}, 0

function init(arguments)
  local file = assert(io.open(arguments[2], "rb"))
  local body = file:read("*a")
  file:close()
  local count = tonumber(arguments[3])
  for number = 1, count do
    local headers = {}
    if count > 1 then headers["X-Sticky-Key"] = "caller-" .. number end
    for at = 4, #arguments do
      local name, value = arguments[at]:match("^(.-): (.*)$")
      headers[name] = value
    end
    requests[number] = wrk.format("POST", arguments[1], headers, body)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "bad_status": %d, "broken": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
