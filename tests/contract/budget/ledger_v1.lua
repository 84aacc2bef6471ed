#!lua name=tidegate_ledger_v1
-- One call per verb of gateway/budget/ledger.py; memory_ledger.py says what each must do.
--
-- KEYS[1..5] = tg:{org}:meta, :limits, :live, :outbox, :windows; KEYS[6] = tg:{org}:hold:<id> where a
-- verb names one hold. Window keys depend on the store's time, and expiry's holds on what is due, so
-- both are made here from the prefix of KEYS[1]: the same hash tag, hence the same cluster slot.
-- ARGV[1] = the epoch the caller knows, ARGV[2] = '' or, in tests only, the store's time in ms.
--
-- Numbers are doubles: exact to 2^53, always printed by int(), never by tostring (1e+15).
-- What has a meaning is judged by explicit fields. A key's TTL is only a broom: a store whose clock
-- leaps would drop such keys at once, and nothing but old tombstones may go that way.

local JUMP_MS = 60000
local TOMBSTONE_MS = 24 * 3600 * 1000
local WINDOW_KEPT_MS = 2 * TOMBSTONE_MS
local DAY_MS = 86400000
local SWEEP_WINDOWS = 1000

local function int(number)
  return string.format('%.0f', number + 0) -- + 0: minus zero would print as -0
end

local function prefix_of(keys)
  return string.sub(keys[1], 1, -5)
end

local function org_of(keys)
  return string.match(keys[1], '^tg:{([^}]+)}:')
end

local function store_time(args)
  if args[2] ~= '' then return tonumber(args[2]) end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function org_time(confirmed, store)
  return math.max(confirmed, math.min(store, confirmed + JUMP_MS))
end

-- The org's time, or an error reply when the caller knows another epoch than these books.
local function open_books(keys, args)
  local meta = redis.call('HMGET', keys[1], 'epoch', 'clock_ms')
  if not meta[1] then return nil, redis.error_reply('TGEPOCH none') end
  if meta[1] ~= args[1] then return nil, redis.error_reply('TGEPOCH other') end
  return org_time(tonumber(meta[2]), store_time(args))
end

-- Howard Hinnant's civil_from_days and days_from_civil, for months only.
local function month_of(days)
  local shifted = days + 719468
  local era = math.floor(shifted / 146097)
  local doe = shifted - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local shifted_month = math.floor((5 * doy + 2) / 153)
  local month = shifted_month < 10 and shifted_month + 3 or shifted_month - 9
  return yoe + era * 400 + (month <= 2 and 1 or 0), month
end

local function first_day(year, month)
  if month <= 2 then year = year - 1 end
  local era = math.floor(year / 400)
  local yoe = year - era * 400
  local doy = math.floor((153 * ((month + 9) % 12) + 2) / 5)
  return era * 146097 + yoe * 365 + math.floor(yoe / 4) - math.floor(yoe / 100) + doy - 719468
end

local function window_bounds(kind, now)
  if kind == 'minute' then
    local start = now - now % 60000
    return start, start + 60000
  end
  local year, month = month_of(math.floor(now / DAY_MS))
  local start = first_day(year, month)
  if month == 12 then year, month = year + 1, 1 else month = month + 1 end
  return start * DAY_MS, first_day(year, month) * DAY_MS
end

local function window_key(keys, window)
  return prefix_of(keys) .. 'w:' .. string.gsub(window, '|', '|tokens|', 1)
end

