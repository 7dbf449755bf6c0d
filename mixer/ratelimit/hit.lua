-- Does hits on counters; no other client's commands come in between. `algorithms.py` defines what each does.
-- KEYS: the plain counters, each once, then a counter for each further operation, then what else operations touch.
-- ARGV: the number of plain counters; for each of them its hits (0: only read) and its milliseconds to live; then the
-- operations, each with its kind and what that takes. Times are µs, and all numbers integers below 2^53.
-- Answers, for each counter in the order of KEYS: for a plain one the count after the hits; for an operation what its
-- function returns, as a list; for a counter that failed the error as text.
local SATURATED = 2 ^ 53 -- what a number here can hold exactly
local MAX_SLIDING, MAX_LEVEL = 2 ^ 32, 2 ^ 53 - 1
local SET_BACK = 10000000 -- as in counters.py

local function text(number) return string.format('%.0f', number) end

local function keep(key, value, milliseconds) redis.call('SET', key, value, 'PX', text(milliseconds)) end

-- The milliseconds of a counter's `life` that have gone by Redis' clock. Was that one set back too, they begin anew.
local function gone(key, life)
  local left = redis.call('PTTL', key)
  if left <= life then return life - left end
  redis.call('PEXPIRE', key, text(life))
  return 0
end

-- All hits, or those that fit ('fill'), or none of them; their number is the first answer.
local function fixed(key, hits, limit, kind, ttl)
  local count = tonumber(redis.call('GET', key) or 0) or error('not a counter')
  local passes = count + hits <= limit
  if hits < 0 then
    passes, hits = true, math.max(hits, -count)
  elseif not passes then
    hits = kind == 'over' and hits or kind == 'fill' and math.max(0, limit - count) or 0
  end
  if hits ~= 0 then
    count = redis.call('INCRBY', key, text(hits))
    if count == hits then redis.call('PEXPIRE', key, ttl) end
  end
  return {passes and 1 or 0, count, hits}
end

local function sliding(key, hits, now, slack, limit, over, window, slices, each)
  local state = redis.call('GET', key)
  local start, before, here = 0, 0, 0
  if state then
    start, before, here = string.match(state, '^(%d+) (%d+) (%d+)$')
    start, before, here = tonumber(start) or error('not a counter'), tonumber(before), tonumber(here)
  end
  if now < start - SET_BACK then now = start + 1000 * gone(key, math.ceil(2 * window / 1000) + slack) end
  now = math.max(now, start)
  local current = now - math.fmod(now, window)
  if current ~= start then
    before, here = current == start + window and here or 0, 0
  end
  local passes = true
  if hits < 0 then
    local back = math.min(here, -hits)
    before, here = math.max(0, before + hits + back), here - back
  else
    local left = math.ceil((current + window - now) / each)
    passes = math.ceil(before * left / slices) + here + hits <= limit
    if passes or over then here = math.min(MAX_SLIDING, here + hits) end
  end
  if hits < 0 or (hits > 0 and (passes or over)) then
    if before + here == 0 then
      redis.call('DEL', key)
    else
      local ttl = math.ceil((current + 2 * window - now) / 1000) + slack
      keep(key, text(current) .. ' ' .. text(before) .. ' ' .. text(here), ttl)
    end
  end
  return {passes and 1 or 0, current, before, here, now}
end

local function bucket(key, hits, now, slack, size, over, cost, rate)
  local state = redis.call('GET', key)
  local level, stamp, before = 0, 0, cost
  if state then
    level, stamp, before = string.match(state, '^(%d+) (%d+) (%d+)$')
    level, stamp, before = tonumber(level) or error('not a counter'), tonumber(stamp), tonumber(before)
  end
  if before ~= cost then level = math.min(MAX_LEVEL, math.ceil(level / before * cost)) end
  if now < stamp - SET_BACK then now = stamp + 1000 * gone(key, math.ceil(level / rate / 1000) + slack) end
  now = math.max(now, stamp)
  level = math.max(0, level - (now - stamp) * rate)
  local filled = level + hits * cost
  local passes = hits < 0 or filled <= size * cost
  if passes or over then level = math.max(0, math.min(MAX_LEVEL, filled)) end
  if hits < 0 or (hits > 0 and (passes or over)) then
    if level == 0 then
      redis.call('DEL', key)
    else
      keep(key, text(level) .. ' ' .. text(now) .. ' ' .. text(cost), math.ceil(level / rate / 1000) + slack)
    end
  end
  return {passes and 1 or 0, level, now}
end

-- `index`: the set of counters in which the holder has slots.
local function slot(key, hits, now, slack, limit, lease, holder, index)
  local passes = true
  if hits > 0 then
    for _, ahead in ipairs(redis.call('ZRANGEBYSCORE', key, '(' .. text(now + lease + SET_BACK), '+inf')) do
      redis.call('ZADD', key, text(now + lease), ahead)
    end
  end
  local alive = redis.call('ZCOUNT', key, '(' .. text(now), '+inf')
  if hits < 0 then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', text(now))
    redis.call('ZREM', key, holder)
    redis.call('SREM', index, key)
  elseif hits == 0 then
    passes = alive <= limit
  else
    local ends = tonumber(redis.call('ZSCORE', key, holder) or 0)
    passes = ends > now or alive < limit
    if passes then
      local ttl = math.ceil(lease / 1000) + slack
      redis.call('ZREMRANGEBYSCORE', key, '-inf', text(now))
      redis.call('ZADD', key, text(now + lease), holder)
      redis.call('PEXPIRE', key, text(math.max(ttl, redis.call('PTTL', key))))
      redis.call('SADD', index, key)
      redis.call('PEXPIRE', index, text(math.max(ttl, redis.call('PTTL', index))))
    end
  end
  alive = redis.call('ZCOUNT', key, '(' .. text(now), '+inf')
  if alive == 0 then return {passes and 1 or 0, 0, 0, 0} end
  local first = redis.call('ZRANGEBYSCORE', key, '(' .. text(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  local last = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
  return {passes and 1 or 0, alive, tonumber(first[2]), tonumber(last[2])}
end

local at, operations = 0, {}
local function word()
  at = at + 1
  return ARGV[at]
end
local function number() return tonumber(word()) end

function operations.fixed(key) return fixed(key, number(), number(), word(), word()) end
function operations.sliding(key)
  return sliding(key, number(), number(), number(), number(), word() == '1', number(), number(), number())
end
function operations.bucket(key)
  return bucket(key, number(), number(), number(), number(), word() == '1', number(), number())
end
function operations.slot(key)
  return slot(key, number(), number(), number(), number(), number(), word(), word())
end

local answers = {}
local plain = number()
for i = 1, plain do
  local key, hits, ttl = KEYS[i], word(), word()
  local count
  if hits == '0' then
    count = redis.pcall('GET', key)
    count = type(count) == 'table' and count or tonumber(count or 0) or {err = 'not a counter'}
  else
    count = redis.pcall('INCRBY', key, hits)
    if count == tonumber(hits) then
      redis.call('PEXPIRE', key, ttl)
    end
  end
  if type(count) == 'table' then
    count = string.find(count.err, 'overflow', 1, true) and SATURATED or count.err
  end
  answers[i] = count
end
for i = plain + 1, #KEYS do
  if at == #ARGV then break end -- the other keys
  local done, answer = pcall(operations[word()], KEYS[i])
  answers[i] = done and answer or type(answer) == 'table' and answer.err or answer
end
return answers
