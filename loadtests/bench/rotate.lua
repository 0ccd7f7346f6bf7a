-- Rotates over requests that are built once, so that many tokens cost the load generator no more
-- than one. Arguments: a file of lines "PATH TOKEN" ("-" for no token); milliseconds to wait before
-- each request of a connection, none where left out.
local requests, at = {}, 0

function init(args)
  for line in io.lines(args[1]) do
    local path, token = line:match("^(%S+) (%S+)$")
    local headers = {
      ["User-Agent"] = "mobile-app/4.12 (Android 14; Pixel 8)",
      ["Accept"] = "application/json, text/plain;q=0.9, */*;q=0.8",
      ["Accept-Encoding"] = "gzip, deflate, br",
      ["Accept-Language"] = "en-GB,en;q=0.9,de;q=0.7",
      ["X-Request-Id"] = "6f1c1f0e-8f0b-4b7a-9d53-7b1b5a1c2d3e",
    }
    if token ~= "-" then headers["Authorization"] = "Bearer " .. token end
    requests[#requests + 1] = wrk.format("GET", path, headers)
  end
  local pause = tonumber(args[2])
  if pause then delay = function() return pause end end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

-- One line for the program that started wrk; times are in microseconds.
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "bytes": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, ' ..
    '"mean_us": %.1f, "connect": %d, "read": %d, "write": %d, "timeout": %d, "status": %d}\n',
    summary.requests, summary.bytes, summary.duration, latency:percentile(50),
    latency:percentile(99), latency.mean, errors.connect, errors.read, errors.write,
    errors.timeout, errors.status))
end
