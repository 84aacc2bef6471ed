-- Part of ledger.lua: the books of an org, their limits and counters, holds as records, the outbox.

local function store_time(args)
  if args[2] ~= '' then return tonumber(args[2]) end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function org_time(confirmed, store)
  return math.max(confirmed, math.min(store, confirmed + JUMP_MS))
end

-- What the key of an org's meta says: prefix of its keys, and its id.
local org_at = remembering(function(key)
  return { prefix = string.sub(key, 1, -5), org = string.match(key, '^tg:{([^}]+)}:') }
end)

-- The org's books at its time; nil and an error reply when the caller knows another epoch than they have.
-- latest_ms: the latest second in which anything was decided (memory_books.Books); not `reading` moves it.
local function open_books(keys, args, reading)
  local meta = redis.call('HMGET', keys[1], 'epoch', 'clock_ms', 'latest_ms')
  if not meta[1] then return nil, redis.error_reply('TGEPOCH none') end
  if meta[1] ~= args[1] then return nil, redis.error_reply('TGEPOCH other') end
  local latest = tonumber(meta[3] or 0)
  local now = math.max(latest, org_time(tonumber(meta[2]), store_time(args)))
  if not reading and now - now % 1000 > latest then
    redis.call('HSET', keys[1], 'latest_ms', int(now - now % 1000))
  end
  local org = org_at(keys[1])
  return { prefix = org.prefix, org = org.org, now = now, now_text = int(now), bounds = {} }
end

-- Amounts as a table by measure, with so many requests and of them so many in flight.
local function amounts_of(tokens, prompt, completion, micro_usd, requests, flights)
  return {
    tokens = tokens, prompt_tokens = prompt, completion_tokens = completion, micro_usd = micro_usd,
    requests = requests, concurrent = flights,
  }
end

-- Four of ARGV from `first`.
local function amounts_at(args, first, requests, flights)
  return amounts_of(tonumber(args[first]), tonumber(args[first + 1]), tonumber(args[first + 2]),
    tonumber(args[first + 3]), requests, flights)
end

local NOTHING = amounts_of(0, 0, 0, 0, 0, 0)

local function minus(amounts, less)
  return amounts_of(amounts.tokens - less.tokens, amounts.prompt_tokens - less.prompt_tokens,
    amounts.completion_tokens - less.completion_tokens, amounts.micro_usd - less.micro_usd,
    amounts.requests - less.requests, amounts.concurrent - less.concurrent)
end

local function negated(amounts)
  return minus(NOTHING, amounts)
end

-- 'prompt completion micro_usd': what version 1 does not know.
local function parts_text(amounts)
  return int(amounts.prompt_tokens) .. ' ' .. int(amounts.completion_tokens) .. ' ' .. int(amounts.micro_usd)
end

local function amounts_text(amounts)
  return int(amounts.tokens) .. ' ' .. parts_text(amounts)
end

local function amounts_from(tokens, parts, requests, flights)
  local prompt, completion, micro_usd = string.match(parts or '0 0 0', '^(%d+) (%d+) (%d+)$')
  return amounts_of(tonumber(tokens), tonumber(prompt), tonumber(completion), tonumber(micro_usd),
    requests, flights)
end

-- Does `have` cover `wanted` in every measure of an amount?
local function covers(have, wanted)
  return have.tokens >= wanted.tokens and have.prompt_tokens >= wanted.prompt_tokens
    and have.completion_tokens >= wanted.completion_tokens and have.micro_usd >= wanted.micro_usd
end