-- ARGV triples (account, kind, limit) from `first`, as window tables. With a version the ledger's
-- limits are brought up to date; without one they are only read. Second result: policy conflict.
local function read_windows(keys, args, first, count, now, version)
  local names, windows, newer, conflict = {}, {}, {}, false
  for i = 1, count do
    names[i] = args[first + 3 * i - 3] .. '|' .. args[first + 3 * i - 2]
  end
  local stored = redis.call('HMGET', keys[2], unpack(names))
  for i = 1, count do
    local kind, limit = args[first + 3 * i - 2], tonumber(args[first + 3 * i - 1])
    local known_version, known_limit = nil, nil
    if stored[i] then
      known_version, known_limit = string.match(stored[i], '^(%d+)|(-?%d+)$')
      known_version, known_limit = tonumber(known_version), tonumber(known_limit)
    end
    if version and (not known_version or version > known_version) then
      newer[#newer + 1] = names[i]
      newer[#newer + 1] = int(version) .. '|' .. int(limit)
    elseif known_version then
      conflict = conflict or (version == known_version and limit ~= known_limit)
      limit = known_limit
    end
    local start, resets = window_bounds(kind, now)
    local id = names[i] .. '|' .. int(start)
    local key = window_key(keys, id)
    local counter = redis.call('HMGET', key, 'used', 'held')
    windows[i] = {
      name = names[i], id = id, key = key, limit = limit, resets = resets, fresh = not counter[1],
      used = tonumber(counter[1] or 0), held = tonumber(counter[2] or 0),
    }
  end
  if #newer > 0 then redis.call('HSET', keys[2], unpack(newer)) end
  return windows, conflict
end

local function remaining(window)
  return math.max(0, window.limit - window.used - window.held)
end

local function standing(window)
  return window.name .. '|' .. int(window.limit) .. '|' .. int(window.used) .. '|' .. int(window.held)
    .. '|' .. int(window.resets)
end

-- Fewest tokens left; of equals the one that resets last; the first where nothing is limited.
local function tightest(windows)
  local best = nil
  for _, window in ipairs(windows) do
    if window.limit >= 0 and (not best or remaining(window) < remaining(best)
        or (remaining(window) == remaining(best) and window.resets > best.resets)) then
      best = window
    end
  end
  return best or windows[1]
end

-- Of the windows that cannot pay, the one that resets last; of equals the one with fewest left.
local function refusing(windows, needed)
  local worst = nil
  for _, window in ipairs(windows) do
    if window.limit >= 0 and remaining(window) < needed and (not worst or window.resets > worst.resets
        or (window.resets == worst.resets and remaining(window) < remaining(worst))) then
      worst = window
    end
  end
  return worst
end

local function append(keys, kind, now, hold, verdict, reason, accounts, amounts, more)
  local fields = {
    'type', kind, 'at_ms', int(now), 'org', org_of(keys), 'request_id', hold.request_id or '',
    'hold', hold.id or '', 'policy_version', hold.version or '', 'verdict', verdict, 'reason', reason,
    'accounts', accounts,
  }
  for name, amount in pairs(amounts) do
    fields[#fields + 1] = 'a.' .. name
    fields[#fields + 1] = int(amount)
  end
  for name, value in pairs(more) do
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
  redis.call('XADD', keys[4], '*', unpack(fields))
end

-- Pairs (name, value) of ARGV from `first`, names prefixed.
local function prefixed(prefix, args, first)
  local found = {}
  for i = first, #args - 1, 2 do found[prefix .. args[i]] = args[i + 1] end
  return found
end

local function context_of(hold)
  local found = {}
  for name, value in pairs(hold) do
    if string.sub(name, 1, 2) == 'c.' then found[name] = value end
  end
  return found
end

-- The hold's record as a table; nil when there is none or its tombstone has aged out.
local function remembered(key, id, now)
  local flat = redis.call('HGETALL', key)
  if #flat == 0 then return nil end
  local hold = { id = id }
  for i = 1, #flat, 2 do hold[flat[i]] = flat[i + 1] end
  if hold.state ~= 'live' and tonumber(hold.forget_at) <= now then
    redis.call('DEL', key)
    return nil
  end
  hold.amount, hold.posted = tonumber(hold.amount), tonumber(hold.posted)
  hold.request_id = hold['c.request_id']
  return hold
end

-- Move the counters of the reserve's windows from what the hold weighed to what it costs now.
local function resolve(keys, key, hold, state, posted, now, blind)
  for window in string.gmatch(hold.windows, '%S+') do
    local counter = window_key(keys, window)
    if hold.state == 'live' then redis.call('HINCRBY', counter, 'held', int(-hold.amount)) end
    redis.call('HINCRBY', counter, 'used', int(posted - hold.posted))
    if blind then
      -- A correction may still come: the window must outlive the hold's tombstone.
      redis.call('ZADD', keys[5], 'GT', int(now + WINDOW_KEPT_MS), window)
    end
  end
  if not blind then redis.call('DEL', key) end -- nothing can change it any more: keep the outcome only
  redis.call('HSET', key, 'state', state, 'amount', int(hold.amount), 'posted', int(posted),
    'blind', blind and '1' or '0', 'forget_at', int(now + TOMBSTONE_MS))
  redis.call('PEXPIRE', key, int(2 * TOMBSTONE_MS))
  redis.call('ZREM', keys[3], hold.id)
  hold.state, hold.posted = state, posted
end

local function outcome(hold, first)
  local overdraft = math.max(0, hold.posted - hold.amount)
  return { hold.state, first and '1' or '0', int(hold.posted), int(overdraft) }
end

local UNKNOWN = { 'unknown', '0', '0', '0' }

-- ARGV: epoch, time. Sets the epoch and the clock of an org that has neither; returns its epoch.
local function open(keys, args)
  redis.call('HSETNX', keys[1], 'clock_ms', int(store_time(args)))
  redis.call('HSETNX', keys[1], 'epoch', args[1])
  return redis.call('HGET', keys[1], 'epoch')
end

-- ARGV: epoch, time, hold, fixed, choices, wanted, needed, ttl, version, n, n x (account, kind, limit),
-- context pairs. Returns granted, amount, units, expires, repeated, conflict, standing
-- or refused, needed, retry after, standing.
local function reserve(keys, args)
  local now, closed = open_books(keys, args)
  if closed then return closed end
  local known = remembered(keys[6], args[3], now)
  if known then
    if known.state ~= 'live' then return redis.error_reply('TGRESOLVED ' .. known.state) end
    return { 'granted', int(known.amount), known.units, known.expires, '1', known.conflict, known.tightest }
  end
  local fixed, choices, units = tonumber(args[4]), tonumber(args[5]), tonumber(args[6])
  local needed, count = tonumber(args[7]), tonumber(args[10])
  local windows, conflict = read_windows(keys, args, 11, count, now, tonumber(args[9]))
  local context = prefixed('c.', args, 11 + 3 * count)
  local hold = { id = args[3], version = args[9], request_id = context['c.request_id'] }
  local worst = refusing(windows, needed)
  if worst then
    append(keys, 'hold.refused', now, hold, 'refused', worst.name, worst.id,
      { needed = needed, remaining = remaining(worst) }, context)
    return { 'refused', int(needed), int(worst.resets - now), standing(worst) }
  end
  for _, window in ipairs(windows) do
    if window.limit >= 0 then
      local payable = math.max(0, remaining(window) - fixed)
      units = math.min(units, (payable - math.fmod(payable, choices)) / choices)
    end
  end
  local amount, ids = fixed + units * choices, {}
  for i, window in ipairs(windows) do
    if window.fresh then
      redis.call('HSET', window.key, 'used', '0', 'held', '0')
      redis.call('ZADD', keys[5], int(window.resets + WINDOW_KEPT_MS), window.id)
    end
    redis.call('HINCRBY', window.key, 'held', int(amount))
    window.held = window.held + amount
    ids[i] = window.id
  end
  local tight, expires = tightest(windows), int(now + tonumber(args[8]))
  local record = {
    'state', 'live', 'amount', int(amount), 'posted', '0', 'units', int(units), 'expires', expires,
    'version', args[9], 'windows', table.concat(ids, ' '), 'conflict', conflict and '1' or '0',
    'tightest', standing(tight),
  }
  for name, value in pairs(context) do
    record[#record + 1] = name
    record[#record + 1] = value
  end
  redis.call('HSET', keys[6], unpack(record))
  redis.call('ZADD', keys[3], expires, args[3])
  local amounts = { held = amount }
  if tight.limit >= 0 then amounts.remaining = remaining(tight) end
  append(keys, 'hold.granted', now, hold, 'granted', '', table.concat(ids, ' '), amounts, context)
  return { 'granted', int(amount), int(units), expires, '0', conflict and '1' or '0', standing(tight) }
end

-- ARGV: epoch, time, hold, used, unknown (1 or 0), detail pairs.
-- Returns outcome, first, posted, overdraft, as void does.
local function settle(keys, args)
  local now, closed = open_books(keys, args)
  if closed then return closed end
  local hold = remembered(keys[6], args[3], now)
  if not hold then return UNKNOWN end
  local live, unknown = hold.state == 'live', args[5] == '1'
  if not live and (unknown or hold.blind ~= '1') then return outcome(hold, false) end
  local posted = unknown and hold.amount or tonumber(args[4])
  resolve(keys, keys[6], hold, live and 'posted' or 'corrected', posted, now, unknown)
  local more = context_of(hold)
  for name, value in pairs(prefixed('d.', args, 6)) do more[name] = value end
  append(keys, live and 'hold.settled' or 'hold.corrected', now, hold, hold.state, unknown and 'unknown' or '',
    hold.windows, { held = hold.amount, used = posted, released = math.max(0, hold.amount - posted) }, more)
  return outcome(hold, true)
end

-- ARGV: epoch, time, hold, reason.
local function void(keys, args)
  local now, closed = open_books(keys, args)
  if closed then return closed end
  local hold = remembered(keys[6], args[3], now)
  if not hold then return UNKNOWN end
  if hold.state ~= 'live' then return outcome(hold, false) end
  resolve(keys, keys[6], hold, 'voided', 0, now, false)
  append(keys, 'hold.voided', now, hold, 'voided', args[4], hold.windows,
    { held = hold.amount, released = hold.amount }, context_of(hold))
  return outcome(hold, true)
end

-- ARGV: epoch, time, most holds. Returns the ids that were posted in full.
local function expire(keys, args)
  local now, closed = open_books(keys, args)
  if closed then return closed end
  local overdue = redis.call('ZRANGEBYSCORE', keys[3], '-inf', int(now), 'LIMIT', '0', args[3])
  for _, id in ipairs(overdue) do
    local key = prefix_of(keys) .. 'hold:' .. id
    local hold = remembered(key, id, now)
    resolve(keys, key, hold, 'expired', hold.amount, now, true)
    append(keys, 'hold.expired', now, hold, 'expired', '', hold.windows,
      { held = hold.amount, used = hold.amount }, context_of(hold))
  end
  for _, window in ipairs(redis.call('ZRANGEBYSCORE', keys[5], '-inf', int(now), 'LIMIT', '0', SWEEP_WINDOWS)) do
    local key = window_key(keys, window)
    if tonumber(redis.call('HGET', key, 'held') or 0) == 0 then
      redis.call('DEL', key)
      redis.call('ZREM', keys[5], window)
    end
  end
  return overdue
end

-- ARGV: epoch, time, kind, context pairs.
local function note(keys, args)
  local now, closed = open_books(keys, args)
  if closed then return closed end
  local context = prefixed('c.', args, 4)
  append(keys, args[3], now, { request_id = context['c.request_id'] }, 'noted', '', '', {}, context)
  return 'OK'
end

-- ARGV: epoch, time, n, n x (account, kind, limit). Returns n standings.
local function show_standing(keys, args)
  local now, closed = open_books(keys, args)
  if closed then return closed end
  local lines = {}
  for i, window in ipairs((read_windows(keys, args, 4, tonumber(args[3]), now, nil))) do
    lines[i] = standing(window)
  end
  return lines
end

-- ARGV: epoch, time, the caller's own time. Returns the org's time.
local function tick(keys, args)
  local _, closed = open_books(keys, args)
  if closed then return closed end
  local store = store_time(args)
  local confirmed = tonumber(redis.call('HGET', keys[1], 'clock_ms'))
  confirmed = math.max(confirmed, math.min(store, tonumber(args[3]) + JUMP_MS))
  redis.call('HSET', keys[1], 'clock_ms', int(confirmed))
  return int(org_time(confirmed, store))
end

-- allow-oom: what releases or posts tokens must work in a store that is full.
redis.register_function { function_name = 'tg1_open', callback = open }
redis.register_function { function_name = 'tg1_reserve', callback = reserve }
redis.register_function { function_name = 'tg1_settle', callback = settle, flags = { 'allow-oom' } }
redis.register_function { function_name = 'tg1_void', callback = void, flags = { 'allow-oom' } }
redis.register_function { function_name = 'tg1_expire', callback = expire, flags = { 'allow-oom' } }
redis.register_function { function_name = 'tg1_note', callback = note }
redis.register_function { function_name = 'tg1_standing', callback = show_standing, flags = { 'no-writes' } }
redis.register_function { function_name = 'tg1_tick', callback = tick, flags = { 'allow-oom' } }
