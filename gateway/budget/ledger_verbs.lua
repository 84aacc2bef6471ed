-- Part of ledger.lua: the verbs, but for those of leases.

-- ARGV: epoch, time, hold, request_of's seven, ttl, version, n, n x (account, windows), context pairs.
-- Returns grant_text's, or refused, needed, retry after, recalled, standing.
local function reserve(keys, args)
  local books, closed = open_books(keys, args)
  if closed then return closed end
  local known = remembered(books, keys[2], args[3])
  if known then
    if known.state ~= 'live' then return redis.error_reply('TGRESOLVED ' .. known.state) end
    -- What was rebuilt from events knows no units: its caller cannot be told how much it may produce.
    if known.units == '' then return redis.error_reply('TGRESOLVED restored') end
    touch(keys[2], known)
    return grant_text(known, '1')
  end
  local request, count, version = request_of(args, 4), tonumber(args[13]), tonumber(args[12])
  local lists, conflict, newer = lists_of(books, args, 14, count, version)
  local hold = { id = args[3], version = args[12], context = prefixed('c.', args, 14 + 2 * count, #args) }
  local frozen = frozen_among(lists)
  if frozen then
    bring(books, newer)
    return refuse_frozen(books, hold, frozen)
  end
  local windows, stop = place_all(books, lists)
  if stop then return stop end
  bring(books, newer)
  local refused = refuse(books, hold, windows, amounts_with(request, request.needed))
  if refused then return refused end
  local units = clamp(books, request, windows)
  hold.held, hold.units = amounts_with(request, units), int(units)
  hold.expires, hold.conflict = int(books.now + tonumber(args[11])), conflict and '1' or '0'
  local ids = {}
  for i, placed in ipairs(windows) do
    hold_on(books, placed, hold.held[placed.measure], 0)
    ids[i] = placed.id
  end
  hold.windows = table.concat(ids, ' ')
  grant(books, keys[2], hold, stand(hold, windows))
  return grant_text(hold, '0')
end

-- The hold, made of the draw in ARGV from `first` (a count of 0 or 1, then the draw) where the ledger has not
-- heard of it. Second: what follows in ARGV.
local function hold_of(books, keys, args, first)
  local hold = remembered(books, keys[2], args[3])
  if args[first] == '0' then return hold, first + 1 end
  local draw, following = draw_of(args, first + 1)
  return hold or drawn(books, keys[2], draw), following
end

-- ARGV: epoch, time, hold, used (4), certainty, draws (0 or 1), the draw, detail pairs.
-- Returns outcome, first, posted (4), overdraft, as void and extend do.
local function settle(keys, args)
  local books, closed = open_books(keys, args)
  if closed then return closed end
  local hold, following = hold_of(books, keys, args, 9)
  if not hold then return UNKNOWN end
  local live, certainty, before = hold.state == 'live', certainty_of(args[8]), certainty_of(hold.blind)
  if not live and certainty <= before then
    touch(keys[2], hold)
    return outcome(hold, false)
  end
  local cost, was = certainty == UNSEEN and spent(hold.held) or amounts_at(args, 4, 1, 0), hold.cost
  resolve(books, keys[2], hold, live and 'posted' or 'corrected', cost, certainty)
  local more = {}
  add_amounts(more, 'held', hold.held)
  add_amounts(more, 'used', cost)
  if not live and before == PROVISIONAL then add_amounts(more, 'was', was) end
  extend_list(more, { 'a.released', int(math.max(0, hold.held.tokens - cost.tokens)) })
  extend_list(more, prefixed('d.', args, following, #args))
  append(books, live and 'hold.settled' or 'hold.corrected', hold, hold.state, REASONS[certainty], hold.windows,
    more)
  return outcome(hold, true)
end

-- ARGV: epoch, time, hold, reason, draws (0 or 1), the draw.
local function void(keys, args)
  local books, closed = open_books(keys, args)
  if closed then return closed end
  local hold = hold_of(books, keys, args, 5)
  if not hold then return UNKNOWN end
  if hold.state ~= 'live' then
    touch(keys[2], hold)
    return outcome(hold, false)
  end
  resolve(books, keys[2], hold, 'voided', NOTHING, EXACT)
  local more = {}
  add_amounts(more, 'held', hold.held)
  extend_list(more, { 'a.released', int(hold.held.tokens) })
  append(books, 'hold.voided', hold, 'voided', args[4], hold.windows, more)
  return outcome(hold, true)
end

-- ARGV: epoch, time, hold, ttl.
local function extend(keys, args)
  local books, closed = open_books(keys, args)
  if closed then return closed end
  local hold = remembered(books, keys[2], args[3])
  if not hold then return UNKNOWN end
  local later = false
  if hold.state == 'live' then
    local live, expires = books.prefix .. 'live', books.now + tonumber(args[4])
    later = expires > tonumber(redis.call('ZSCORE', live, hold.id))
    if later then redis.call('ZADD', live, int(expires), hold.id) end
  end
  return outcome(hold, later)
end

-- ARGV: epoch, time, most holds. Returns the ids that were charged in full: holds, then leases.
local function expire(keys, args)
  local books, closed = open_books(keys, args)
  if closed then return closed end
  local overdue = redis.call('ZRANGEBYSCORE', books.prefix .. 'live', '-inf', books.now_text, 'LIMIT', '0', args[3])
  for _, id in ipairs(overdue) do
    local key = books.prefix .. 'hold:' .. id
    local hold = remembered(books, key, id)
    resolve(books, key, hold, 'expired', spent(hold.held), UNSEEN)
    local more = {}
    add_amounts(more, 'held', hold.held)
    add_amounts(more, 'used', hold.held)
    append(books, 'hold.expired', hold, 'expired', '', hold.windows, more)
  end
  extend_list(overdue, expire_leases(books, tonumber(args[3]) - #overdue))
  sweep(books)
  return overdue
end

-- The windows of one account, and which of them is the one of ARGV[8].
local function windows_of_account(books, lists, same)
  local windows, stop = place_all(books, lists)
  if stop then return nil, nil, stop end
  for _, placed in ipairs(windows) do
    if placed.window.same == same then return windows, placed end
  end
  return windows
end

local function limit_text(placed)
  return placed and placed.limit >= 0 and int(placed.limit) or ''
end

-- The override after a change; nil and an error reply.
local function override_after(stored, kind, window)
  local over = stored_of(stored or '0:')
  local frozen, texts, met = over.number, {}, false
  for _, one in ipairs(over.windows) do
    local this = window and one.same == window.same
    met = met or this
    if not this then
      texts[#texts + 1] = one.text
    elseif kind == 'set' then
      texts[#texts + 1] = window.text
    end
  end
  if kind == 'set' and not met then
    if #texts >= OVERRIDES_MAX then return nil, redis.error_reply('TGWINDOW many') end
    texts[#texts + 1] = window.text
  end
  if kind == 'freeze' then frozen = 1 elseif kind == 'unfreeze' then frozen = 0 end
  return int(frozen) .. ':' .. table.concat(texts, ';')
end

local function top_up(books, placed, amount)
  hold_on(books, placed, 0, 0)
  if placed.buckets then
    local bucket = bucket_of(redis.call('HGET', placed.key, int(placed.start)))
    bucket.credit = math.min(TOKENS_MAX, bucket.credit + amount)
    redis.call('HSET', placed.key, int(placed.start), bucket_text(bucket))
  else
    redis.call('HSET', placed.key, 'credit', int(math.min(TOKENS_MAX, placed.credit + amount)))
  end
end

local function standing_lines(books, lists)
  local lines = {}
  for _, list in ipairs(lists) do
    local windows, stop = place_all(books, { list })
    if stop then return stop end
    for _, placed in ipairs(windows) do lines[#lines + 1] = standing(placed, list.frozen) end
  end
  return lines
end

-- ARGV: epoch, time, id, kind, actor, reason, account, window or '', version, the policy's windows or ''.
-- Returns the account's standings.
local function adjust(keys, args)
  local books, closed = open_books(keys, args)
  if closed then return closed end
  local account, kind = args[7], args[4]
  local adjusted, bare = books.prefix .. 'adjusted', { account, '' }
  local forget_at = redis.call('ZSCORE', adjusted, args[3])
  if forget_at and tonumber(forget_at) > books.now then
    redis.call('HSET', keys[1], 'epoch', args[1]) -- as touch: a WAIT behind it covers what the first call wrote
    return standing_lines(books, (lists_of(books, bare, 1, 1, nil)))
  end
  local window = args[8] ~= '' and window_of(args[8]) or nil
  local same = window and window.same
  if args[10] ~= '' then
    local lists, _, newer = lists_of(books, { account, args[10] }, 1, 1, tonumber(args[9]))
    local _, _, stop = windows_of_account(books, lists, same)
    if stop then return stop end
    bring(books, newer)
  end
  local _, before, stop = windows_of_account(books, lists_of(books, bare, 1, 1, nil), same)
  if stop then return stop end
  if kind == 'top_up' then
    local _, found = windows_of_account(books, lists_of(books, bare, 1, 1, nil), same)
    if not found or found.limit < 0 then return redis.error_reply('TGWINDOW none') end
    top_up(books, found, window.limit)
  else
    local field = '!' .. account
    local over, full = override_after(redis.call('HGET', books.prefix .. 'limits', field), kind, window)
    if full then return full end
    if window then
      _, stop = place(books, texts_of(books.prefix .. account), account, window)
      if stop then return stop end
    end
    redis.call('HSET', books.prefix .. 'limits', field, over)
  end
  redis.call('ZADD', adjusted, int(books.now + TOMBSTONE_MS), args[3])
  local lists = lists_of(books, bare, 1, 1, nil)
  local windows, after = windows_of_account(books, lists, same)
  recall(books, windows) -- a worker's lease must not outlive what it was made under
  local context = { 'c.actor', args[5], 'c.account', account }
  if window then
    extend_list(context,
      { 'c.window', window.text, 'c.limit_before', limit_text(before), 'c.limit_after', limit_text(after) })
  end
  append(books, 'budget.adjusted', { id = args[3], version = args[9], context = context }, kind, args[6],
    after and after.id or '', {})
  return standing_lines(books, lists)
end

-- ARGV: epoch, time, n, n x (account, windows). Returns standings.
local function show_standing(keys, args)
  local books, closed = open_books(keys, args, true)
  if closed then return closed end
  return standing_lines(books, (lists_of(books, args, 4, tonumber(args[3]), nil)))
end

-- ARGV: epoch, time. Returns the fields of limits that this version wrote.
local function accounts(keys, args)
  local books, closed = open_books(keys, args, true)
  if closed then return closed end
  local found = {}
  for _, field in ipairs(redis.call('HKEYS', books.prefix .. 'limits')) do
    if not string.find(field, '|', 1, true) then found[#found + 1] = field end
  end
  return found
end

-- ARGV: epoch, time. Sets the epoch and the clock of an org that has neither; returns its epoch.
local function open(keys, args)
  redis.call('HSETNX', keys[1], 'clock_ms', int(store_time(args)))
  redis.call('HSETNX', keys[1], 'epoch', args[1])
  return redis.call('HGET', keys[1], 'epoch')
end

-- ARGV: epoch, time, kind, context pairs.
local function note(keys, args)
  local books, closed = open_books(keys, args)
  if closed then return closed end
  append(books, args[3], { context = prefixed('c.', args, 4, #args) }, 'noted', '', '', {})
  return 'OK'
end

-- ARGV: epoch, time, the caller's own time. Returns the org's time.
local function tick(keys, args)
  local books, closed = open_books(keys, args)
  if closed then return closed end
  local store = store_time(args)
  local confirmed = tonumber(redis.call('HGET', keys[1], 'clock_ms'))
  confirmed = math.max(confirmed, math.min(store, tonumber(args[3]) + JUMP_MS))
  redis.call('HSET', keys[1], 'clock_ms', int(confirmed))
  return int(math.max(books.now, org_time(confirmed, store)))
end

-- ARGV: epoch, time, zone, its offsets.
local function zone(keys, args)
  local books, closed = open_books(keys, args, true)
  if closed then return closed end
  redis.call('HSET', books.prefix .. 'zones', args[3], args[4])
  return 'OK'
end

-- allow-oom: what releases or posts tokens must work in a store that is full.
redis.register_function { function_name = 'tg2_open', callback = open }
redis.register_function { function_name = 'tg2_reserve', callback = reserve }
redis.register_function { function_name = 'tg2_settle', callback = settle, flags = { 'allow-oom' } }
redis.register_function { function_name = 'tg2_void', callback = void, flags = { 'allow-oom' } }
redis.register_function { function_name = 'tg2_extend', callback = extend, flags = { 'allow-oom' } }
redis.register_function { function_name = 'tg2_expire', callback = expire, flags = { 'allow-oom' } }
redis.register_function { function_name = 'tg2_lease', callback = lease }
redis.register_function { function_name = 'tg2_draw', callback = draw, flags = { 'allow-oom' } }
redis.register_function { function_name = 'tg2_return_lease', callback = return_lease, flags = { 'allow-oom' } }
redis.register_function { function_name = 'tg2_adjust', callback = adjust }
redis.register_function { function_name = 'tg2_standing', callback = show_standing, flags = { 'no-writes' } }
redis.register_function { function_name = 'tg2_accounts', callback = accounts, flags = { 'no-writes' } }
redis.register_function { function_name = 'tg2_note', callback = note }
redis.register_function { function_name = 'tg2_tick', callback = tick, flags = { 'allow-oom' } }
redis.register_function { function_name = 'tg2_zone', callback = zone }
