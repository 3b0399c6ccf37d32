//! The scripts that change the lists in Redis. Each one either runs or does not.
//!
//! `NAME.waiting` is the queue of proxies with requests that wait for an element: a sorted set of the proxies' ids, scored
//! by the time at which each joined, in microseconds. A proxy that finds no more elements joins it. An element that is
//! returned meanwhile is for the first proxy in the queue, which hears of it by a message on the channel
//! `swiftiply:ID`. A proxy that is not in `NAME.proxies` any more is removed from the queue.

use redis::{Connection, RedisResult};

/// The names of the scripts in Redis, by which they are called.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) take: String,
    pub(super) give_back: String,
    pub(super) renew: String,
}

impl Scripts {
    /// Has Redis store the scripts.
    pub(super) fn load(connection: &mut Connection) -> RedisResult<Self> {
        let load = |script: &str| redis::cmd("SCRIPT").arg("LOAD").arg(script).to_owned();
        Ok(Self {
            take: load(TAKE).query(connection)?,
            give_back: load(RETURN).query(connection)?,
            renew: load(RENEW).query(connection)?,
        })
    }
}

/// The channel on which a proxy hears that it should ask for elements again.
pub(super) fn channel(proxy_id: &str) -> String {
    format!("swiftiply:{proxy_id}")
}

/// The reply of [`TAKE`]: whether this proxy is in the queue, the other proxies in the queue, the elements.
pub(super) type TakeReply = (usize, usize, Vec<Vec<u8>>);

/// The reply of [`RENEW`]: expired leases, proxies, leases, free elements, elements in use.
pub(super) type SyncReply = (usize, usize, usize, Vec<Vec<u8>>, Vec<Vec<u8>>);

/// Takes elements. Keys: list, in use, leases, waiting, proxies. Arguments: lease in milliseconds, count, proxy, number of
/// the first.
///
/// Each proxy that joined the queue earlier is left one element. If others wait, a proxy takes its share of the free
/// elements only. One that joins the queue, or joins it again behind the others, sends a message to those: they may hold
/// elements on which requests of their own wait, and now leave some to it.
const TAKE: &str = r"
if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
local ends = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]
local wanted, me = tonumber(ARGV[2]), ARGV[3]
local others, before, queued = {}, 0, false
for _, other in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
  if other == me then
    queued = true
  elseif not redis.call('ZSCORE', KEYS[5], other) then
    redis.call('ZREM', KEYS[4], other)
  else
    table.insert(others, other)
    if not queued then before = before + 1 end
  end
end
local free = redis.call('LLEN', KEYS[1])
local most = 0
if free > before then
  most = math.min(wanted, math.max(1, math.floor(free / (#others + 1))))
end
local taken = {}
for count = 0, most - 1 do
  local element = redis.call('RPOPLPUSH', KEYS[1], KEYS[2])
  local number = string.format('%d', ARGV[4] + count)
  redis.call('ZADD', KEYS[3], ends, me .. ':' .. number .. ' ' .. element)
  table.insert(taken, element)
end
if most < wanted then
  if most > 0 or not queued then
    redis.call('ZADD', KEYS[4], time[1] * 1000000 + time[2], me)
    for _, other in ipairs(others) do
      redis.call('PUBLISH', 'swiftiply:' .. other, '')
    end
  elseif others[1] and free > 0 then
    redis.call('PUBLISH', 'swiftiply:' .. others[1], '')
  end
  redis.call('PEXPIRE', KEYS[4], 10000)
  return {1, #others, taken}
end
if queued then redis.call('ZREM', KEYS[4], me) end
if others[1] and free > most then
  redis.call('PUBLISH', 'swiftiply:' .. others[1], '')
end
return {0, #others, taken}";

/// Returns elements, each unless that was done already. Keys: list, in use, leases, waiting. Arguments: proxy, then the
/// member and the text of each element.
const RETURN: &str = r"
local returned = 0
for index = 2, #ARGV, 2 do
  if redis.call('ZREM', KEYS[3], ARGV[index]) == 1 and redis.call('LREM', KEYS[2], 1, ARGV[index + 1]) == 1 then
    redis.call('LPUSH', KEYS[1], ARGV[index + 1])
    returned = returned + 1
  end
end
if returned > 0 then
  for _, other in ipairs(redis.call('ZRANGE', KEYS[4], 0, returned - 1)) do
    if other ~= ARGV[1] then redis.call('PUBLISH', 'swiftiply:' .. other, '') end
  end
end
return 0";

/// Renews leases, returns expired ones and reads the lists. Keys: list, in use, leases, waiting, proxies. Arguments: proxy,
/// lease in milliseconds, milliseconds after which a silent proxy is gone, members to renew.
const RENEW: &str = r"
if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[5], now + ARGV[3], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now)
redis.call('PEXPIRE', KEYS[5], ARGV[3])
for index = 4, #ARGV do
  if redis.call('ZSCORE', KEYS[3], ARGV[index]) then
    redis.call('ZADD', KEYS[3], now + ARGV[2], ARGV[index])
  end
end
local returned = 0
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now)) do
  redis.call('ZREM', KEYS[3], member)
  local element = string.sub(member, string.find(member, ' ', 1, true) + 1)
  if redis.call('LREM', KEYS[2], 1, element) == 1 then
    redis.call('LPUSH', KEYS[1], element)
    returned = returned + 1
  end
end
if returned > 0 then
  for _, other in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
    redis.call('PUBLISH', 'swiftiply:' .. other, '')
  end
end
return {
  returned, redis.call('ZCARD', KEYS[5]), redis.call('ZCARD', KEYS[3]),
  redis.call('LRANGE', KEYS[1], 0, -1), redis.call('LRANGE', KEYS[2], 0, -1)
}";
