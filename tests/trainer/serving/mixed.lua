-- wrk sends the requests of a file in turn, beginning elsewhere in each thread, and counts the answers by status.
-- The file holds a line for each: content type, a tab, body.

local requests, threads = {}, {}
counts, at = {}, 0

function setup(thread)
   table.insert(threads, thread)
   thread:set("first", #threads * 7919)
end

function init(args)
   for line in io.lines(args[1]) do
      local form, body = line:match("^([^\t]*)\t(.*)$")
      table.insert(requests, wrk.format("POST", nil, {["content-type"] = form}, body))
   end
   at = first
end

function request()
   at = at % #requests + 1
   return requests[at]
end

function response(status)
   counts[status] = (counts[status] or 0) + 1
end

function done(summary, latency)
   local all, lines = {}, {}
   for _, thread in ipairs(threads) do
      for status, count in pairs(thread:get("counts")) do all[status] = (all[status] or 0) + count end
   end
   for status, count in pairs(all) do table.insert(lines, string.format('"%d": %d', status, count)) end
   local e = summary.errors
   print(string.format('{"requests": %d, "seconds": %.3f, "p50_ms": %.3f, "p99_ms": %.3f, "dropped": %d, "status": {%s}}',
      summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      e.connect + e.read + e.write + e.timeout, table.concat(lines, ", ")))
end
