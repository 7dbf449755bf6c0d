-- Adds hits to counters; no other client's commands come in between.
-- KEYS: the counters, each once. ARGV: for each of them its hits (0: only read), then its milliseconds to live.
-- Answers, in the same order, the count after the hits, or the error of that counter as text.
local SATURATED = 2 ^ 53 -- what a number here can hold exactly
local answers = {}
for i = 1, #KEYS do
  local key, hits = KEYS[i], ARGV[2 * i - 1]
  local count
  if hits == '0' then
    count = redis.pcall('GET', key)
    count = type(count) == 'table' and count or tonumber(count or 0) or {err = 'not a counter'}
  else
    count = redis.pcall('INCRBY', key, hits)
    if count == tonumber(hits) then
      redis.call('PEXPIRE', key, ARGV[2 * i])
    end
  end
  if type(count) == 'table' then
    count = string.find(count.err, 'overflow', 1, true) and SATURATED or count.err
  end
  answers[i] = count
end
return answers
