#!/usr/bin/env bash
# Kombu's filesystem transport: messages that are sent one after another come in any order
#
# Guess: first in, first out, as with Kombu's other transports; at least from one producer that sends one after the other.
#
# Seen: kombu 5.7.0: a message is a file whose name begins with milliseconds and goes on at random, and the files are taken by
# name: of what one loop sends many rounds of ten come in another order. With five milliseconds between them they come as they
# were sent. On the memory transport each round is in order. So a test of an order that passes in memory fails here now and then.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  kombu==5.7.0 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, time
from kombu import Connection

folder = os.environ["DIR"] + "/messages"
os.mkdir(folder)
options = {"data_folder_in": folder, "data_folder_out": folder, "control_folder": folder + ".control"}
for url, pause in (("memory://", 0), ("filesystem://", 0), ("filesystem://", 0.005)):
    rounds = []
    with Connection(url, transport_options=options if url == "filesystem://" else {}) as connection:
        with connection.SimpleQueue("jobs") as queue:
            for _ in range(20):
                for number in range(10):
                    queue.put(number)
                    time.sleep(pause)
                got = []
                while len(got) < 10:
                    message = queue.get(timeout=5)
                    message.ack()
                    got.append(message.payload)
                rounds.append(got)
    print(url, "pause", pause, "| nothing lost:", all(sorted(got) == list(range(10)) for got in rounds),
          "| all rounds in order:", all(got == list(range(10)) for got in rounds))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
memory:// pause 0 | nothing lost: True | all rounds in order: True
filesystem:// pause 0 | nothing lost: True | all rounds in order: False
filesystem:// pause 0.005 | nothing lost: True | all rounds in order: True
EOF
