-- Part of ledger.lua: leases, and the holds that are drawn from them.

-- The lease's record with its rest; nil as record_of.
local function remembered_lease(books, key, id)
  local lease = record_of(books, key, id)
  if not lease then return nil end
  local tokens, parts = string.match(lease.rest, '^(%d+) (.*)$')
  lease.left = amounts_from(tokens, parts, tonumber(lease.requests), 0)
  return lease
end

-- A lease's event has its rest as held; `reason` of one that had expired. `detail`: flat, with prefixes.
local function append_lease(books, kind, lease, reason, detail)
  local more = {}
  add_amounts(more, 'held', lease.left)
  extend_list(more, { 'a.held_requests', int(lease.left.requests) })
  extend_list(more, detail or {})
  append(books, 'lease.' .. kind, lease, kind, reason, lease.windows, more)
end

-- ARGV from `first`: lease, hold, amounts (4), units, expires, version, windows, n, n x (name, value) of context.
-- Second: what follows.
local function draw_of(args, first)
  local count = tonumber(args[first + 10])
  local following = first + 11 + 2 * count
  return {
    lease = args[first], id = args[first + 1], held = amounts_at(args, first + 2, 1, 1), units = args[first + 6],
    expires = args[first + 7], version = args[first + 8], windows = args[first + 9], conflict = '0', tightest = '',
    posted = '0', state = 'live', cost = NOTHING, context = prefixed('c.', args, first + 11, following - 1),
  }, following
end

-- The draw as a hold, funded by its lease where that has so much; nil for one so late that it may have been
-- resolved and forgotten.
local function drawn(books, key, draw)
  if tonumber(draw.expires) + TOMBSTONE_MS <= books.now then return nil end
  local lease_key = books.prefix .. 'lease:' .. draw.lease
  local lease = remembered_lease(books, lease_key, draw.lease)
  draw.windows = kept_windows(books, lease and lease.windows or draw.windows)
  if lease and lease.state ~= 'returned' and covers(lease.left, draw.held) and lease.left.requests > 0 then
    local left = minus(lease.left, draw.held)
    redis.call('HSET', lease_key, 'rest', amounts_text(left), 'requests', int(left.requests))
    extend_list(draw.context, { 'c.lease', draw.lease })
    if lease.state == 'expired' then
      extend_list(draw.context, { 'c.lease_state', lease.state })
      move(books, draw.windows, draw.held, nil, negated(spent(draw.held)))
    else
      move(books, draw.windows, nil, negated(spent(draw.held)), nil)
    end
  else
    move(books, draw.windows, draw.held, nil, nil)
  end
  grant(books, key, draw, {})
  return draw
end

-- Of each measure what is wanted, or the share of what the tightest window has left.
local function share_of(windows, wanted, share)
  local found = minus(wanted, NOTHING)
  for _, placed in ipairs(windows) do
    if placed.binds then
      found[placed.measure] = math.min(found[placed.measure], div(remaining(placed), share))
    end
  end
  return found
end

-- May a lease be made on these windows? Not where requests in flight count, nor shortly after a recall.
local function may_lease(books, windows)
  local names = {}
  for i, placed in ipairs(windows) do
    if placed.measure == 'concurrent' then return false end
    names[i] = placed.name
  end
  if #names == 0 then return true end
  for _, recalled_at in ipairs(redis.call('HMGET', books.prefix .. 'recalls', unpack(names))) do
    if recalled_at and tonumber(recalled_at) + RECALL_MS > books.now then return false end
  end
  return true
end

-- The end of the first fixed window or bucket, and no later than asked for.
local function ends_at(windows, latest)
  for _, placed in ipairs(windows) do
    local ends = placed.bucket_ends or placed.resets
    if ends > 0 then latest = math.min(latest, ends) end
  end
  return latest
end

