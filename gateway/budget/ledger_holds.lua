-- Part of ledger.lua: the rules of holds: granted, refused, clamped, resolved.

-- The hold's record with its amounts; nil as record_of.
local function remembered(books, key, id)
  local hold = record_of(books, key, id)
  if not hold then return nil end
  hold.held = amounts_from(hold.amount, hold.parts, 1, 1)
  -- Version 1 resolves without parts: what it charged in full cost all of them.
  hold.cost = amounts_from(hold.posted, hold.posted_parts or (hold.blind == '1' and hold.parts), 1, 0)
  return hold
end

-- A repeated call writes, so that a WAIT behind it covers what the first call wrote.
local function touch(key, record)
  redis.call('HSET', key, 'state', record.state)
end

local function grant_text(hold, repeated)
  return 'granted ' .. amounts_text(hold.held) .. ' ' .. hold.units .. ' ' .. hold.expires .. ' ' .. repeated
    .. ' ' .. hold.conflict .. ' ' .. (hold.lease or '') .. ' ' .. hold.tightest .. ' ' .. (hold.more or '')
    .. ' ' .. (hold.over or '')
end

-- Keep a new hold and append its event. `detail`: flat, with prefixes.
local function grant(books, key, hold, detail)
  local fields = {
    'state', 'live', 'amount', int(hold.held.tokens), 'posted', '0', 'units', hold.units, 'expires',
    hold.expires, 'version', hold.version, 'windows', hold.windows, 'conflict', hold.conflict, 'tightest',
    hold.tightest, 'parts', parts_text(hold.held),
  }
  for _, name in ipairs({ 'more', 'over', 'lease' }) do
    if hold[name] and hold[name] ~= '' then
      fields[#fields + 1] = name
      fields[#fields + 1] = hold[name]
    end
  end
  extend_list(fields, hold.context)
  redis.call('HSET', key, unpack(fields))
  redis.call('ZADD', books.prefix .. 'live', hold.expires, hold.id)
  local more = {}
  add_amounts(more, 'held', hold.held)
  extend_list(more, detail)
  append(books, 'hold.granted', hold, 'granted', '', hold.windows, more)
end

-- What a hold costs that is charged `amounts`: one request, none in flight.
local function spent(amounts)
  return amounts_of(amounts.tokens, amounts.prompt_tokens, amounts.completion_tokens, amounts.micro_usd, 1, 0)
end

-- Move the counters of the reserve's windows from what the hold weighed to what it costs now.
local function resolve(books, key, hold, state, cost, certainty)
  if hold.state == 'live' then
    move(books, hold.windows, negated(hold.held), nil, state ~= 'voided' and cost or nil)
  else
    move(books, hold.windows, nil, nil, minus(cost, hold.cost))
  end
  if certainty < EXACT then
    keep(books, hold.windows)
  else
    redis.call('DEL', key) -- nothing can change it any more: keep the outcome only
  end
  -- A draw that is told again must find its tombstone for as long as it could be taken for a new one.
  local forget_at = TOMBSTONE_MS + (hold.lease and math.max(books.now, tonumber(hold.expires)) or books.now)
  local fields = {
    'state', state, 'amount', int(hold.held.tokens), 'posted', int(cost.tokens), 'blind', int(certainty),
    'forget_at', int(forget_at), 'parts', parts_text(hold.held), 'posted_parts', parts_text(cost),
  }
  redis.call('HSET', key, unpack(fields))
  redis.call('PEXPIRE', key, int(forget_at - books.now + TOMBSTONE_MS))
  redis.call('ZREM', books.prefix .. 'live', hold.id)
  hold.state, hold.cost = state, cost
end

-- outcome, first, posted, overdraft.
local function outcome(hold, first)
  local overdraft = math.max(0, hold.cost.tokens - hold.held.tokens)
  return hold.state .. (first and ' 1 ' or ' 0 ') .. amounts_text(hold.cost) .. ' ' .. int(overdraft)
end

local UNKNOWN = 'unknown 0 0 0 0 0 0'

-- Note that leases on these windows are recalled. Is there one?
local function recall(books, windows)
  local found = false
  for _, placed in ipairs(windows) do
    if placed.leased > 0 then
      redis.call('HSET', books.prefix .. 'recalls', placed.name, books.now_text)
      found = true
    end
  end
  return found
end

-- When time alone lets the window pay; 0 for never.
local function pays_at(placed, needed)
  if not placed.buckets then return placed.resets end
  local left, moment = placed.limit - placed.used - placed.held, 0
  for _, bucket in ipairs(placed.buckets) do
    left = left + bucket.used + bucket.held - bucket.credit
    moment = bucket.leaves
    if left >= needed then break end
  end
  return moment
end

-- What a request asks: ARGV from `first`: fixed, choices, units wanted, units needed, price of a prompt token, of
-- a completion token, of a request.
local function request_of(args, first)
  return {
    fixed = tonumber(args[first]), choices = tonumber(args[first + 1]), wanted = tonumber(args[first + 2]),
    needed = tonumber(args[first + 3]), prompt_price = tonumber(args[first + 4]),
    completion_price = tonumber(args[first + 5]), request_price = tonumber(args[first + 6]),
  }
end

local function amounts_with(request, units)
  local completion = units * request.choices
  local pico = request.fixed * request.prompt_price + completion * request.completion_price
  local cost = request.request_price + div(pico, PICO_PER_MICRO)
  if math.fmod(pico, PICO_PER_MICRO) > 0 then cost = cost + 1 end
  return amounts_of(request.fixed + completion, request.fixed, completion, cost, 1, 1)
end

-- Most units that a window can pay, which can pay the fewest.
local function payable(request, placed)
  local left = remaining(placed)
  if placed.measure == 'tokens' then return div(left - request.fixed, request.choices) end
  if placed.measure == 'completion_tokens' then return div(left, request.choices) end
  if placed.measure == 'micro_usd' and request.completion_price > 0 and left - request.request_price <= MICRO_CAP then
    local pico = (left - request.request_price) * PICO_PER_MICRO - request.fixed * request.prompt_price
    return div(pico, request.completion_price * request.choices)
  end
  return request.wanted
end

-- The reply that refuses, or nil.
local function refuse(books, hold, windows, needed)
  local refusing, worst = {}, nil
  for _, placed in ipairs(windows) do
    local least = needed[placed.measure]
    if placed.binds and remaining(placed) < least then
      refusing[#refusing + 1] = placed
      local moment = pays_at(placed, least)
      local order = moment > 0 and moment or math.huge
      if not worst or order > worst.order
          or (order == worst.order and remaining(placed) < remaining(worst.placed)) then
        worst = { placed = placed, least = least, moment = moment, order = order }
      end
    end
  end
  if not worst then return nil end
  local recalled, placed = recall(books, refusing), worst.placed
  append(books, 'hold.refused', hold, 'refused', placed.name, placed.id,
    { 'a.needed', int(worst.least), 'a.remaining', int(remaining(placed)) })
  return 'refused ' .. int(worst.least) .. ' ' .. int(worst.moment > 0 and worst.moment - books.now or 0)
    .. (recalled and ' 1 ' or ' 0 ') .. standing(placed, false)
end

local function refuse_frozen(books, hold, account)
  append(books, 'hold.refused', hold, 'refused', account .. '|frozen', '', { 'a.needed', '0', 'a.remaining', '0' })
  return 'refused 0 0 0 ' .. account .. '|tokens|lifetime|0|0|0|0|hard|1'
end

local function frozen_among(lists)
  for _, list in ipairs(lists) do
    if list.frozen then return list.account end
  end
end

-- The most units that every window can pay. Who is clamped recalls the leases of the windows that clamp.
local function clamp(books, request, windows)
  local units = request.wanted
  for _, placed in ipairs(windows) do
    if placed.binds then units = math.min(units, payable(request, placed)) end
  end
  if units < request.wanted then
    local clamping = {}
    for _, placed in ipairs(windows) do
      if placed.binds and payable(request, placed) == units then clamping[#clamping + 1] = placed end
    end
    recall(books, clamping)
  end
  return units
end

local function names_text(windows)
  local names = {}
  for i, placed in ipairs(windows) do names[i] = placed.name end
  return table.concat(names, ' ')
end

-- Which windows stand above a soft or a shadow limit, as an event's detail.
local function over_detail(soft, shadow)
  local detail = {}
  if #soft > 0 then extend_list(detail, { 'd.soft_over', names_text(soft) }) end
  if #shadow > 0 then extend_list(detail, { 'd.shadow_over', names_text(shadow) }) end
  return detail
end

-- Fills in the standings of a grant: `tightest` (of tokens, in the form of version 1, which reads it), `more` (of
-- the other measures), `over`; answers with the event's amounts and detail.
local function stand(hold, windows)
  local best, more, detail, first = tightest(windows), {}, {}, windows[1]
  local tokens = best.tokens
  if not tokens and first and first.measure == 'tokens' and first.limit < 0 then tokens = first end
  hold.tightest = tokens and tokens.name .. '|' .. int(tokens.limit) .. '|' .. int(tokens.used) .. '|'
    .. int(tokens.held) .. '|' .. int(tokens.resets) or ''
  for i = 2, #MEASURES do
    more[#more + 1] = best[MEASURES[i]]
  end
  hold.more = standings_text(more)
  if best.tokens then detail = { 'a.remaining', int(best.tokens.left) } end
  local soft, shadow = over_limit(windows, 'soft'), over_limit(windows, 'shadow')
  hold.over = standings_text(soft)
  extend_list(detail, over_detail(soft, shadow))
  return detail
end
