-- wrk asks for the addresses of the file $PATHS, one after the other, as a phone does.
local paths = {}
for line in io.lines(os.getenv("PATHS")) do
  paths[#paths + 1] = line
end
local threads = 0

function setup(thread)
  -- Threads begin at different places.
  thread:set("first", threads * math.floor(#paths / 2))
  threads = threads + 1
end

function init()
  at = first
  wrk.headers["User-Agent"] = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148"
  wrk.headers["Accept-Language"] = "en-GB"
end

function request()
  at = at % #paths + 1
  return wrk.format("GET", paths[at])
end