-- amounts (4), requests, windows, expires, lasts, conflict, tightest, over.
local function leased_text(books, lease, windows, conflict)
  local best, tight = tightest(windows), {}
  for _, measure in ipairs(MEASURES) do
    tight[#tight + 1] = best[measure]
  end
  return amounts_text(lease.left) .. ' ' .. int(lease.left.requests) .. ' '
    .. string.gsub(lease.windows, ' ', ',') .. ' ' .. lease.expires .. ' '
    .. int(math.max(0, tonumber(lease.expires) - books.now)) .. (conflict and ' 1 ' or ' 0 ')
    .. standings_text(tight) .. ' ' .. standings_text(over_limit(windows, 'soft'))
end

-- ARGV: epoch, time, lease, wanted (4), requests, least (4), share, ttl, version, n, n x (account, windows),
-- context pairs. Returns leased_text's or nothing.
local function lease(keys, args)
  local books, closed = open_books(keys, args)
  if closed then return closed end
  local known = remembered_lease(books, keys[2], args[3])
  if known and known.state ~= 'live' then return false end
  local count = tonumber(args[16])
  local lists, conflict, newer = lists_of(books, args, 17, count, tonumber(args[15]))
  local windows, stop = place_all(books, lists)
  if stop then return stop end
  bring(books, newer)
  if known then
    touch(keys[2], known)
    return leased_text(books, known, windows, conflict)
  end
  for _, list in ipairs(lists) do
    if list.frozen then return false end
  end
  if not may_lease(books, windows) then return false end
  local left = share_of(windows, amounts_at(args, 4, tonumber(args[8]), 0), tonumber(args[13]))
  if left.requests < 1 or not covers(left, amounts_at(args, 9, 0, 0)) then return false end
  local ids = {}
  for i, placed in ipairs(windows) do
    hold_on(books, placed, left[placed.measure], left[placed.measure])
    ids[i] = placed.id
  end
  local made = {
    id = args[3], left = left, windows = table.concat(ids, ' '), version = args[15], state = 'live',
    expires = int(ends_at(windows, books.now + tonumber(args[14]))),
    context = prefixed('c.', args, 17 + 2 * count, #args),
  }
  redis.call('HSET', keys[2], 'state', 'live', 'windows', made.windows, 'rest', amounts_text(left), 'requests',
    int(left.requests), 'granted', books.now_text, 'expires', made.expires, 'version', made.version,
    unpack(made.context))
  redis.call('ZADD', books.prefix .. 'leases', made.expires, made.id)
  append_lease(books, 'granted', made, '', over_detail(over_limit(windows, 'soft'), over_limit(windows, 'shadow')))
  return leased_text(books, made, windows, conflict)
end

-- A live lease is recalled once one of its windows was, since it was made.
local function notice_recall(books, key, lease)
  if lease.state ~= 'live' then return end
  local names = {}
  for id in string.gmatch(lease.windows, '%S+') do names[#names + 1] = string.match(id, '^(.*)|') end
  if #names == 0 then return end
  for _, recalled_at in ipairs(redis.call('HMGET', books.prefix .. 'recalls', unpack(names))) do
    if recalled_at and tonumber(recalled_at) >= tonumber(lease.granted) then
      lease.state = 'recalled'
      redis.call('HSET', key, 'state', 'recalled')
      return
    end
  end
end

-- ARGV: epoch, time, lease, n, n draws. Returns the lease's state.
local function draw(keys, args)
  local books, closed = open_books(keys, args)
  if closed then return closed end
  local following = 5
  for _ = 1, tonumber(args[4]) do
    local one
    one, following = draw_of(args, following)
    local key = books.prefix .. 'hold:' .. one.id
    local known = record_of(books, key, one.id)
    if known then touch(key, known) else drawn(books, key, one) end
  end
  local found = remembered_lease(books, keys[2], args[3])
  if not found then return 'unknown' end
  notice_recall(books, keys[2], found)
  return found.state
end

-- Keep what became of a lease, until it is forgotten.
local function end_lease(books, key, lease, state, left)
  local forget_at = books.now + TOMBSTONE_MS
  redis.call('HSET', key, 'state', state, 'forget_at', int(forget_at), 'rest', amounts_text(left),
    'requests', int(left.requests))
  redis.call('PEXPIRE', key, int(2 * TOMBSTONE_MS))
  redis.call('ZREM', books.prefix .. 'leases', lease.id)
end

-- ARGV: epoch, time, lease, reconciled (1 or 0). Returns the lease's state.
local function return_lease(keys, args)
  local books, closed = open_books(keys, args)
  if closed then return closed end
  local found = remembered_lease(books, keys[2], args[3])
  if not found then return 'unknown' end
  local expired = found.state == 'expired'
  if found.state == 'returned' or (expired and args[4] ~= '1') then return found.state end
  local back = negated(found.left)
  if expired then
    move(books, found.windows, nil, nil, back)
  else
    move(books, found.windows, back, back, nil)
  end
  append_lease(books, 'returned', found, expired and 'reconciled' or '')
  end_lease(books, keys[2], found, 'returned', NOTHING)
  return 'returned'
end

-- Charge the rest of leases nobody returned; at most `count`, the oldest first. Returns their ids.
local function expire_leases(books, count)
  local latest = int(books.now - LEASE_GRACE_MS)
  local gone = redis.call('ZRANGEBYSCORE', books.prefix .. 'leases', '-inf', latest, 'LIMIT', '0', int(count))
  for _, id in ipairs(gone) do
    local key = books.prefix .. 'lease:' .. id
    local found = remembered_lease(books, key, id)
    local back = negated(found.left)
    move(books, found.windows, back, back, found.left)
    keep(books, found.windows)
    end_lease(books, key, found, 'expired', found.left)
    append_lease(books, 'expired', found, '')
  end
  return gone
end
