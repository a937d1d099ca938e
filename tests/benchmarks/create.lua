-- wrk's side of the benchmark of the store: COUNT requests, and the figures as one line of JSON.
-- wrk ... -s create.lua URL -- PATH COUNT KEYS BODY
-- %d in PATH is the key's number: one after the other, or with KEYS > 0 a random one of so many.

local path, count, keys, body
local sent = -1  -- wrk calls request() once before it begins, and throws that one away

function init(args)
  path, count, keys, body = args[1], tonumber(args[2]), tonumber(args[3]), args[4]
  math.randomseed(os.time())
end

function request()
  sent = sent + 1
  local key = keys > 0 and math.random(keys) or sent
  return wrk.format("POST", string.format(path, key), { ["content-type"] = "application/json" }, body)
end

local answered = 0

function response()
  answered = answered + 1
  if answered == count then  -- the thread stops at once; wrk itself sleeps on until it is interrupted
    wrk.thread:stop()
    io.stderr:write("all answered\n")
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
