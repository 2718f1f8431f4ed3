-- A browser's GET, 7 fields and about 400 octets with the Host; the outcome as one line of JSON. By environment: BENCH_HOSTS
-- asks for so many hosts in turn, BENCH_POST sends a body of so many octets, BENCH_CLOSE asks for a new connection each time.
wrk.headers["Host"] = "shop.example.com"
wrk.headers["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
wrk.headers["Accept"] = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
wrk.headers["Accept-Language"] = "en-GB,en;q=0.5"
wrk.headers["Accept-Encoding"] = "gzip, deflate, br"
wrk.headers["Referer"] = "http://shop.example.com/catalogue/list"
wrk.headers["Cookie"] = "session=4f1c2a9be07d46d0a1b2c3d4e5f60718; theme=dark"

local hosts = tonumber(os.getenv("BENCH_HOSTS") or "0")
local post = tonumber(os.getenv("BENCH_POST") or "0")

if os.getenv("BENCH_CLOSE") == "1" then
  wrk.headers["Connection"] = "close"
end

if post > 0 then
  wrk.method = "POST"
  wrk.body = string.rep("x", post)
  wrk.headers["Content-Type"] = "application/octet-stream"
end

if hosts > 0 then
  -- Made beforehand: a request costs the load's thread one look into a table. The stride visits all in an order that no cache likes.
  local requests, at = {}, 0
  init = function()
    for n = 0, hosts - 1 do
      wrk.headers["Host"] = "host-" .. n .. ".example.com"
      requests[n] = wrk.format()
    end
  end
  request = function()
    at = (at + 7919) % hosts
    return requests[at]
  end
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format('\nRESULT {"requests":%d,"bytes":%d,"micros":%d,"p50":%d,"p99":%d,"p999":%d,"errors":%d}\n',
    summary.requests, summary.bytes, summary.duration, latency:percentile(50), latency:percentile(99),
    latency:percentile(99.9), e.connect + e.read + e.write + e.status + e.timeout))
end