-- The lists of windows that count for ARGV pairs (account, windows) from `first`. With a version the ledger's
-- limits are to be brought up to date: `newer` are the fields to set. -> { account, windows, frozen }, conflict,
-- newer
local function lists_of(books, args, first, count, version)
  local fields, lists, newer, conflict = {}, {}, {}, false
  for i = 1, count do
    fields[2 * i - 1] = args[first + 2 * i - 2]
    fields[2 * i] = '!' .. args[first + 2 * i - 2]
  end
  local stored = redis.call('HMGET', books.prefix .. 'limits', unpack(fields))
  for i = 1, count do
    local account, brought = fields[2 * i - 1], args[first + 2 * i - 1]
    local known = stored[2 * i - 1] and stored_of(stored[2 * i - 1])
    local windows = known and known.windows or windows_of(brought)
    if version and (not known or version > known.number) then
      windows = windows_of(brought)
      newer[#newer + 1] = account
      newer[#newer + 1] = int(version) .. ':' .. brought
    elseif version and version == known.number and brought ~= known.text then
      conflict = true
    end
    local list = { account = account, windows = windows, frozen = false }
    if stored[2 * i] then
      local over = stored_of(stored[2 * i])
      list.frozen = over.number == 1
      list.windows = {}
      local set, met = {}, {}
      for _, window in ipairs(over.windows) do set[window.same] = window end
      for _, window in ipairs(windows) do
        list.windows[#list.windows + 1] = set[window.same] or window
        met[window.same] = true
      end
      for _, window in ipairs(over.windows) do
        if not met[window.same] then list.windows[#list.windows + 1] = window end
      end
    end
    lists[i] = list
  end
  return lists, conflict, newer
end

local function bring(books, newer)
  if #newer > 0 then redis.call('HSET', books.prefix .. 'limits', unpack(newer)) end
end

-- Every window of the lists as it stands; nil and an error reply.
local function place_all(books, lists)
  local all = {}
  for _, list in ipairs(lists) do
    local known = texts_of(books.prefix .. list.account)
    for _, window in ipairs(list.windows) do
      local placed, stop = place(books, known, list.account, window)
      if stop then return nil, stop end
      all[#all + 1] = placed
    end
  end
  return all
end

local function move_bucket(key, bucket, held, leased, used)
  local counter = bucket_of(redis.call('HGET', key, bucket))
  if not counter then return end
  counter.held, counter.leased, counter.used = counter.held + held, counter.leased + leased, counter.used + used
  redis.call('HSET', key, bucket, bucket_text(counter))
end

-- Hold and lease out so much on a placed window, which gets a counter where it has none.
local function hold_on(books, placed, held, leased)
  if placed.fresh and placed.drop_at > 0 then
    redis.call('ZADD', books.prefix .. 'windows', int(placed.drop_at), placed.id)
  end
  placed.held, placed.leased = placed.held + held, placed.leased + leased
  if placed.buckets then
    local bucket = int(placed.start)
    if placed.fresh then redis.call('HSET', placed.key, bucket, '0 0 0 0') end
    move_bucket(placed.key, bucket, held, leased, 0)
  elseif placed.fresh then
    redis.call('HSET', placed.key, 'used', '0', 'held', int(held))
  elseif held ~= 0 then
    redis.call('HINCRBY', placed.key, 'held', int(held))
  end
  if leased ~= 0 and not placed.buckets then redis.call('HINCRBY', placed.key, 'leased', int(leased)) end
end

-- Add amounts (or nil) to what is held, leased and used in the windows of `ids`; not in one that is gone. One
-- of which something is held is there.
local function move(books, ids, held, leased, used)
  held, leased, used = held or NOTHING, leased or NOTHING, used or NOTHING
  local texts = {}
  for _, at in ipairs(places_of(books.prefix .. ids)) do
    local key, measure = at.key, at.measure
    local more_held, more_leased, more_used = held[measure], leased[measure], used[measure]
    if not texts[measure] then
      texts[measure] = { held = int(more_held), leased = int(more_leased), used = int(more_used) }
    end
    local text = texts[measure]
    if at.bucket then
      move_bucket(key, at.bucket, more_held, more_leased, more_used)
    elseif more_held ~= 0 or more_leased ~= 0 or (more_used ~= 0 and redis.call('EXISTS', key) == 1) then
      if more_held ~= 0 then redis.call('HINCRBY', key, 'held', text.held) end
      if more_leased ~= 0 then redis.call('HINCRBY', key, 'leased', text.leased) end
      if more_used ~= 0 then redis.call('HINCRBY', key, 'used', text.used) end
    end
  end
end

-- A correction may still come: these windows must outlive a tombstone from now.
local function keep(books, ids)
  for id in string.gmatch(ids, '%S+') do
    if not place_of(id).bucket then
      redis.call('ZADD', books.prefix .. 'windows', 'XX', 'GT', int(books.now + WINDOW_KEPT_MS), id)
    end
  end
end

-- Forget windows that ended long ago and hold nothing, and adjustments nobody will repeat.
local function sweep(books)
  local ended = books.prefix .. 'windows'
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', ended, '-inf', books.now_text, 'LIMIT', '0', SWEEP_WINDOWS)) do
    local at = place_of(id)
    local key = books.prefix .. at.key
    if at.bucket then
      local counter = bucket_of(redis.call('HGET', key, at.bucket))
      if not counter or counter.held == 0 then
        redis.call('HDEL', key, at.bucket)
        redis.call('ZREM', ended, id)
      end
    elseif tonumber(redis.call('HGET', key, 'held') or 0) == 0 then
      redis.call('DEL', key)
      redis.call('ZREM', ended, id)
    end
  end
  redis.call('ZREMRANGEBYSCORE', books.prefix .. 'adjusted', '-inf', books.now_text)
end

-- Those of `ids` that are there.
local function kept_windows(books, ids)
  local found = {}
  for id in string.gmatch(ids, '%S+') do
    local at = place_of(id)
    if at and ((at.bucket and redis.call('HEXISTS', books.prefix .. at.key, at.bucket) == 1)
        or (not at.bucket and redis.call('EXISTS', books.prefix .. at.key) == 1)) then
      found[#found + 1] = id
    end
  end
  return table.concat(found, ' ')
end

-- Of each measure the binding window with the least left; of equals the one that resets last (never is last of
-- all); of those the first. By measure.
local function tightest(windows)
  local best = {}
  for _, placed in ipairs(windows) do
    if placed.binds then
      local other, left = best[placed.measure], remaining(placed)
      placed.left, placed.last = left, placed.resets > 0 and placed.resets or TOKENS_MAX
      if not other or left < other.left or (left == other.left and placed.last > other.last) then
        best[placed.measure] = placed
      end
    end
  end
  return best
end

-- The windows of this enforcement above their limit.
local function over_limit(windows, enforcement)
  local found = {}
  for _, placed in ipairs(windows) do
    if placed.window.enforcement == enforcement and placed.limit >= 0
        and placed.used + placed.held > placed.limit then
      found[#found + 1] = placed
    end
  end
  return found
end

local function standings_text(windows)
  local texts = {}
  for i, placed in ipairs(windows) do texts[i] = standing(placed, false) end
  return table.concat(texts, ';')
end

-- Pairs (name, value) of ARGV from `first` to `last`, names prefixed, flat. Empty details are left out.
local function prefixed(prefix, args, first, last)
  local found = {}
  for i = first, last - 1, 2 do
    if prefix ~= 'd.' or args[i + 1] ~= '' then
      found[#found + 1] = prefix .. args[i]
      found[#found + 1] = args[i + 1]
    end
  end
  return found
end

local function request_id_in(context)
  for i = 1, #context, 2 do
    if context[i] == 'c.request_id' then return context[i + 1] end
  end
  return ''
end

local function extend_list(list, more)
  local count = #list
  for i = 1, #more do list[count + i] = more[i] end
end

local function add_amounts(fields, name, amounts)
  fields[#fields + 1] = 'a.' .. name
  fields[#fields + 1] = int(amounts.tokens)
  for i = 2, 4 do
    if amounts[MEASURES[i]] ~= 0 then
      fields[#fields + 1] = 'a.' .. name .. '_' .. MEASURES[i]
      fields[#fields + 1] = int(amounts[MEASURES[i]])
    end
  end
end

-- `who`: id, version, context (flat). `more`: flat, with prefixes.
local function append(books, kind, who, verdict, reason, accounts, more)
  local fields = {
    'type', kind, 'at_ms', books.now_text, 'org', books.org, 'request_id', request_id_in(who.context),
    'hold', who.id or '', 'policy_version', who.version or '', 'verdict', verdict, 'reason', reason,
    'accounts', accounts,
  }
  extend_list(fields, more)
  extend_list(fields, who.context)
  redis.call('XADD', books.prefix .. 'outbox', '*', unpack(fields))
end

-- The record of a hold or lease as a table, its context flat; nil when there is none or its tombstone has aged
-- out.
local function record_of(books, key, id)
  local flat = redis.call('HGETALL', key)
  if #flat == 0 then return nil end
  local record = { id = id, context = {} }
  local context, count = record.context, 0
  for i = 1, #flat, 2 do
    local name = flat[i]
    if string.byte(name, 2) == DOT and string.byte(name, 1) == LETTER_C then
      context[count + 1], context[count + 2] = name, flat[i + 1]
      count = count + 2
    else
      record[name] = flat[i + 1]
    end
  end
  if record.forget_at and tonumber(record.forget_at) <= books.now then
    redis.call('DEL', key)
    return nil
  end
  return record
end
