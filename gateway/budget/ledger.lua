#!lua name=tidegate_ledger_v2
-- One call per verb of gateway/budget/ledger.py; memory_ledger.py says what each must do. The library is this
-- file, then ledger_{records,holds,leases,verbs}.lua (redis_library.py puts them together).
--
-- KEYS[1] = tg:{org}:meta, KEYS[2] = tg:{org}:hold:<id> or :lease:<id> where a verb names one. All other keys
-- are made here from the prefix of KEYS[1], because they depend on the store's time, on what is due and on
-- what leases hold: the same hash tag, hence the same cluster slot.
--
--   meta     epoch, clock_ms                  limits   <account> -> version:windows, !<account> -> overrides
--   live     zset of live holds, expires      leases   zset of leases that are not over, expires
--   windows  zset of window ids, dropped at   recalls  <window name> -> when its leases were recalled
--   adjusted zset of ids, forgotten at        zones    <zone> -> offsets
--   outbox   stream of events                 hold:<id>, lease:<id>
--   w:<account>|<measure>|<span>|<start>      used, held, leased, credit
--   w:<account>|<measure>|rolling-<seconds>   <start of bucket> -> 'used held leased credit'
--
-- ARGV[1] = the epoch the caller knows, ARGV[2] = '' or, in tests only, the store's time in ms.
--
-- Version 1 of this library (tidegate_ledger_v1, functions tg1_*) may run beside it during a rollout: the keys
-- and the fields of meta, live, windows, outbox, of holds and of the windows tokens/minute and tokens/month
-- are those it reads and writes. Limits are not shared: its fields are <account>|<kind>.
--
-- Numbers are doubles: exact to 2^53, always printed by int(), never by tostring (1e+15), divided by div().
-- What has a meaning is judged by explicit fields. A key's TTL is only a broom: a store whose clock
-- leaps would drop such keys at once, and nothing but old tombstones may go that way.

local JUMP_MS = 60000
local TOMBSTONE_MS = 24 * 3600 * 1000
local WINDOW_KEPT_MS = 2 * TOMBSTONE_MS
local LEASE_GRACE_MS = 60000
local RECALL_MS = 2000
local DAY_MS = 86400000
local LENGTH_MS = { minute = 60000, hour = 3600000 }
local ROLLING_BUCKETS = 60
local SWEEP_WINDOWS = 1000
local OVERRIDES_MAX = 16
local TOKENS_MAX = 9007199254740991
local PICO_PER_MICRO = 1000000
local MICRO_CAP = 9007199254 -- TOKENS_MAX / PICO_PER_MICRO
local CACHE_MAX = 4096
local LETTER_C, DOT = 99, 46 -- bytes of 'c.'
local UNSEEN, PROVISIONAL, EXACT = 1, 2, 3 -- what certainty.py calls them
local REASONS = { 'unknown', 'provisional', '' }
local MEASURES = { 'tokens', 'prompt_tokens', 'completion_tokens', 'micro_usd', 'requests', 'concurrent' }

local function int(number)
  return string.format('%.0f', number + 0) -- + 0: minus zero would print as -0
end

-- The whole part of dividend / divisor, for a dividend of 0 or more.
local function div(dividend, divisor)
  return (dividend - math.fmod(dividend, divisor)) / divisor
end

-- Of a hold's record (field blind) or an argument: version 1 writes 0 for what is exact.
local function certainty_of(text)
  return text == '1' and UNSEEN or text == '2' and PROVISIONAL or EXACT
end

local function modulo(number, divisor)
  local rest = math.fmod(number, divisor)
  return rest < 0 and rest + divisor or rest
end

-- `read` of a text, remembered: it depends on nothing else.
local function remembering(read)
  local known, count = {}, 0
  return function(text)
    local found = known[text]
    if found == nil then
      if count >= CACHE_MAX then known, count = {}, 0 end
      found = read(text)
      known[text], count = found, count + 1
    end
    return found
  end
end

-- '<measure>,<span>,<limit>,<enforcement>,<burst>' (outbox.window_text).
local window_of = remembering(function(text)
  local measure, span, limit, enforcement, burst =
    string.match(text, '^([^,]+),([^,]+),([^,]+),([^,]+),([^,]+)$')
  local kind, zone = string.match(span, '^([^@]+)@(.+)$')
  local seconds = tonumber(string.match(span, '^rolling%-(%d+)$') or 0)
  return {
    text = text, measure = measure, span = span, limit = tonumber(limit), enforcement = enforcement,
    burst = tonumber(burst), kind = seconds > 0 and 'rolling' or kind or span, zone = zone, seconds = seconds,
    binds = enforcement == 'hard' and tonumber(limit) >= 0,
    same = measure .. '|' .. span, name = measure == 'tokens' and span or measure .. '|' .. span,
    width = math.ceil(seconds / ROLLING_BUCKETS) * 1000,
  }
end)

