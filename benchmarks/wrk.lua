-- POST files in turn, again and again; the report is one line of JSON, the last that is printed.
-- Usage: wrk ... -s wrk.lua URL -- CONTENT_TYPE FILE...

function init(args)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = args[1]
  local requests = {}
  for i = 2, #args do
    local file = assert(io.open(args[i], "rb"))
    wrk.body = file:read("*a")
    file:close()
    requests[i - 1] = wrk.format()
  end
  -- A single request is sent without a call into this script.
  if #requests > 1 then
    local turn = 0
    function request()
      turn = turn % #requests + 1
      return requests[turn]
    end
  end
end

function done(summary, latency, requests)
  local e = summary.errors
  print(string.format(
    '{"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "errors": ' ..
    '{"failed connections": %d, "read errors": %d, "write errors": %d, ' ..
    '"answers that are not 2xx": %d, "timeouts": %d}}',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect, e.read, e.write, e.status, e.timeout))
end
