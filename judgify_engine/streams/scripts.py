"""What must not be interrupted on the server: Lua scripts, each of which touches one key.

Ids are "milliseconds-sequence" of two unsigned 64-bit numbers, which Lua's numbers cannot hold: they are compared as decimal
text, the shorter one being the smaller. A script that fails with OOM, READONLY or MISCONF fails at its first write, so it has
written nothing.
"""

import hashlib


class Script:
    """A text and its digest."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


_LESS = """
local function less(a, b)
  local a1, a2 = string.match(a, '^(%d+)-(%d+)$')
  local b1, b2 = string.match(b, '^(%d+)-(%d+)$')
  if a1 == b1 then a1, b1 = a2, b2 end
  if #a1 ~= #b1 then return #a1 < #b1 end
  return a1 < b1
end
local function pairs_of(list)
  local found = {}
  for i = 1, #list, 2 do found[list[i]] = list[i + 1] end
  return found
end
"""

APPEND = Script(
    _LESS
    + """
-- ARGV: the id that the stream ended at for certain; how many values each entry has (32 bits each); how long each value is
-- (the same); and all values, the id first: id, field, value, field, value, ...
-- Returns how many were added, or the id that the stream ends at when that is before the given one.
local last = '0-0'
if redis.call('EXISTS', KEYS[1]) == 1 then
  last = pairs_of(redis.call('XINFO', 'STREAM', KEYS[1]))['last-generated-id']
end
if less(last, ARGV[1]) then return last end
local added, sizes, from = 0, 1, 1
for at = 1, #ARGV[2], 4 do
  local entry = {}
  for value = 1, struct.unpack('>I4', ARGV[2], at) do
    local size = struct.unpack('>I4', ARGV[3], sizes)
    entry[value] = string.sub(ARGV[4], from, from + size - 1)
    sizes, from = sizes + 4, from + size
  end
  if added > 0 or less(last, entry[1]) then
    redis.call('XADD', KEYS[1], unpack(entry))
    added = added + 1
  end
end
return added
"""
)

GROUPS = Script(
    _LESS
    + """
-- Returns the length, the ids of the first and the last entry that came (each nil when there is none), and of each group:
-- name, last delivered id, pending, lag (nil when unknown), oldest pending id and its idle time in ms.
if redis.call('EXISTS', KEYS[1]) == 0 then return {0, false, false, {}} end
local stream = pairs_of(redis.call('XINFO', 'STREAM', KEYS[1]))
local first = stream['first-entry'] and stream['first-entry'][1]
local groups = {}
for _, reply in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = pairs_of(reply)
  local oldest = redis.call('XPENDING', KEYS[1], group['name'], '-', '+', 1)[1]
  groups[#groups + 1] = {
    group['name'], group['last-delivered-id'], group['pending'], group['lag'] or false,
    oldest and oldest[1] or false, oldest and oldest[3] or 0
  }
end
return {stream['length'], first or false, stream['last-generated-id'], groups}
"""
)

MOVE_GROUP = Script(
    _LESS
    + """
-- ARGV: group, position, how many pending entries at most. Returns how many there were.
local delivered
if redis.call('EXISTS', KEYS[1]) == 1 then
  for _, reply in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local group = pairs_of(reply)
    if group['name'] == ARGV[1] then delivered = group['last-delivered-id'] end
  end
end
if not delivered then return redis.error_reply('NOGROUP No such group') end
if less(delivered, ARGV[2]) then redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[2]) end
local ids = {}
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', ARGV[2], ARGV[3])) do ids[#ids + 1] = pending[1] end
if #ids > 0 then redis.call('XACK', KEYS[1], ARGV[1], unpack(ids)) end
return #ids
"""
)

CLAIM = Script(
    """
-- ARGV: group, consumer, idle time in ms, count. What was trimmed while it was pending is pending no more (before Redis 7,
-- XAUTOCLAIM does not say which entries these are).
local claimed = {}
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], '-', '+', ARGV[4])) do
  local entry = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, pending[1])[1]
  if entry then claimed[#claimed + 1] = entry else redis.call('XACK', KEYS[1], ARGV[1], pending[1]) end
end
return claimed
"""
)

TRIM = Script(
    _LESS
    + """
-- ARGV: how many stay at least, how many leave at most, how many stay at most whatever groups have still to see (0: all).
-- Returns how many left: whole nodes of the stream only.
local length = redis.call('XLEN', KEYS[1])
local most = math.min(length - tonumber(ARGV[1]), tonumber(ARGV[2]))
if most <= 0 then return 0 end
if ARGV[3] ~= '0' and length > tonumber(ARGV[3]) then
  local left = redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[3], 'LIMIT', most)
  if left > 0 then return left end
end
local floor
for _, reply in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = pairs_of(reply)
  local oldest = redis.call('XPENDING', KEYS[1], group['name'], '-', '+', 1)[1]
  local own = oldest and oldest[1] or group['last-delivered-id']
  if not floor or less(own, floor) then floor = own end
end
if floor then return redis.call('XTRIM', KEYS[1], 'MINID', '~', floor, 'LIMIT', most) end
return redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[1], 'LIMIT', most)
"""
)