-- Windows separated by semicolons.
local windows_of = remembering(function(text)
  local windows = {}
  for one in string.gmatch(text, '[^;]+') do windows[#windows + 1] = window_of(one) end
  return windows
end)

-- What limits has of an account: '<version>:<windows>'; of an operator: '<1 for frozen>:<windows>'.
local stored_of = remembering(function(text)
  local number, windows = string.match(text, '^(%d+):(.*)$')
  return { number = tonumber(number), text = windows, windows = windows_of(windows) }
end)

-- Where a window id is kept: the key without its prefix, the measure, the bucket of a rolling window.
local place_of = remembering(function(id)
  local account, second, third, fourth = string.match(id, '^([^|]+)|([^|]+)|([^|]+)|?([^|]*)$')
  if not account then return false end
  local measure, span, start = second, third, fourth
  if fourth == '' then measure, span, start = 'tokens', second, third end
  local key = 'w:' .. account .. '|' .. measure .. '|' .. span
  if string.sub(span, 1, 8) == 'rolling-' then return { key = key, measure = measure, bucket = start } end
  return { key = key .. '|' .. start, measure = measure }
end)

-- The same for an org's prefix followed by ids with spaces between them, with whole keys: requests of one key
-- have the same windows while these last.
local places_of = remembering(function(text)
  local prefix, ids = string.match(text, '^(tg:{[^}]+}:)(.*)$')
  local places = {}
  for id in string.gmatch(ids, '%S+') do
    local at = place_of(id)
    places[#places + 1] = { key = prefix .. at.key, measure = at.measure, bucket = at.bucket }
  end
  return places
end)

-- A zone's offsets as in calendar.py: 'from offset;from offset;...' in ms, ascending.
local zone_of = remembering(function(text)
  local zone = { from = {}, by = {}, bounds = {} }
  for from, by in string.gmatch(text, '(-?%d+) (-?%d+)') do
    zone.from[#zone.from + 1], zone.by[#zone.by + 1] = tonumber(from), tonumber(by)
  end
  return zone
end)

local UTC = { from = { 0 }, by = { 0 }, bounds = {} }

local function offset_at(zone, now)
  local low, high = 1, #zone.from
  while low < high do
    local middle = div(low + high + 1, 2)
    if zone.from[middle] <= now then low = middle else high = middle - 1 end
  end
  return zone.by[low]
end

-- The first instant at which clocks of the zone show `shown` or later.
local function instant_of(zone, shown)
  local last = #zone.from
  for i = 1, last do
    local moment = shown - zone.by[i]
    if i == last or moment < zone.from[i + 1] then
      return i == 1 and moment or math.max(moment, zone.from[i])
    end
  end
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

-- Start of the day or month that holds `now` in `zone`, and of the next one. A zone remembers its last answer.
local function civil_bounds(zone, kind, now)
  local known = zone.bounds[kind]
  if known and known.start <= now and now < known.resets then return known end
  local shown = now + offset_at(zone, now)
  local first, following
  if kind == 'day' then
    first = shown - modulo(shown, DAY_MS)
    following = first + DAY_MS
  else
    local year, month = month_of(math.floor(shown / DAY_MS))
    first = first_day(year, month) * DAY_MS
    if month == 12 then year, month = year + 1, 1 else month = month + 1 end
    following = first_day(year, month) * DAY_MS
  end
  local start = instant_of(zone, first)
  known = { start = start, resets = instant_of(zone, following), text = int(start) }
  zone.bounds[kind] = known
  return known
end

-- { start, resets, text } of a window as calendar.window_bounds has them; nil and an error reply for a zone
-- whose offsets the org has not been told.
local function bounds_of(books, window)
  local known = books.bounds[window.span]
  if known then return known end
  local now, kind = books.now, window.kind
  if LENGTH_MS[kind] then
    local start = now - math.fmod(now, LENGTH_MS[kind])
    known = { start = start, resets = start + LENGTH_MS[kind], text = int(start) }
  elseif kind == 'lifetime' then
    known = { start = 0, resets = 0, text = '0' }
  elseif kind == 'rolling' then
    local start = now - math.fmod(now, window.width)
    known = { start = start, resets = start + window.width + window.seconds * 1000, text = int(start) }
  else
    local zone = UTC
    if window.zone then
      local text = redis.call('HGET', books.prefix .. 'zones', window.zone)
      if not text then return nil, redis.error_reply('TGZONE ' .. window.zone) end
      zone = zone_of(text)
    end
    known = civil_bounds(zone, kind, now)
  end
  books.bounds[window.span] = known
  return known
end

-- A bucket's used, held, leased, credit; nil for one that is not there.
local function bucket_of(text)
  if not text then return nil end
  local used, held, leased, credit = string.match(text, '^(-?%d+) (-?%d+) (-?%d+) (-?%d+)$')
  return { used = tonumber(used), held = tonumber(held), leased = tonumber(leased), credit = tonumber(credit) }
end

local function bucket_text(bucket)
  return int(bucket.used) .. ' ' .. int(bucket.held) .. ' ' .. int(bucket.leased) .. ' ' .. int(bucket.credit)
end

-- Adds up a rolling window's buckets that count now. `buckets`: those that hold anything, oldest first.
local function count_buckets(books, placed, window)
  local fields, oldest = {}, placed.start
  while oldest + window.seconds * 1000 > books.now do oldest = oldest - window.width end
  for start = oldest, placed.start, window.width do fields[#fields + 1] = int(start) end
  local texts = redis.call('HMGET', placed.key, unpack(fields))
  placed.fresh = not texts[#fields]
  placed.buckets = {}
  for i = 1, #fields do
    local bucket, from = bucket_of(texts[i]), oldest + (i - 1) * window.width
    if bucket and (bucket.used ~= 0 or bucket.held ~= 0 or bucket.credit ~= 0) then
      bucket.leaves = from + window.width + window.seconds * 1000
      placed.buckets[#placed.buckets + 1] = bucket
      placed.used, placed.held = placed.used + bucket.used, placed.held + bucket.held
      placed.leased, placed.credit = placed.leased + bucket.leased, placed.credit + bucket.credit
    end
  end
  if placed.buckets[1] then placed.resets = placed.buckets[1].leaves end
end

-- Of the burst what the window before left unspent.
local function carried(books, account, window, start)
  local key = books.prefix .. 'w:' .. account .. '|' .. window.same .. '|' .. int(start - LENGTH_MS[window.kind])
  local before = redis.call('HMGET', key, 'used', 'held')
  local spent = tonumber(before[1] or 0) + tonumber(before[2] or 0)
  return math.min(window.burst, math.max(0, window.limit - spent))
end

-- An account's windows by their names, for each org: the texts that name them now.
local texts_of = remembering(function() return {} end)

-- name, id and key of an account's window that begins at `start`: made anew only when it does. `known`: what
-- texts_of has of the account.
local function texts_at(books, known, account, window, start)
  local texts = known[window.same]
  if not texts or texts.start ~= start then
    local name, key = account .. '|' .. window.name, books.prefix .. 'w:' .. account .. '|' .. window.same
    if window.kind ~= 'rolling' then key = key .. '|' .. start end
    texts = { start = start, name = name, id = name .. '|' .. start, key = key }
    known[window.same] = texts
  end
  return texts
end

-- The window as it stands now (memory_books.Placed); nil and an error reply.
local function place(books, known, account, window)
  local bounds, stop = bounds_of(books, window)
  if stop then return nil, stop end
  local texts = texts_at(books, known, account, window, bounds.text)
  local placed = {
    account = account, window = window, name = texts.name, id = texts.id, key = texts.key, binds = window.binds,
    measure = window.measure, start = bounds.start, resets = bounds.resets, used = 0, held = 0, leased = 0,
    credit = 0, limit = window.limit, fresh = false, left = 0, last = 0,
    drop_at = bounds.resets > 0 and bounds.resets + WINDOW_KEPT_MS or 0,
  }
  if window.kind == 'rolling' then
    placed.drop_at = placed.resets
    placed.bucket_ends = placed.start + window.width
    count_buckets(books, placed, window)
  else
    local counter = redis.call('HMGET', placed.key, 'used', 'held', 'leased', 'credit')
    placed.fresh = not counter[1]
    if counter[1] then placed.used, placed.held = tonumber(counter[1]), tonumber(counter[2]) end
    if counter[3] then placed.leased = tonumber(counter[3]) end
    if counter[4] then placed.credit = tonumber(counter[4]) end
  end
  if window.limit >= 0 then
    local limit = window.limit + placed.credit
    if window.burst > 0 then limit = limit + carried(books, account, window, placed.start) end
    placed.limit = math.min(limit, TOKENS_MAX)
  end
  return placed
end

local function remaining(placed)
  if placed.limit < 0 then return -1 end
  return math.max(0, placed.limit - placed.used - placed.held)
end

-- account|measure|span|limit|used|held|resets|enforcement|frozen.
local function standing(placed, frozen)
  return placed.account .. '|' .. placed.window.same .. '|' .. int(placed.limit) .. '|' .. int(placed.used)
    .. '|' .. int(placed.held) .. '|' .. int(placed.resets) .. '|' .. placed.window.enforcement
    .. (frozen and '|1' or '|0')
end
