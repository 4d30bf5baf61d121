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
    rb"|(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])"
    rb"|(?<![0-9A-Za-z])[0-9A-Za-z]{16}(?=-\d)"
)
CHUNK = 20_000

# A word is sent in pieces, between which the digits of a copy's identifiers stand.
COPY = """
local first, last, step = ARGV[1], ARGV[2], ARGV[3]
local commands, at = {}, 4
while ARGV[at] do
  local command = {}
  for w = 1, ARGV[at] do
    at = at + 1
    local pieces = {}
    for p = 1, ARGV[at] do
      pieces[p] = ARGV[at + p]
    end
    command[w], at = pieces, at + #pieces
  end
  commands[#commands + 1], at = command, at + 1
end
for i = first, last do
  local digits = string.format('%012d', i)
  for c = 1, #commands do
    local command, words = commands[c], {}
    for w = 1, #command do
      words[w] = table.concat(command[w], digits)
    end
    if words[1] == 'ZADD' then words[3] = string.format('%.0f', words[3] + step * i) end
    redis.call(unpack(words))
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
    flat: list[Any] = []
    for words in commands:
        flat.append(len(words))
        for word in words:
            pieces = _pieces(word)
            flat += [len(pieces), *pieces]
    sha = admin.script_load(COPY)
    for first in range(1, number, CHUNK):
        last = min(first + CHUNK, number) - 1
        step = 1 if later else -1
        admin.execute_command("EVALSHA", sha, 0, first, last, step, *flat)
        if ended():
            return last + 1
    return number


def _pieces(word: bytes | str) -> list[bytes]:
    """Cut out the last twelve digits of each identifier in this word."""
    text = word.encode() if isinstance(word, str) else word
    ends = [match.end() for match in TOKEN.finditer(text)]
    starts = [0, *ends]
    return [text[start : end - 12] for start, end in zip(starts, ends, strict=False)] + [
        text[starts[-1] :]
    ]


def _tokens(*words: Any) -> list[bytes]:
    return [token for word in words if isinstance(word, bytes) for token in TOKEN.findall(word)]


def _commands(admin: Any) -> Iterator[list[Any]]:
    """The commands that store once more what is stored now."""
    for key in admin.scan_iter():
        kind = admin.type(key).decode()
        if b".producer." in key:
            continue  # of atomq, one however many messages there are
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
