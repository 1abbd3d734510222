-- POST one file again and again; the report is one line of JSON, the last that is printed.
-- Usage: wrk ... -s wrk.lua URL -- FILE CONTENT_TYPE

function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method = "POST"
  wrk.body = file:read("*a")
  wrk.headers["Content-Type"] = args[2]
  file:close()
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
