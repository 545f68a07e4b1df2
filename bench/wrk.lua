-- One POST after another, each with another sticky key; the figures come out as one line of JSON.
-- Arguments: path, file with the body, API key or "-", number of sticky keys.
local requests, turn = {}, 0

function init(arguments)
  local file = assert(io.open(arguments[2], "rb"))
  local body = file:read("*a")
  file:close()
  for number = 1, tonumber(arguments[4]) do
    local headers = {
      ["Content-Type"] = "application/json",
      ["Accept-Version"] = "v1",
      ["X-Sticky-Key"] = "caller-" .. number,
    }
    if arguments[3] ~= "-" then headers["X-Api-Key"] = arguments[3] end
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
