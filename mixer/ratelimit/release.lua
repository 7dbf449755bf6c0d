-- Gives back all slots of holders. KEYS: for each holder the set of the counters in which it has slots.
-- ARGV: the time in µs, then the holders. Answers the number of slots whose lease had not ended.
local released = 0
for i = 1, #KEYS do
  local holder = ARGV[i + 1]
  for _, key in ipairs(redis.call('SMEMBERS', KEYS[i])) do
    local ends = tonumber(redis.call('ZSCORE', key, holder) or 0)
    redis.call('ZREM', key, holder)
    if ends > tonumber(ARGV[1]) then released = released + 1 end
  end
  redis.call('DEL', KEYS[i])
end
return released
