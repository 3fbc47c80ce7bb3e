-- Requests for wrk: `wrk -s requests.lua URL -- KIND TOKEN FIRST_START IDS_FILE MADE_FILE`.
--
-- KIND is `get` (PATH is that of the URL), `read`, `schedule` or `reschedule`. FIRST_START is the start time of the first
-- session in Unix seconds; each one after it is a second later. IDS_FILE has one session id per line. The script writes
-- to MADE_FILE the id and the start time of each acknowledged session, and the status of each failed request.

local kind, at, ids, made
local used = 0

local function next_start()
  at = at + 1
  return os.date("!%Y-%m-%dT%H:%M:%S.000Z", at)
end

local function next_id()
  used = used + 1
  return ids[used % #ids + 1]
end

local makers = {
  get = function() return wrk.format("GET") end,
  read = function() return wrk.format("GET", "/v3/supportsession/" .. next_id()) end,
  schedule = function()
    local body = '{"type":"live","label":"Bench","startTime":"' .. next_start() .. '"}'
    return wrk.format("POST", "/v3/supportsessions", nil, body)
  end,
  reschedule = function()
    return wrk.format("PUT", "/v3/supportsession/" .. next_id(), nil, '{"startTime":"' .. next_start() .. '"}')
  end,
}

local function note(status, _, body)
  if status ~= 200 then
    made:write("! ", status, "\n")
    return
  end
  local id, start = body:match('"id":"(%w+)"'), body:match('"startTime":"([^"]+)"')
  if id and start then
    made:write(id, " ", start, "\n")
  end
end

function init(args)
  kind, at, ids = args[1], tonumber(args[3]), {}
  for line in io.lines(args[4]) do
    ids[#ids + 1] = line
  end
  made = assert(io.open(args[5], "w"))
  wrk.headers["Session-id"] = args[2]
  if kind == "schedule" or kind == "reschedule" then
    wrk.headers["Content-Type"] = "application/json"
    response = note -- only if ids are needed, because wrk takes time to pass each response to Lua
  end
  request = makers[kind]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"microseconds":%d,"p50":%d,"p99":%d,"refused":%d,"broken":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout
  ))
end
