"""A backlog of a million messages: copies of one that the peer itself published.

Publishing them one by one would take some peers a quarter of an hour. What is stored for one
message is found by the identifiers in it (UUIDs, with or without dashes, and atomq's), and is
written again with others, by a script on the server. Where nothing bears one, lists and streams
are lengthened as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import redis

TOKEN = re.compile(
    rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    rb"|(?<![0-9a-f])(?:[0-9a-f]{32}|[0-9a-f]{24})(?![0-9a-f])"
)
CHUNK = 20_000

COPY = """
local first, last, step, count = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local patterns, stems = {}, {}
for t = 1, count do
  local token = ARGV[4 + t]
  patterns[t], stems[t] = string.gsub(token, '%-', '%%-'), string.sub(token, 1, -13)
end
for i = first, last do
  local digits = string.format('%012d', i)
  local at = 5 + count
  while ARGV[at] do
    local command, length = ARGV[at], ARGV[at + 1]
    local words = {}
    for w = 1, length do
      local word = ARGV[at + 1 + w]
      for t = 1, count do
        word = string.gsub(word, patterns[t], stems[t] .. digits)
      end
      words[w] = word
    end
    if command == 'ZADD' then words[2] = string.format('%.0f', words[2] + step * i) end
    redis.call(command, unpack(words))
    at = at + 2 + length
  end
end
"""


class NotStored(Exception):
    """Nothing of one message was found in the server."""


def fill(
    admin: redis.Redis, number: int, *, later: bool, ended: Callable[[], bool] = lambda: False
) -> int:
    """Add copies of the one message in the server until there are `number`; how many there are.

    `later` spreads the times they are due at into the future, else into the past. `ended` says
    that time is up.
    """
    commands = list(_commands(admin))
    named = [words for words in commands if _tokens(*words)]
    commands = named or [words for words in commands if words[0] in ("RPUSH", "XADD")]
    if not commands:
        raise NotStored("one message leaves nothing that can be copied")
    tokens = sorted({token for words in commands for token in _tokens(*words)})
    flat = [word for words in commands for word in (words[0], len(words) - 1, *words[1:])]
    sha = admin.script_load(COPY)
    for first in range(1, number, CHUNK):
        last = min(first + CHUNK, number) - 1
        step = 1 if later else -1
        admin.execute_command("EVALSHA", sha, 0, first, last, step, len(tokens), *tokens, *flat)
        if ended():
            return last + 1
    return number


def _tokens(*words: Any) -> list[bytes]:
    return [token for word in words if isinstance(word, bytes) for token in TOKEN.findall(word)]


def _commands(admin: Any) -> Iterator[list[Any]]:
    """The commands that store once more what is stored now."""
    for key in admin.scan_iter():
        kind = admin.type(key).decode()
        if kind == "list":
            yield from (["RPUSH", key, value] for value in admin.lrange(key, 0, -1))
        elif kind == "stream":
            for _, fields in admin.xrange(key):
                yield ["XADD", key, b"*", *[word for pair in fields.items() for word in pair]]
        elif kind == "zset":
            for member, score in admin.zrange(key, 0, -1, withscores=True):
                yield ["ZADD", key, repr(score).encode(), member]
        elif kind == "set":
            yield from (["SADD", key, member] for member in admin.smembers(key))
        elif kind == "hash":
            fields = admin.hgetall(key)
            if _tokens(key):
                yield ["HSET", key, *[word for pair in fields.items() for word in pair]]
            else:
                yield from (["HSET", key, *pair] for pair in fields.items() if _tokens(pair[0]))
        elif kind == "string":
            left = admin.pttl(key)
            yield ["SET", key, admin.get(key), *([b"PX", b"%d" % left] if left > 0 else [])]
