-- wrk's side of the benchmark: POST to a random one of many paths, and the figures as one line of JSON.
-- wrk ... -s load.lua URL -- PATH KEYS     (%d in PATH is the key's number)

local requests = {}

function init(args)
  local path, keys = args[1], tonumber(args[2])
  math.randomseed(os.time())
  for key = 1, keys do
    requests[key] = wrk.format("POST", string.format(path, key), { ["content-type"] = "application/json" }, "1")
  end
end

function request()
  return requests[math.random(#requests)]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
